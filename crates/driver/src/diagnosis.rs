//! What a guest is asked when a wait has failed, so that the error shows what was there instead.

use std::time::Duration;

use crate::error::Error;
use crate::machine::MachineHandle;

/// The guest's limit for such a question.
const LIMIT: Duration = Duration::from_secs(10);

/// How much longer the host waits. A guest that does not answer in this time has been told of enough by the first error.
const GRACE: Duration = Duration::from_secs(5);

/// Bytes of the answer, cut in the guest: as much as an error shows.
const SHOWN: usize = 8 * 1024;

impl MachineHandle {
    /// A check failed; `question` is bash whose output tells what was last seen. That it goes unanswered hides nothing:
    /// the error is then the failed check alone, and says so.
    pub(crate) fn check_failed_after_asking(&self, message: &str, question: &str) -> Error {
        let command = format!("set +euo pipefail; {{ {question}\n}} 2>&1 </dev/null | head -c {SHOWN}");
        match self.ask(&command, LIMIT, GRACE) {
            Ok(answer) => self.check_failed_showing(message, answer),
            Err(error) if error.failure().is_some() => {
                let why = error.failure().map(|failure| failure.message.as_str()).unwrap_or_default();
                self.check_failed(&format!("{message}; what was last seen cannot be told: {why}"), None, None)
            }
            // An interrupt or the global time limit.
            Err(error) => error,
        }
    }
}

/// Tells what is in the folder nearest to a file, whose name may be a pattern.
pub(crate) fn of_file(file: &str) -> String {
    format!(
        "for f in {file}\ndo break; done; d=$f; until [ -d \"$d\" ]; do case $d in */*) d=${{d%/*}};; *) d=.;; esac; \
         d=${{d:-/}}; done; echo \"the nearest folder is $d:\"; ls -lA -- \"$d\" | head -n 40"
    )
}

/// Tells which TCP sockets listen.
pub(crate) fn of_ports() -> String {
    // Without ss, from the kernel: state 0A is LISTEN, and the port is the last word's end in hexadecimal digits.
    "echo 'listening TCP sockets:'; if hash ss 2>/dev/null; then ss -Hltn | head -n 60; else cat /proc/net/tcp \
     /proc/net/tcp6 2>/dev/null | while read -r _ local _ state _; do if [ \"$state\" = 0A ]; then echo \
     \"${local%:*} port $((0x${local##*:}))\"; fi; done | head -n 60; fi"
        .to_owned()
}

/// Tells of a Unix socket and of those that there are.
pub(crate) fn of_unix_socket(address: &str) -> String {
    format!(
        "ls -ld -- {address}\necho 'listening and bound Unix sockets:'; while read -r _ _ _ flags _ state _ path; do \
         [ -z \"$path\" ] || [ \"$flags\" = Flags ] || case $flags in 00010000) echo \"listening $path\";; *) echo \
         \"bound     $path\";; esac; done </proc/net/unix | sort -u | head -n 80"
    )
}
