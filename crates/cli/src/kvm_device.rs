//! The option that names the KVM device.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::builder::{OsStringValueParser, TypedValueParser};
use snowboot_vmm::host;

/// The environment's name for the KVM device; the test runner reads it too.
pub(crate) const VARIABLE: &str = "SNOWBOOT_KVM_DEVICE";
/// What the Python package, in a build for its own tests, takes for shells of this host in the place of guests.
const STAND_IN: &str = "fake";

#[derive(Debug, clap::Args)]
pub(crate) struct KvmDevice {
    /// Use another KVM device than /dev/kvm
    // The parser for paths would refuse a variable that is set to nothing.
    #[arg(
        id = "kvm_device",
        long = "kvm-device",
        value_name = "PATH",
        env = VARIABLE,
        hide_env_values = true,
        value_parser = OsStringValueParser::new().map(PathBuf::from)
    )]
    given: Option<PathBuf>,
}

impl KvmDevice {
    /// The device to use.
    pub(crate) fn path(&self) -> PathBuf {
        self.named().unwrap_or(Path::new(host::KVM_DEVICE)).to_owned()
    }

    /// Finds out now whether machines can run on it.
    pub(crate) fn check(&self) -> Result<()> {
        // The tests of the Python package have a stand-in for machines; no device is looked for under that name.
        if self.named() != Some(Path::new(STAND_IN)) {
            host::check_kvm(&self.path()).device?;
        }
        Ok(())
    }

    /// The device that was named; a variable that is set to nothing names none.
    pub(crate) fn named(&self) -> Option<&Path> {
        self.given.as_deref().filter(|path| !path.as_os_str().is_empty())
    }
}
