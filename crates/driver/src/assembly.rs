//! What machines of this host are made with, whoever makes them: the KVM device, unpacked kernels, store images, and what was
//! written to temporary disks.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use snowboot_config::{
    BootConfig, BootProfile, DiskConfig, FlushPolicy, MacAddress, MachineConfig, NicConfig, NodeConfig,
    PmemConfig, StoreDevice,
};
use snowboot_store::Images;
use snowboot_vmm::{Builder, KernelCache, Machine, TemporaryDisks, toplevel};

use crate::vm::BoxError;

/// The serial number of a store's disk. Guests find stores by the label of their file system, which is the same.
const STORE_SERIAL: &str = "nix-store";

/// Makes machines of their descriptions.
#[derive(Debug)]
pub struct Workshop {
    kvm_device: PathBuf,
    kernels: Arc<KernelCache>,
    stores: Images,
    temporary_disks: TemporaryDisks,
}

impl Workshop {
    /// With this KVM device (`/dev/kvm` as a rule).
    #[must_use]
    pub fn new(kvm_device: impl Into<PathBuf>) -> Self {
        Self {
            kvm_device: kvm_device.into(),
            kernels: Arc::new(KernelCache::from_environment()),
            stores: Images::from_environment(),
            temporary_disks: TemporaryDisks::default(),
        }
    }

    /// Builds the machine `name` with the node number `number`. `connect` gives it what is its maker's: consoles, and a
    /// port for each network card, that of the user network first.
    ///
    /// # Errors
    /// When it cannot be built: a missing kernel, an unreadable disk, no KVM.
    pub fn build(
        &self,
        name: &str,
        number: u8,
        node: &NodeConfig,
        connect: impl FnOnce(Builder) -> Result<Builder, BoxError>,
    ) -> Result<Machine, BoxError> {
        let mut config = machine_config(name, number, node)?;
        let image = node.store.as_ref().map(|store| self.stores.get(&store.source)).transpose()?;
        if let (Some(store), Some(image)) = (&node.store, &image) {
            attach_store(&mut config, store.device, image.path());
        }
        let builder = Builder::new(config)
            .kvm_device(&self.kvm_device)
            .kernel_cache(self.kernels.clone())
            .temporary_disks(self.temporary_disks.clone());
        Ok(connect(builder)?.build()?)
    }
}

/// As NixOS test machines have it: right behind the root disk, before all others.
fn attach_store(config: &mut MachineConfig, device: StoreDevice, image: &Path) {
    let path = image.to_owned();
    match device {
        StoreDevice::Pmem => config.pmem.insert(0, PmemConfig { path }),
        StoreDevice::Disk => {
            let serial = Some(STORE_SERIAL.to_owned());
            let disk = DiskConfig { read_only: true, serial, ..DiskConfig::of_image(path) };
            config.disks.insert(config.disks.len().min(1), disk);
        }
    }
}

fn machine_config(name: &str, number: u8, node: &NodeConfig) -> Result<MachineConfig, BoxError> {
    let boot = match (&node.toplevel, &node.kernel) {
        (Some(folder), _) => {
            let mut boot = toplevel::read(folder, node.specialisation.as_deref(), node.cmdline.as_deref())?;
            if let Some(profile) = node.profile {
                boot.cmdline = profile.for_toplevel(&boot.cmdline);
            }
            boot
        }
        (None, Some(kernel)) => BootConfig {
            kernel: kernel.clone(),
            initrds: node.initrds.clone(),
            cmdline: BootProfile::for_kernel(node.profile, node.cmdline.as_deref()),
        },
        (None, None) => return Err("it has neither a toplevel nor a kernel".into()),
    };
    // As on NixOS test machines: eth0, before those of the VLANs.
    let user = node.user_network.as_ref();
    let user = user.map(|_| NicConfig { mac: MacAddress::of_user_network(), vlan: None });
    let nic = |vlan: &u8| NicConfig { mac: MacAddress::of_node(*vlan, number), vlan: Some(*vlan) };
    Ok(MachineConfig {
        name: name.to_owned(),
        boot,
        memory: node.memory,
        vcpus: node.vcpus,
        disks: node.disks.iter().map(disk_config).collect(),
        pmem: node.pmem.clone(),
        vhost_user: node.vhost_user.clone(),
        nics: user.into_iter().chain(node.vlans.iter().map(nic)).collect(),
        shares: node.shares.clone(),
    })
}

/// The guest of a test has its power cut by the test, not by a failure of the host: unless somebody asks for more, what it
/// flushes is kept by the host's kernel.
fn disk_config(disk: &DiskConfig) -> DiskConfig {
    DiskConfig { flush: disk.flush.or(Some(FlushPolicy::Never)), ..disk.clone() }
}

#[cfg(test)]
mod tests {
    use snowboot_config::BootProfile;

    use super::*;

    fn cmdline(text: &str) -> String {
        let node = NodeConfig::parse("m", Path::new("/m.toml"), text).unwrap();
        machine_config("m", 1, &node).unwrap().boot.cmdline
    }

    #[test]
    fn a_bare_kernel_gets_the_standard_profile_or_what_the_manifest_says() {
        assert_eq!(cmdline("kernel = 'k'"), BootProfile::Standard.cmdline());
        assert_eq!(cmdline("kernel = 'k'\ncmdline = 'x'"), "x");
        assert_eq!(cmdline("kernel = 'k'\nprofile = 'plain'\ncmdline = 'x'"), "console=ttyS0 panic=1 x");
    }

    #[test]
    fn the_card_of_the_user_network_comes_before_those_of_vlans() {
        let nics = |text: &str| {
            let node = NodeConfig::parse("m", Path::new("/m.toml"), text).unwrap();
            machine_config("m", 1, &node).unwrap().nics.into_iter().map(|nic| (nic.mac.to_string(), nic.vlan))
        };
        let vlan = ("52:54:00:12:03:01".to_owned(), Some(3));
        assert!(nics("kernel = 'k'\nvlans = [3]").eq([vlan.clone()]));
        let user = ("52:54:00:12:34:56".to_owned(), None);
        assert!(nics("kernel = 'k'\nvlans = [3]\nuser-network = true").eq([user, vlan]));
    }

    #[test]
    fn disks_of_tests_do_not_wait_for_the_host_unless_they_are_told_to() {
        let text = "kernel = 'k'\nempty-disks = [1]\ndisks = [{ path = 'd', flush = 'always' }]";
        let node = NodeConfig::parse("m", Path::new("/m.toml"), text).unwrap();
        let flush: Vec<_> =
            machine_config("m", 1, &node).unwrap().disks.into_iter().map(|disk| disk.flush).collect();
        assert_eq!(flush, [Some(FlushPolicy::Always), Some(FlushPolicy::Never)]);
    }

    #[test]
    fn a_store_is_the_second_disk_or_the_first_persistent_memory() {
        let text = "kernel = 'k'\npmem = [{ path = 'p' }]\ndisks = [{ path = 'a' }, { path = 'b' }]";
        let node = NodeConfig::parse("m", Path::new("/m.toml"), text).unwrap();
        let mut config = machine_config("m", 1, &node).unwrap();
        let image = Path::new("/image");
        attach_store(&mut config, StoreDevice::Disk, image);
        let disks: Vec<_> = config.disks.iter().map(|disk| disk.path.clone().unwrap()).collect();
        assert_eq!(disks, ["/a", "/image", "/b"].map(PathBuf::from));
        assert!(config.disks[1].read_only);
        attach_store(&mut config, StoreDevice::Pmem, image);
        assert_eq!(config.pmem[0].path, image);
        config.disks.clear();
        attach_store(&mut config, StoreDevice::Disk, image);
        assert_eq!(config.disks.len(), 1);
    }

    #[test]
    fn a_toplevel_gets_only_a_profile_that_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("kernel", "k"), ("kernel-params", "mitigations=auto loglevel=4"), ("init", "")]
        {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let toplevel = format!("toplevel = '{}'\ncmdline = 'x'\n", folder.path().display());
        let own = cmdline(&toplevel);
        assert!(own.starts_with("mitigations=auto loglevel=4 init=") && own.ends_with("/init x"), "{own}");
        let fast = cmdline(&format!("{toplevel}profile = 'fast'"));
        assert_eq!(fast, BootProfile::Fast.for_toplevel(&own));
        assert!(fast.len() > own.len() && fast.ends_with(&own), "{fast}");
    }
}
