//! Waiting for sockets in a guest.
//!
//! Whether something listens is what `nc -z` says, or where there is none bash's own `/dev/tcp`. For addresses of the
//! guest itself the kernel's list of sockets tells when it is worth asking, so that the wait is inside the guest.

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::diagnosis;
use crate::error::Error;
use crate::machine::{Execute, MachineHandle, Reply};
use crate::shell::quote;
use crate::watch::{LEAST_LOOK, Slice};

/// The exit status of a shell that finds no such program (POSIX, Shell Command Language, 2.8.2).
const NOT_FOUND: i32 = 127;

/// The exit status of coreutils' `timeout` when the time is up.
const TIMED_OUT: i32 = 124;

/// How long the guest waits by itself in one command. The kernel's list does not show everything that can be connected to
/// (redirections of its firewall), so `nc` is asked that often anyway.
const SLICE: Duration = Duration::from_millis(400);

/// How long the first attempt may take where packets may get lost without a word; later ones get longer. A connection to
/// a machine that throws packets away fails only after minutes.
const FIRST_ATTEMPT: Duration = Duration::from_secs(2);

/// The longest attempt. Linux repeats a lost SYN after 1, 3, 7, 15 and 31 s.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(32);

/// How long an attempt takes after which a port that does not answer counts as closed.
const SILENCE: Duration = Duration::from_secs(10);

/// What is waited for at a socket.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Open,
    Closed,
}

impl MachineHandle {
    /// Waits until something listens on a TCP port.
    ///
    /// # Errors
    /// When the time is up, or the machine is in trouble.
    pub fn wait_for_open_port(&self, port: u16, address: &str, timeout: Duration) -> Result<(), Error> {
        let _block = self.nested(&format!("waiting for TCP port {port} on {address}"));
        self.wait_for_port(port, address, timeout, Wanted::Open)
    }

    /// Waits until nothing listens on a TCP port. One that gives no answer for 10 s counts as closed.
    ///
    /// # Errors
    /// When the time is up, or the machine is in trouble.
    pub fn wait_for_closed_port(&self, port: u16, address: &str, timeout: Duration) -> Result<(), Error> {
        let _block = self.nested(&format!("waiting for TCP port {port} on {address} to close"));
        self.wait_for_port(port, address, timeout, Wanted::Closed)
    }

    /// Waits until something listens on a Unix socket, or has bound it when it is one for datagrams. The name goes to the
    /// guest's shell as it is.
    ///
    /// # Errors
    /// When the time is up, the guest has no netcat, or the machine is in trouble.
    pub fn wait_for_open_unix_socket(
        &self,
        address: &str,
        is_datagram: bool,
        timeout: Duration,
    ) -> Result<(), Error> {
        let kind = if is_datagram { "datagram" } else { "stream" };
        let _block = self.nested(&format!("waiting for Unix {kind} socket on '{address}'"));
        let flags = if is_datagram { "-uU" } else { "-U" };
        // Before there is a file, netcat would only complain on the console.
        let good = format!(
            "hash nc 2>/dev/null || exit {NOT_FOUND}; [ -S {address} ] || return 1; s=0; nc -z {flags} {address} || s=$?; \
             [ $s != {NOT_FOUND} ] || exit {NOT_FOUND}; [ $s = 0 ]"
        );
        let hint = format!("[ -S {address} ]");
        let mut slice = Slice::new(SLICE);
        let looked = self.watch(timeout, |look| {
            let began = Instant::now();
            let limit = Some(SILENCE.min(timeout.max(LEAST_LOOK)).saturating_add(SLICE));
            let reply = self.execute(&slice.command(&good, &hint, look.left), Execute::limited(limit))?;
            slice.learn(&reply, began.elapsed(), look);
            Ok(told(reply))
        })?;
        match looked {
            Ok(reply) if reply.status == NOT_FOUND => {
                Err(self.without_netcat(&format!("Unix socket `{address}`")))
            }
            Ok(_) => Ok(()),
            Err(missed) => {
                let message =
                    format!("the Unix {kind} socket `{address}` did not open {}", missed.within(""));
                Err(self.check_failed_after_asking(&message, &diagnosis::of_unix_socket(address)))
            }
        }
    }

    fn wait_for_port(
        &self,
        port: u16,
        address: &str,
        timeout: Duration,
        wanted: Wanted,
    ) -> Result<(), Error> {
        let is_local = is_local(address);
        let mut slice = Slice::new(SLICE);
        let mut attempt = if wanted == Wanted::Open { FIRST_ATTEMPT } else { SILENCE };
        let looked = self.watch(timeout, |look| {
            let command = port_command(port, address, wanted, is_local.then_some((&slice, look.left)));
            let is_cut = look.left.max(LEAST_LOOK) <= attempt;
            let limit = attempt.min(look.left.max(LEAST_LOOK));
            let paused = if is_local { SLICE } else { Duration::ZERO };
            let began = Instant::now();
            let reply = self.execute(&command, Execute::limited(Some(limit.saturating_add(paused))))?;
            if reply.status == TIMED_OUT {
                if wanted == Wanted::Closed && !is_cut {
                    return Ok(ControlFlow::Break(reply));
                }
                // No answer for what was left of the time: another look would only take longer.
                look.is_last |= is_cut;
                attempt = attempt.saturating_mul(2).min(LONGEST_ATTEMPT);
            }
            slice.learn(&reply, began.elapsed(), look);
            Ok(told(reply))
        })?;
        match looked {
            Ok(reply) if reply.status == NOT_FOUND => {
                Err(self.without_netcat(&format!("TCP port {port} on {address}")))
            }
            Ok(_) => Ok(()),
            Err(missed) => {
                let verb = if wanted == Wanted::Open { "open" } else { "close" };
                let silent = if missed.last == TIMED_OUT { "it gave no answer at all, " } else { "" };
                let message =
                    format!("TCP port {port} on {address} did not {verb} {}", missed.within(silent));
                Err(self.check_failed_after_asking(&message, &diagnosis::of_ports()))
            }
        }
    }

    fn without_netcat(&self, what: &str) -> Error {
        let message = format!(
            "{what} cannot be probed: the guest has no `nc` in its PATH (exit code {NOT_FOUND}); put a netcat into its \
             image"
        );
        self.check_failed(&message, None, None)
    }
}

/// Whether a look has told all that there is to know.
fn told(reply: Reply) -> ControlFlow<Reply, i32> {
    match reply.status {
        0 | NOT_FOUND => ControlFlow::Break(reply),
        status => ControlFlow::Continue(status),
    }
}

/// Whether the sockets of this address are in the guest's own list. Names but the one are not asked for: what they stand
/// for is the guest's to say.
fn is_local(address: &str) -> bool {
    address == "localhost" || address.parse().is_ok_and(|ip: IpAddr| ip.is_loopback() || ip.is_unspecified())
}

/// Bash that waits for a TCP port for a slice, or looks once.
fn port_command(port: u16, address: &str, wanted: Wanted, slice: Option<(&Slice, Duration)>) -> String {
    let address = quote(address);
    // A bash that was built without such redirections looks for a file.
    let connect = format!(
        "c() {{ if hash nc 2>/dev/null; then nc -z {address} {port}; return; fi; local e; \
         e=$( (exec 3<>/dev/tcp/{address}/{port}) 2>&1) && return; [[ $e != *'No such file'* ]] || return {NOT_FOUND}; \
         return 1; }}; s=0; c || s=$?; [ $s != {NOT_FOUND} ] || exit {NOT_FOUND}"
    );
    // `/proc/net/tcp`: local address, remote address, state; the latter is 0A for one that listens.
    let listens = format!(
        "local t u=(); mapfile -t t </proc/net/tcp; [ ! -r /proc/net/tcp6 ] || mapfile -t u </proc/net/tcp6; \
         [[ \"${{t[*]-}} ${{u[*]-}}\" =~ :{port:04X}\\ 0+:0000\\ 0A\\  ]]"
    );
    let (good, hint) = match wanted {
        Wanted::Open => (format!("{connect}; [ $s = 0 ]"), listens),
        Wanted::Closed => (format!("{connect}; [ $s != 0 ]"), format!("l() {{ {listens}; }}; ! l")),
    };
    match slice {
        Some((slice, left)) => slice.command(&good, &hint, left),
        None => good,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_guest_itself_are_in_its_list() {
        assert!(["localhost", "127.0.0.1", "127.1.2.3", "::1", "0.0.0.0"].into_iter().all(is_local));
        assert!(!["server", "192.168.1.1", "2001:db8:1::1", ""].into_iter().any(is_local));
    }
}
