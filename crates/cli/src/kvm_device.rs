//! The option that names the KVM device.

use std::path::{Path, PathBuf};

use snowboot_vmm::host;

/// The environment's name for the KVM device; the test runner reads it too.
pub(crate) const VARIABLE: &str = "SNOWBOOT_KVM_DEVICE";

#[derive(Debug, clap::Args)]
pub(crate) struct KvmDevice {
    /// Use another KVM device than /dev/kvm
    #[arg(id = "kvm_device", long = "kvm-device", value_name = "PATH", env = VARIABLE, hide_env_values = true)]
    given: Option<PathBuf>,
}

impl KvmDevice {
    /// The device to use.
    pub(crate) fn path(&self) -> PathBuf {
        self.named().unwrap_or(Path::new(host::KVM_DEVICE)).to_owned()
    }

    /// The device that was named; a variable that is set to nothing names none.
    pub(crate) fn named(&self) -> Option<&Path> {
        self.given.as_deref().filter(|path| !path.as_os_str().is_empty())
    }
}
