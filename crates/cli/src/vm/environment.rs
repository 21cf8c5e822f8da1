//! What a start script finds in its environment.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use snowboot_config::{DiskConfig, NodeConfig};
use tempfile::TempDir;

use crate::{net, say};

/// The serial number of a NixOS machine's root disk.
const ROOT: &str = "root";

/// Gives a variable's value.
type Variables = Box<dyn Fn(&str) -> Option<OsString>>;

pub(super) struct Environment {
    variable: Variables,
    options: Vec<String>,
    /// Where relative paths begin.
    current: PathBuf,
}

/// The machine's own folder.
pub(super) enum State {
    /// The test driver's, which outlives the machine.
    Given(PathBuf),
    /// Of this start alone.
    Own(TempDir),
}

impl State {
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Given(path) => path,
            Self::Own(folder) => folder.path(),
        }
    }
}

impl Environment {
    pub(super) fn read() -> Result<Self> {
        let current = std::env::current_dir().context("There is no current folder")?;
        Self::of(|name| std::env::var_os(name), current)
    }

    fn of(variable: impl Fn(&str) -> Option<OsString> + 'static, current: PathBuf) -> Result<Self> {
        let variable = move |name: &str| variable(name).filter(|value| !value.is_empty());
        let mut environment = Self { variable: Box::new(variable), options: Vec::new(), current };
        // As the start script of QEMU has it: words without quotes.
        let options = environment.text("QEMU_OPTS")?.unwrap_or_default();
        environment.options = options.split_whitespace().map(str::to_owned).collect();
        Ok(environment)
    }

    fn get(&self, name: &str) -> Option<OsString> {
        (self.variable)(name)
    }

    fn text(&self, name: &str) -> Result<Option<String>> {
        let value = self.get(name).map(OsString::into_string).transpose();
        value.map_err(|value| anyhow!("{name} is not Unicode: {}", value.display()))
    }

    /// The options in `QEMU_OPTS`.
    pub(super) fn options(&self) -> impl Iterator<Item = &str> {
        self.options.iter().map(String::as_str)
    }

    /// The machine's own folder: `TMPDIR` where `USE_TMPDIR` says so, or a new one.
    pub(super) fn state(&self) -> Result<State> {
        match self.get("TMPDIR").filter(|_| self.get("USE_TMPDIR").is_some()) {
            Some(folder) => Ok(State::Given(self.current.join(folder))),
            None => {
                let folder = tempfile::Builder::new().prefix("snowboot-vm-").tempdir();
                Ok(State::Own(folder.context("Cannot make a folder for the machine")?))
            }
        }
    }

    /// The folder for all machines; a machine that is alone has it in its own.
    pub(super) fn shared(&self, state: &Path) -> PathBuf {
        self.get("SHARED_DIR").map_or_else(|| state.join("xchg"), |folder| self.current.join(folder))
    }

    /// The variable that names the switch of a VLAN.
    pub(super) fn vde_variable(vlan: u8) -> String {
        format!("QEMU_VDE_SOCKET_{vlan}")
    }

    pub(super) fn vde_switch(&self, vlan: u8) -> Option<PathBuf> {
        self.get(&Self::vde_variable(vlan)).map(|folder| self.current.join(folder))
    }

    /// Puts into a machine's description what the environment says of it. `state` is its own folder.
    pub(super) fn apply(&self, name: &str, node: &mut NodeConfig, state: &Path) -> Result<()> {
        let variable = kernel_variable(name);
        if let Some(kernel) = self.get(&variable) {
            if node.kernel.is_none() {
                bail!("{variable} is set, and the machine has a toplevel, whose kernel it is");
            }
            node.kernel = Some(kernel.into());
        }
        if let Some(parameters) = self.text("QEMU_KERNEL_PARAMS")? {
            let own = node.cmdline.take().unwrap_or_default();
            node.cmdline = Some(format!("{own} {parameters}").trim().to_owned());
        }
        self.apply_net_options(node)?;
        self.keep_disks(name, node, state);
        Ok(())
    }

    /// `QEMU_NET_OPTS`: options of the user network, as `-netdev user` has them.
    fn apply_net_options(&self, node: &mut NodeConfig) -> Result<()> {
        let Some(options) = self.text("QEMU_NET_OPTS")? else { return Ok(()) };
        let more = net::parse(&format!("user,{options}"))
            .map_err(|error| anyhow!("QEMU_NET_OPTS cannot be honoured: {error}"))?;
        match &mut node.user_network {
            Some(network) => {
                network.restrict |= more.restrict;
                network.dns = more.dns.or(network.dns);
                network.forward_ports.extend(more.forward_ports);
            }
            None => {
                say::line("snowboot: warning: QEMU_NET_OPTS is of no use: the machine has no user network")
            }
        }
        Ok(())
    }

    /// Disks that last for a run are files in the machine's folder, since each start of the machine is a process of its own.
    /// They have the names that QEMU's start script gives them, which test scripts know.
    fn keep_disks(&self, name: &str, node: &mut NodeConfig, state: &Path) {
        let image = self.get("NIX_DISK_IMAGE").map(|image| self.current.join(image));
        let mut empty: u32 = 0;
        for disk in &mut node.disks {
            let is_root = disk.serial.as_deref() == Some(ROOT);
            match (&image, is_root) {
                (Some(image), true) => put_at(disk, image.clone()),
                _ if disk.path.is_some() || disk.memory => {}
                (None, true) => put_at(disk, state.join(format!("{name}.qcow2"))),
                (_, false) => {
                    put_at(disk, state.join(format!("empty{empty}.qcow2")));
                    empty = empty.saturating_add(1);
                }
            }
        }
        if image.is_some() && !node.disks.iter().any(|disk| disk.serial.as_deref() == Some(ROOT)) {
            say::line(
                "snowboot: warning: NIX_DISK_IMAGE is of no use: the machine has no disk with the serial `root`",
            );
        }
    }
}

/// As NixOS has it: a name's characters that no variable can have are `_` there.
fn kernel_variable(name: &str) -> String {
    let name = name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "_");
    format!("NIXPKGS_QEMU_KERNEL_{name}")
}

fn put_at(disk: &mut DiskConfig, path: PathBuf) {
    disk.path = Some(path);
    disk.snapshot = false;
    disk.memory = false;
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        let variables: HashMap<String, OsString> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
        Environment::of(move |name| variables.get(name).cloned(), PathBuf::from("/here")).unwrap()
    }

    fn applied(text: &str, variables: &[(&str, &str)]) -> Result<NodeConfig> {
        let mut node = NodeConfig::parse("m", Path::new("/m.json"), text).unwrap();
        environment(variables).apply("m", &mut node, Path::new("/state"))?;
        Ok(node)
    }

    fn paths(node: &NodeConfig) -> Vec<Option<&str>> {
        node.disks.iter().map(|disk| disk.path.as_deref().and_then(Path::to_str)).collect()
    }

    const DISKS: &str = r#"{"kernel": "/k", "cmdline": "a", "disks": [
        {"create-mib": 9, "serial": "root", "filesystem": "ext4", "label": "nixos"},
        {"path": "/store.img", "read-only": true}, {"create-mib": 1}, {"create-mib": 1, "memory": true}, {"create-mib": 2}]}"#;

    #[test]
    fn disks_of_a_run_are_files_in_the_machines_folder() {
        let node = applied(DISKS, &[]).unwrap();
        let expected = [
            Some("/state/m.qcow2"),
            Some("/store.img"),
            Some("/state/empty0.qcow2"),
            None,
            Some("/state/empty1.qcow2"),
        ];
        assert_eq!(paths(&node), expected);
        assert!(node.disks.iter().all(|disk| disk.check().is_ok()));
        let given = applied(DISKS, &[("NIX_DISK_IMAGE", "disk.img")]).unwrap();
        assert_eq!(paths(&given)[..2], [Some("/here/disk.img"), Some("/store.img")]);
        let in_store =
            r#"{"kernel": "/k", "disks": [{"path": "/nix/i", "snapshot": true, "serial": "root"}]}"#;
        assert!(applied(in_store, &[]).unwrap().disks[0].snapshot);
        let given = applied(in_store, &[("NIX_DISK_IMAGE", "/i")]).unwrap();
        assert!(!given.disks[0].snapshot && paths(&given) == [Some("/i")]);
    }

    #[test]
    fn the_kernel_and_its_command_line_are_the_environments_to_change() {
        let variables = [("QEMU_KERNEL_PARAMS", "b c"), ("NIXPKGS_QEMU_KERNEL_m", "/other")];
        let node = applied(r#"{"kernel": "/k", "cmdline": "a"}"#, &variables).unwrap();
        assert_eq!((node.cmdline.as_deref(), node.kernel), (Some("a b c"), Some("/other".into())));
        assert_eq!(kernel_variable("my-web_1"), "NIXPKGS_QEMU_KERNEL_my_web_1");
        let error = applied(r#"{"toplevel": "/t"}"#, &variables).unwrap_err().to_string();
        assert!(error.contains("NIXPKGS_QEMU_KERNEL_m"), "{error}");
    }

    #[test]
    fn options_of_the_user_network_are_added() {
        let variables = [("QEMU_NET_OPTS", "hostfwd=tcp::2222-:22,restrict=on")];
        let node = applied(r#"{"kernel": "/k", "user-network": true}"#, &variables).unwrap();
        let network = node.user_network.unwrap();
        assert!(network.restrict && network.forward_ports.len() == 1);
        assert!(applied(r#"{"kernel": "/k"}"#, &variables).unwrap().user_network.is_none());
        let error = applied(r#"{"kernel": "/k"}"#, &[("QEMU_NET_OPTS", "smb=/x")]).unwrap_err().to_string();
        assert!(error.contains("QEMU_NET_OPTS cannot be honoured: `smb=/x`"), "{error}");
    }

    #[test]
    fn folders_are_the_drivers_or_the_machines_own() {
        let of_driver = environment(&[
            ("TMPDIR", "/s"),
            ("USE_TMPDIR", "1"),
            ("SHARED_DIR", "all"),
            ("QEMU_VDE_SOCKET_7", "/v"),
        ]);
        let state = of_driver.state().unwrap();
        assert_eq!(state.path(), Path::new("/s"));
        assert_eq!(of_driver.shared(state.path()), Path::new("/here/all"));
        assert_eq!(of_driver.vde_switch(7).as_deref(), Some(Path::new("/v")));
        assert_eq!(of_driver.vde_switch(1), None);
        let alone = environment(&[("TMPDIR", "/s"), ("USE_TMPDIR", ""), ("QEMU_OPTS", " -m 512  -smp 2")]);
        let state = alone.state().unwrap();
        let folder = state.path().to_owned();
        assert!(folder.is_dir() && alone.shared(&folder).ends_with("xchg"));
        drop(state);
        assert!(!folder.exists());
        assert!(alone.options().eq(["-m", "512", "-smp", "2"]));
    }
}
