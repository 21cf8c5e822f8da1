//! A test: its machines and its script.
//!
//! [`Manifest::parse`] is the only way from text to a manifest, so that a manifest that exists is valid. It goes in two
//! steps: `tree` reads TOML or JSON into values that know their place, and this module walks them.

mod disks;
mod names;
mod networks;
mod numbers;
mod shares;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod tree;
mod uplinks;
mod user_network;
mod vhost_user;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use self::names::Names;
pub use self::names::variable_name;
use self::table::Table;
use self::tree::{Entry, Fault, Node, Value};
use self::user_network::Guests;
use crate::{
    BootProfile, DiskConfig, MemorySize, NamedNetworks, PmemConfig, ShareConfig, StoreConfig, UplinkConfig,
    UserNetworkConfig, VcpuCount, VhostUserConfig,
};

/// A test, as a manifest file describes it. Paths are relative to the manifest's folder until [`Manifest::parse`] has
/// joined them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Manifest {
    /// The test's name.
    pub name: String,
    /// The test script: exactly one of `script` (a path) and `test-script` (its text).
    #[serde(flatten)]
    pub script: Script,
    /// Seconds after which the whole run is ended.
    pub global_timeout: u64,
    /// What all chance of the run is drawn from, unless who starts it gives another one: 0 to [`Manifest::MAX_SEED`]. Without it each
    /// run has its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// The networks that have names. Those of machines' `vlans` that are not among them have numbers only.
    #[serde(skip_serializing_if = "NamedNetworks::is_empty")]
    pub networks: NamedNetworks,
    /// The machines by name; [`Manifest::numbered`] has their node numbers.
    pub machines: BTreeMap<String, NodeConfig>,
    /// Ports of their networks that lead to elsewhere.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uplinks: Vec<UplinkConfig>,
}

/// Where the test script is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Script {
    /// A file.
    #[serde(rename = "script")]
    File(PathBuf),
    /// The text itself.
    #[serde(rename = "test-script")]
    Text(String),
}

/// One machine of a test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct NodeConfig {
    /// Its node number, 1 to 254 and its own (NixOS: `virtualisation.test.nodeNumber`); see [`Manifest::numbered`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<u8>,
    /// A NixOS toplevel folder (kernel, initrd, kernel-params, boot.json). Excludes `kernel` and `initrd`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub toplevel: Option<PathBuf>,
    /// The toplevel's specialisation to boot (NixOS: `specialisation.NAME`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub specialisation: Option<String>,
    /// A bzImage or ELF `vmlinux`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disks, one path or a list; files of later ones win.
    #[serde(rename = "initrd", skip_serializing_if = "Vec::is_empty")]
    pub initrds: Vec<PathBuf>,
    /// Kernel command line; with a toplevel, added to its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<String>,
    /// A set of kernel parameters to put before the rest of the command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<BootProfile>,
    /// Guest memory.
    pub memory: MemorySize,
    /// Number of vCPUs.
    pub vcpus: VcpuCount,
    /// A network card before those of the VLANs, eth0, that leads to the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_network: Option<UserNetworkConfig>,
    /// VLANs: one network card each, eth1, eth2 ... in this order. A network that has a name is here by its number.
    pub vlans: Vec<u8>,
    /// Disks, `/dev/vda` on; the manifest's `empty-disks` are the last of them.
    pub disks: Vec<DiskConfig>,
    /// Folders of the host.
    pub shares: Vec<ShareConfig>,
    /// Images that the guest reads in place, `/dev/pmem0` on.
    pub pmem: Vec<PmemConfig>,
    /// Devices that other processes serve.
    pub vhost_user: Vec<VhostUserConfig>,
    /// A store that is made of files of the host's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreConfig>,
}

/// A manifest cannot be used. The text is `FILE:LINE:COLUMN: what is wrong`, with the nearest valid key where a key is
/// unknown.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ManifestError(pub String);

const MANIFEST_KEYS: &[&str] =
    &["name", "script", "test-script", "global-timeout", "seed", "networks", "machines", "uplinks"];
const NODE_KEYS: &[&str] = &[
    "number",
    "toplevel",
    "specialisation",
    "kernel",
    "initrd",
    "cmdline",
    "profile",
    "memory",
    "vcpus",
    "vlans",
    "disks",
    "empty-disks",
    "shares",
    "pmem",
    "store",
    "user-network",
    "vhost-user",
];

impl Manifest {
    /// Seconds that a run may take when the manifest does not say.
    pub const DEFAULT_TIMEOUT: u64 = 3600;
    /// The longest `global-timeout`, a year: what every timer on the way can count to.
    pub const MAX_TIMEOUT: u64 = 365 * 24 * 3600;
    /// The greatest `seed`: the greatest number that TOML has.
    pub const MAX_SEED: u64 = i64::MAX.unsigned_abs();
    /// Node numbers are a byte of the machine's Ethernet and IPv4 addresses, without 0 and the broadcast address.
    pub const MAX_MACHINES: usize = 254;
    /// The VLANs of a machine that names none.
    pub const DEFAULT_VLANS: &[u8] = &[1];
    /// The largest disk that `create-mib` makes, 16 TiB: what ext4 holds in one file.
    pub const MAX_CREATE_MIB: u64 = 16 * 1024 * 1024;

    /// Reads a manifest's text; `file` gives its name for errors, its folder for relative paths, and its form (`.json`
    /// is JSON, anything else TOML).
    ///
    /// # Errors
    /// When the text is not a valid manifest.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ManifestError> {
        read(file, text, manifest)
    }

    /// A test of machines that were described one by one, as [`NodeConfig::parse`] gives them, without uplinks.
    ///
    /// # Errors
    /// When there are too many machines, a name cannot be a machine's, or two have the same number.
    pub fn of_machines(
        name: &str,
        script: Script,
        global_timeout: u64,
        machines: BTreeMap<String, NodeConfig>,
    ) -> Result<Self, ManifestError> {
        if machines.is_empty() || machines.len() > Self::MAX_MACHINES {
            let message = format!("{} machines: a test has 1 to {}", machines.len(), Self::MAX_MACHINES);
            return Err(ManifestError(message));
        }
        if !(1..=Self::MAX_TIMEOUT).contains(&global_timeout) {
            let most = Self::MAX_TIMEOUT;
            return Err(ManifestError(format!("A global timeout of {global_timeout} s: choose 1 to {most}")));
        }
        let mut names = Names::default();
        for machine in machines.keys() {
            names.add(machine, 0).map_err(|fault| ManifestError(fault.message))?;
        }
        numbers::check(&machines).map_err(|(_, message)| ManifestError(message))?;
        let (networks, uplinks) = (NamedNetworks::new(), Vec::new());
        Ok(Self { name: name.to_owned(), script, global_timeout, seed: None, networks, machines, uplinks })
    }
}

impl NodeConfig {
    /// Reads the description of one machine: what a manifest has below `[machines.NAME]`, at the top of a file of its own. Its
    /// `vlans` are numbers.
    ///
    /// # Errors
    /// When the text is not a valid description, or the name cannot be a machine's.
    pub fn parse(name: &str, file: &Path, text: &str) -> Result<Self, ManifestError> {
        Self::parse_within(name, file, text, &NamedNetworks::new())
    }

    /// The same of a machine for a test whose networks have these names, too.
    ///
    /// # Errors
    /// As those of [`NodeConfig::parse`].
    pub fn parse_within(
        name: &str,
        file: &Path,
        text: &str,
        networks: &NamedNetworks,
    ) -> Result<Self, ManifestError> {
        read(file, text, |node, folder| {
            Names::default().add(name, node.offset)?;
            node_config(name, node, node.offset, folder, networks)
        })
    }
}

/// Reads a text in the form that its file's name says; errors name their place.
fn read<T>(
    file: &Path,
    text: &str,
    walk: impl FnOnce(&Node, &Path) -> Result<T, Fault>,
) -> Result<T, ManifestError> {
    let is_json = file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    let tree = if is_json { tree::from_json(text) } else { tree::from_toml(text) };
    let folder = file.parent().unwrap_or(Path::new(""));
    tree.and_then(|tree| walk(&tree, folder)).map_err(|fault| {
        let (line, column) = tree::position(text, fault.offset);
        ManifestError(format!("{}:{line}:{column}: {}", file.display(), fault.message))
    })
}

fn manifest(node: &Node, folder: &Path) -> Result<Manifest, Fault> {
    let table = Table::read(node, "", MANIFEST_KEYS)?;
    let networks = networks::read(&table)?;
    let mut manifest = Manifest {
        name: test_name(&table)?,
        script: script(&table, folder)?,
        global_timeout: table
            .number("global-timeout", 1, Manifest::MAX_TIMEOUT)?
            .unwrap_or(Manifest::DEFAULT_TIMEOUT),
        seed: table.number("seed", 0, Manifest::MAX_SEED)?,
        machines: machines(&table, folder, &networks)?,
        uplinks: Vec::new(),
        networks,
    };
    let numbered: Vec<_> = manifest.numbered().collect();
    let uplinks = uplinks::read(&table, folder, &manifest.networks, &numbered)?;
    manifest.uplinks = uplinks;
    Ok(manifest)
}

fn test_name(table: &Table<'_>) -> Result<String, Fault> {
    let Some(name) = table.text("name")? else {
        return Err(table.fault("`name` is missing: give the test a name"));
    };
    if name.trim().is_empty() || name.chars().any(char::is_control) {
        return Err(table.wrong("name", "expected one line of text"));
    }
    Ok(name.to_owned())
}

fn script(table: &Table<'_>, folder: &Path) -> Result<Script, Fault> {
    match (table.path("script", folder)?, table.text("test-script")?) {
        (Some(path), None) => Ok(Script::File(path)),
        (None, Some(text)) => Ok(Script::Text(text.to_owned())),
        (Some(_), Some(_)) => Err(table.wrong("test-script", "`script` is given too: keep one of the two")),
        (None, None) => {
            Err(table.fault("the test script is missing: give `script` (a file) or `test-script` (its text)"))
        }
    }
}

fn machines(
    table: &Table<'_>,
    folder: &Path,
    networks: &NamedNetworks,
) -> Result<BTreeMap<String, NodeConfig>, Fault> {
    let Some(entries) = table.names("machines")? else {
        return Err(table.fault("`machines` is missing: a test needs at least one machine"));
    };
    if entries.is_empty() {
        return Err(table.wrong("machines", "a test needs at least one machine"));
    }
    if entries.len() > Manifest::MAX_MACHINES {
        let message = format!("{} machines are too many: at most {}", entries.len(), Manifest::MAX_MACHINES);
        return Err(table.wrong("machines", &message));
    }
    let mut machines = BTreeMap::new();
    let mut names = Names::default();
    for Entry { key, offset, node } in entries {
        names.add(key, *offset)?;
        machines.insert(key.clone(), node_config(key, node, *offset, folder, networks)?);
    }
    networks::check(table, networks, &names)?;
    numbers::check(&machines).map_err(|(name, message)| {
        let place = entries.iter().find(|entry| entry.key == name).map_or(0, |entry| entry.offset);
        Fault::new(place, message)
    })?;
    Ok(machines)
}

/// Reads a machine; `place` is where it is to be when nothing in it is wrong by itself.
fn node_config(
    name: &str,
    node: &Node,
    place: usize,
    folder: &Path,
    networks: &NamedNetworks,
) -> Result<NodeConfig, Fault> {
    let of = format!("machine `{name}`");
    let table = Table::read(node, &of, NODE_KEYS)?;
    let config = NodeConfig {
        number: number(&table)?,
        toplevel: table.path("toplevel", folder)?,
        specialisation: table.text("specialisation")?.map(str::to_owned),
        kernel: table.path("kernel", folder)?,
        initrds: table.paths("initrd", folder)?,
        cmdline: table.text("cmdline")?.map(str::to_owned),
        profile: profile(&table)?,
        memory: memory(&table)?,
        vcpus: vcpus(&table)?,
        user_network: user_network::read(&table, &of, folder, &Guests::One)?,
        vlans: networks::of_machine(&table, networks)?,
        disks: disks::disks(&table, &of, folder)?,
        shares: shares::read(&table, &of, folder)?,
        vhost_user: vhost_user::devices(&table, &of, folder)?,
        pmem: store::pmem(&table, &of, folder)?,
        store: store::store(&table, &of, folder)?,
    };
    if config.specialisation.is_some() && config.toplevel.is_none() {
        return Err(table.wrong("specialisation", "only a `toplevel` has any: name that, too"));
    }
    match (&config.toplevel, &config.kernel, config.initrds.is_empty()) {
        (Some(_), Some(_), _) => {
            Err(table.wrong("kernel", "`toplevel` has its own kernel: keep one of the two"))
        }
        (Some(_), _, false) => {
            Err(table.wrong("initrd", "`toplevel` has its own initrd: keep one of the two"))
        }
        (None, None, _) => Err(Fault::new(place, format!("{of} boots nothing: give `toplevel` or `kernel`"))),
        _ => Ok(config),
    }
}

fn number(table: &Table<'_>) -> Result<Option<u8>, Fault> {
    let most = u8::try_from(Manifest::MAX_MACHINES).unwrap_or(u8::MAX);
    let number = table.number("number", 1, most.into())?;
    Ok(number.map(|number| u8::try_from(number).unwrap_or(most)))
}

fn profile(table: &Table<'_>) -> Result<Option<BootProfile>, Fault> {
    let profile = table.text("profile")?.map(str::parse).transpose();
    profile.map_err(|error: crate::ValueError| table.wrong("profile", &error.to_string()))
}

fn memory(table: &Table<'_>) -> Result<MemorySize, Fault> {
    let size = match table.get("memory").map(|node| &node.value) {
        None => return Ok(MemorySize::DEFAULT),
        Some(Value::Text(text)) => text.parse(),
        // A negative number is as far out of range as zero.
        Some(Value::Integer(mib)) => u64::try_from(*mib).map_or_else(
            |_| {
                Err(crate::ValueError(format!(
                    "Memory of {mib} MiB is out of range: choose 64 MiB to 64 GiB"
                )))
            },
            MemorySize::from_mib,
        ),
        Some(other) => {
            let message =
                format!("expected a number of MiB or a text such as \"2G\", found {}", other.kind());
            return Err(table.wrong("memory", &message));
        }
    };
    size.map_err(|error| table.wrong("memory", &error.to_string()))
}

fn vcpus(table: &Table<'_>) -> Result<VcpuCount, Fault> {
    let Some(count) = table.number("vcpus", 1, VcpuCount::MAX.into())? else {
        return Ok(VcpuCount::default());
    };
    let count = u8::try_from(count).unwrap_or(u8::MAX);
    VcpuCount::try_from(count).map_err(|error| table.wrong("vcpus", &error.to_string()))
}
