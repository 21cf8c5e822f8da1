//! Why a machine cannot be built or run, for whoever asked for it.

use std::io;
use std::path::PathBuf;

/// What went wrong on the host's side. The text is one line that names the thing and says what to do; the cause, where
/// there is one, is the source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The KVM device is not there, or not for us.
    #[error("Cannot use {path}: {why}", path = path.display())]
    KvmDevice {
        /// The device.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// KVM refused an operation.
    #[error("KVM refused to {what}{advice}", advice = advice(source))]
    Kvm {
        /// The operation, as a verb phrase.
        what: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The host refused an operation.
    #[error("Cannot {what}{advice}", advice = advice(source))]
    Host {
        /// The operation, as a verb phrase.
        what: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("Cannot read the {kind} {path}: {why}", path = path.display())]
    File {
        /// What the file is to the machine: kernel, initrd, toplevel ...
        kind: &'static str,
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// A disk cannot be attached.
    #[error("{0}")]
    Disk(String),
    /// A folder cannot be shared.
    #[error(transparent)]
    Share(snowboot_share::ShareError),
    /// The configuration asks for what cannot be.
    #[error("{0}")]
    Config(String),
    /// The machine is not in a state for this.
    #[error("Cannot {what}: the machine {state}")]
    State {
        /// What was asked.
        what: &'static str,
        /// The state that it is in.
        state: &'static str,
    },
}

/// What helps against an error, as far as its number tells.
fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE) => "; this process has too many open files: raise its limit (`ulimit -n`)",
        Some(libc::ENFILE) => "; the host has too many open files: end some, or raise fs.file-max",
        Some(libc::ENOMEM) => "; the host has too little memory: end something, or make machines smaller",
        Some(libc::EBUSY) => "; another hypervisor may hold the CPU's virtualization: end it",
        _ => "",
    }
}

impl Error {
    pub(crate) fn kvm(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |error| Self::Kvm { what, source: io::Error::from_raw_os_error(error.errno()) }
    }

    pub(crate) fn host<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |error| Self::Host { what: what.into(), source: error.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_to_help_is_said() {
        let refused = |errno| Error::Kvm { what: "create a VM", source: io::Error::from_raw_os_error(errno) };
        assert_eq!(refused(libc::EINVAL).to_string(), "KVM refused to create a VM");
        assert!(refused(libc::EMFILE).to_string().contains("ulimit -n"));
        assert!(refused(libc::EBUSY).to_string().contains("another hypervisor"));
    }
}
