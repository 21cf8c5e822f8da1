//! The command line of `snowboot run`, and the machine that it describes.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::ArgGroup;
use snowboot_config::{
    BootConfig, BootProfile, DiskConfig, MacAddress, MachineConfig, MemorySize, NicConfig, PmemConfig,
    ShareConfig, UserNetworkConfig, ValueError, VcpuCount, VhostUserConfig,
};
use snowboot_vmm::toplevel;

use crate::kvm_device::KvmDevice;
use crate::{disk, exit, net, share, vhost_user};

/// Added to a toplevel that has no console there: without it nothing would be seen.
const CONSOLE: &str = "console=ttyS0";
/// The machine's name, as in logs.
const NAME: &str = "guest";
/// The machine's number on its VLANs.
const NODE: u8 = 1;

#[derive(Debug, clap::Args)]
#[command(after_help = after_help(), group = ArgGroup::new("boot").args(["toplevel", "toplevel_option", "kernel"]).required(true))]
pub(crate) struct Args {
    /// A NixOS toplevel: the folder that `nixos-rebuild build` links to as ./result
    #[arg(value_name = "TOPLEVEL", conflicts_with = "initrd")]
    toplevel: Option<PathBuf>,
    /// The same, as an option
    #[arg(long = "toplevel", value_name = "TOPLEVEL", conflicts_with = "initrd")]
    toplevel_option: Option<PathBuf>,
    /// Boot this specialisation of the toplevel
    #[arg(long, value_name = "NAME", conflicts_with = "kernel")]
    specialisation: Option<String>,
    /// A kernel, where there is no toplevel: a bzImage or an ELF vmlinux
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// The initial RAM disk of --kernel; repeat it for more, whose files win over those before
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Vec<PathBuf>,
    // Help with brackets is no documentation comment, where they would be links.
    #[arg(
        long,
        value_name = "TEXT",
        allow_hyphen_values = true,
        help = "The kernel's command line [default: that of --profile]; it goes after a toplevel's own"
    )]
    cmdline: Option<String>,
    #[arg(long, value_name = "NAME", value_parser = profile, help = profile_help())]
    profile: Option<BootProfile>,
    /// Guest memory, such as 512, 512M or 2G
    #[arg(short, long, value_name = "SIZE", default_value = "1024")]
    memory: MemorySize,
    /// Number of vCPUs, 1 to 32
    #[arg(short, long, value_name = "N", default_value = "1", value_parser = cpus)]
    cpus: VcpuCount,
    #[arg(
        short,
        long,
        value_name = "DISK",
        value_parser = disk::parse,
        help = "A disk image: FILE[,OPTION]..., or ,create=MIB for a temporary one; repeat it for more"
    )]
    disk: Vec<DiskConfig>,
    #[arg(
        long,
        value_name = "SHARE",
        value_parser = share::parse,
        help = "A folder of the host: TAG=FOLDER[,writable][,cache=always|auto|never][,protocol=9p]"
    )]
    share: Vec<ShareConfig>,
    /// An image that the guest reads in place, as /dev/pmem0; repeat it for /dev/pmem1 on
    #[arg(long, value_name = "FILE")]
    pmem: Vec<PathBuf>,
    #[arg(
        long,
        value_name = "DEVICE",
        value_parser = vhost_user::parse,
        help = "A device that another process serves: fs,socket=PATH,tag=TAG or blk,socket=PATH"
    )]
    vhost_user: Vec<VhostUserConfig>,
    #[arg(
        long,
        value_name = "NET",
        value_parser = net::parse,
        help = "A card that leads to the host: user[,restrict][,dns=ADDRESS][,hostfwd=tcp::8080-:80]..."
    )]
    pub(super) net: Option<UserNetworkConfig>,
    /// A network card on VLAN N (0 to 255) with nobody else there; repeat it for more
    #[arg(long, value_name = "N")]
    pub(super) vlan: Vec<u8>,
    #[command(flatten)]
    pub(super) kvm_device: KvmDevice,
    /// Unpack the kernel anew, and keep nothing of it in the user's cache folder
    #[arg(long)]
    pub(super) no_cache: bool,
    /// At the end, say why vCPUs left the guest, by port and address, and what networks carried
    #[arg(long)]
    pub(super) stats: bool,
    /// Write how the run went to FILE, as one JSON object
    #[arg(long, value_name = "FILE")]
    pub(super) report: Option<PathBuf>,
    #[command(flatten)]
    pub(super) timeline: super::timeline::TimelineArgs,
}

fn after_help() -> String {
    format!(
        "\
The guest's first serial port, ttyS0, is on the standard input and output. On a terminal, Ctrl-a begins a command:
  Ctrl-a x       stop the machine
  Ctrl-a p       press its power button
  Ctrl-a h       list these commands
  Ctrl-a Ctrl-a  send Ctrl-a to the guest
The input of a pipe or file is passed on as it is, and its end does not end the machine.

{}

{}

Examples:
  snowboot run ./result
  snowboot run ./result --memory 2G --cpus 2 --disk root.img,serial=root --cmdline systemd.log_level=debug
  snowboot run --kernel bzImage --initrd initrd --cmdline 'console=ttyS0 panic=1 init=/bin/sh'
  snowboot run --kernel bzImage --initrd initrd --profile fast
  snowboot run ./result --share nix-store=/nix/store --share shared=/tmp/shared,writable
  snowboot run ./result --net user,hostfwd=tcp::2222-:22
  snowboot run ./result --timeline --timeline-json timeline.json
  snowboot run ./result --disk data.img,create=512 --report report.json < /dev/null > console.log",
        disk::help(),
        exit::RUN_HELP
    )
}

fn profile(text: &str) -> Result<BootProfile, ValueError> {
    text.parse()
}

fn profile_help() -> String {
    let names = BootProfile::ALL.map(BootProfile::name).join(", ");
    format!("Kernel parameter profile: {names} [default: {} for --kernel alone]", BootProfile::default())
}

fn cpus(text: &str) -> Result<VcpuCount, ValueError> {
    let count: u8 = text.parse().map_err(|_| {
        ValueError(format!("`{text}` is not a number of vCPUs: choose 1 to {}", VcpuCount::MAX))
    })?;
    VcpuCount::try_from(count)
}

impl Args {
    /// The machine.
    pub(super) fn machine(&self) -> Result<MachineConfig> {
        let mut nics: Vec<NicConfig> = Vec::new();
        if self.net.is_some() {
            nics.push(NicConfig { mac: MacAddress::of_user_network(), vlan: None });
        }
        for vlan in &self.vlan {
            if nics.iter().any(|nic| nic.vlan == Some(*vlan)) {
                bail!("VLAN {vlan} is named twice; a machine has one network card on each VLAN");
            }
            nics.push(NicConfig { mac: MacAddress::of_node(*vlan, NODE), vlan: Some(*vlan) });
        }
        ShareConfig::check_all(&self.share)?;
        Ok(MachineConfig {
            name: NAME.to_owned(),
            boot: self.boot()?,
            memory: self.memory,
            vcpus: self.cpus,
            disks: self.disk.clone(),
            vhost_user: self.vhost_user.clone(),
            pmem: self.pmem.iter().cloned().map(|path| PmemConfig { path }).collect(),
            nics,
            shares: self.share.clone(),
        })
    }

    fn boot(&self) -> Result<BootConfig> {
        match (self.toplevel.as_ref().or(self.toplevel_option.as_ref()), &self.kernel) {
            (Some(folder), _) => {
                let specialisation = self.specialisation.as_deref();
                boot_of_toplevel(folder, specialisation, self.cmdline.as_deref(), self.profile)
            }
            (None, Some(kernel)) => Ok(BootConfig {
                kernel: kernel.clone(),
                initrds: self.initrd.clone(),
                cmdline: BootProfile::for_kernel(self.profile, self.cmdline.as_deref()),
            }),
            (None, None) => bail!("There is nothing to boot; name a toplevel or a --kernel"),
        }
    }
}

/// What a toplevel or one of its specialisations boots, with a console on ttyS0; `extra` goes after its own command line.
pub(crate) fn boot_of_toplevel(
    folder: &Path,
    specialisation: Option<&str>,
    extra: Option<&str>,
    profile: Option<BootProfile>,
) -> Result<BootConfig> {
    let mut boot = toplevel::read(folder, specialisation, extra)?;
    if let Some(profile) = profile {
        boot.cmdline = profile.for_toplevel(&boot.cmdline);
    }
    if !boot.cmdline.split_ascii_whitespace().any(is_console) {
        // The last one is /dev/console, where init writes.
        boot.cmdline = format!("{} {CONSOLE}", boot.cmdline);
    }
    Ok(boot)
}

/// Whether a word of a kernel's command line is our console, with or without its speed.
fn is_console(word: &str) -> bool {
    word.strip_prefix(CONSOLE).is_some_and(|rest| rest.is_empty() || rest.starts_with(','))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(words: &[&str]) -> Result<Args, clap::Error> {
        Line::try_parse_from([&["run"], words].concat()).map(|line| line.args)
    }

    #[test]
    fn a_bare_kernel_gets_the_standard_profile_unless_told_otherwise() {
        let args = parse(&["--kernel", "k", "--initrd", "i", "--vlan", "3"]).unwrap();
        let machine = args.machine().unwrap();
        assert_eq!(machine.boot.cmdline, BootProfile::Standard.cmdline());
        assert_eq!(machine.boot.initrds, [PathBuf::from("i")]);
        assert_eq!(machine.nics[0].mac.to_string(), "52:54:00:12:03:01");
        assert_eq!(machine.memory, MemorySize::DEFAULT);
        let args = parse(&["--kernel", "k", "--initrd", "i", "--initrd", "j"]).unwrap();
        assert_eq!(args.machine().unwrap().boot.initrds.len(), 2);
        let args = parse(&["--kernel", "k", "--cmdline", "-x"]).unwrap();
        assert_eq!(args.machine().unwrap().boot.cmdline, "-x");
        let args = parse(&["--kernel", "k", "--profile", "plain"]).unwrap();
        assert_eq!(args.machine().unwrap().boot.cmdline, "console=ttyS0 panic=1");
        let args = parse(&["--kernel", "k", "--profile", "fast", "--cmdline", "x"]).unwrap();
        assert_eq!(args.machine().unwrap().boot.cmdline, format!("{} x", BootProfile::Fast.cmdline()));
    }

    #[test]
    fn a_toplevel_keeps_its_command_line_and_gets_a_console_where_it_has_none() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("kernel"), "").unwrap();
        std::fs::write(folder.path().join("init"), "").unwrap();
        let cmdline = |params: &str, extra: &[&str]| {
            std::fs::write(folder.path().join("kernel-params"), params).unwrap();
            let words = [&[folder.path().to_str().unwrap()], extra].concat();
            parse(&words).unwrap().machine().unwrap().boot.cmdline
        };
        assert!(cmdline("quiet", &["--cmdline", "debug"]).ends_with("/init debug console=ttyS0"));
        assert!(cmdline("console=tty0", &[]).ends_with("/init console=ttyS0"));
        assert!(cmdline("console=ttyS01", &[]).ends_with("/init console=ttyS0"));
        for own in ["console=ttyS0", "console=ttyS0,115200n8 console=tty0"] {
            assert!(cmdline(own, &[]).ends_with("/init"), "{own}");
            assert!(cmdline(own, &[]).starts_with(own), "{own}");
        }
        assert!(cmdline("", &["--cmdline", "console=ttyS0,9600"]).ends_with("/init console=ttyS0,9600"));
        let named = cmdline("a=1", &["--profile", "fast", "--cmdline", "mitigations=auto"]);
        assert!(named.contains(" init_on_alloc=0 a=1 init=/"), "{named}");
        assert!(named.ends_with("/init mitigations=auto console=ttyS0"), "{named}");
        assert!(!named.contains("mitigations=off"), "{named}");
    }

    #[test]
    fn a_specialisation_of_a_toplevel_can_be_chosen() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("specialisation/debug");
        std::fs::create_dir_all(&own).unwrap();
        for name in ["kernel", "init", "kernel-params"] {
            std::fs::write(own.join(name), "").unwrap();
        }
        let boot = |name: &str| {
            let args = parse(&[folder.path().to_str().unwrap(), "--specialisation", name]).unwrap();
            args.machine().map(|machine| machine.boot)
        };
        assert!(boot("debug").unwrap().kernel.ends_with("specialisation/debug/kernel"));
        let own = parse(&["--toplevel", own.to_str().unwrap()]).unwrap().machine().unwrap().boot;
        assert_eq!(own.kernel, boot("debug").unwrap().kernel);
        assert!(boot("other").unwrap_err().to_string().contains("those that it has: debug"));
    }

    #[test]
    fn the_card_of_the_user_network_is_the_first_one() {
        let words = ["--kernel", "k", "--vlan", "3", "--net", "user"];
        let nics = parse(&words).unwrap().machine().unwrap().nics;
        let macs: Vec<String> = nics.iter().map(|nic| nic.mac.to_string()).collect();
        assert_eq!(macs, ["52:54:00:12:34:56", "52:54:00:12:03:01"]);
    }

    #[test]
    fn what_excludes_each_other_is_refused() {
        for words in [
            &["t", "--kernel", "k"][..],
            &["t", "--initrd", "i"],
            &["--initrd", "i"],
            &[],
            &["--kernel", "k", "--specialisation", "s"],
            &["t", "--toplevel", "t"],
            &["--toplevel", "t", "--kernel", "k"],
            &["t", "--cpus", "0"],
            &["t", "--cpus", "33"],
            &["t", "--memory", "1M"],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
        let twice = parse(&["--kernel", "k", "--vlan", "1", "--vlan", "1"]).unwrap();
        assert!(twice.machine().unwrap_err().to_string().contains("VLAN 1 is named twice"));
    }
}
