//! Shares: folders of the host, each a device of its machine.

use snowboot_config::{ShareCache, ShareConfig, ShareProtocol};
use snowboot_devices::fs::{FileSystem, Tag};
use snowboot_devices::ninep::{MountTag, NineP};
use snowboot_devices::warnings::Warnings;
use snowboot_share::fuse::{Cache, Server};
use snowboot_share::{Tree, TreeOptions, ninep};

use super::platform::{Platform, Thread};
use crate::Error;

pub(super) fn attach(
    platform: &mut Platform,
    shares: &[ShareConfig],
    warnings: &Warnings,
) -> Result<(), Error> {
    ShareConfig::check_all(shares).map_err(|error| Error::Config(error.to_string()))?;
    for config in shares {
        let warnings = warnings.about(&format!("share {} ({})", config.tag, config.path.display()));
        match config.protocol {
            ShareProtocol::Virtiofs => attach_virtio_fs(platform, config, warnings)?,
            ShareProtocol::NineP => attach_ninep(platform, config, warnings)?,
        }
    }
    Ok(())
}

fn attach_virtio_fs(platform: &mut Platform, config: &ShareConfig, warnings: Warnings) -> Result<(), Error> {
    let tag = Tag::try_from(config.tag.as_str()).map_err(|error| Error::Config(error.to_string()))?;
    let server = Server::new(open(config)?, cache(config.cache));
    let device = FileSystem::new(tag, server).map_err(Error::host("set up a share"))?;
    platform.add_virtio(Box::new(device.warn(warnings)), Thread::Own("share"))
}

fn attach_ninep(platform: &mut Platform, config: &ShareConfig, warnings: Warnings) -> Result<(), Error> {
    let tag = MountTag::try_from(config.tag.as_str()).map_err(|error| Error::Config(error.to_string()))?;
    let server = ninep::Server::new(open(config)?);
    platform.add_virtio(Box::new(NineP::new(tag, server).warn(warnings)), Thread::Own("share"))
}

fn open(config: &ShareConfig) -> Result<Tree, Error> {
    Tree::open(&config.path, TreeOptions { writable: config.writable }).map_err(Error::Share)
}

fn cache(policy: ShareCache) -> Cache {
    match policy {
        ShareCache::Always => Cache::Always,
        ShareCache::Auto => Cache::Auto,
        ShareCache::Never => Cache::Never,
    }
}
