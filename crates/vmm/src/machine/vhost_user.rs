//! Devices that other processes serve.

use std::os::unix::net::UnixStream;

use snowboot_bus::GuestMemory;
use snowboot_config::{MachineConfig, VhostUserConfig, VhostUserDevice};
use snowboot_devices::vhost_user::{Kind, VhostUser};

use super::platform::{Platform, Thread};
use crate::Error;
use crate::memory::Sharing;

/// Back ends have guest memory mapped themselves.
pub(super) fn sharing(config: &MachineConfig) -> Sharing {
    if config.vhost_user.is_empty() { Sharing::Private } else { Sharing::WithProcesses }
}

/// Connects to the back ends and adds their devices.
pub(super) fn attach(
    platform: &mut Platform,
    memory: &GuestMemory,
    devices: &[VhostUserConfig],
) -> Result<(), Error> {
    for config in devices {
        let name = config.socket.display().to_string();
        let refused = |why: &dyn std::fmt::Display| {
            Error::Config(format!("Cannot use the vhost-user back end at {name}: {why}"))
        };
        let stream = UnixStream::connect(&config.socket)
            .map_err(|error| refused(&format!("{error}; start it before each start of the machine")))?;
        let kind = match &config.device {
            VhostUserDevice::Fs { tag } => Kind::Fs { tag: tag.clone() },
            VhostUserDevice::Blk => Kind::Block,
        };
        let device = VhostUser::new(stream, &kind, memory.clone(), &name).map_err(|error| refused(&error))?;
        // It waits for its back end's answers.
        platform.add_virtio(Box::new(device), Thread::Own("vhost"))?;
    }
    Ok(())
}
