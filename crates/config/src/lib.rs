//! What a machine and a test are, as plain data.
//!
//! The same types serve manifests (TOML, JSON), the command line, embedding programs and, later, snapshots.
//!
//! # Invariants
//! * Nothing here opens a file, spawns a thread or reads a clock; paths are only carried.
//! * A value that exists is valid: newtypes cannot hold a wrong one.
#![forbid(unsafe_code)]

mod disk;
mod forward;
mod machine;
mod manifest;
mod network;
mod profile;
mod share;
mod store;
mod topology;
mod uplinks;
mod user_network;
mod values;
mod vhost_user;

pub use disk::{DiskConfig, DiskEngine, FileSystem, FlushPolicy, ImageFormat};
pub use forward::{ForwardFrom, ForwardProtocol, PortForward, SocketForward};
pub use machine::{BootConfig, MachineConfig, NicConfig, PmemConfig};
pub use manifest::{Manifest, ManifestError, NodeConfig, Script, variable_name};
pub use network::{NamedNetworks, NetworkConfig, interface_name, vlan_address, vlan_name};
pub use profile::BootProfile;
pub use share::{ShareCache, ShareConfig, ShareProtocol};
pub use store::{StoreConfig, StoreDevice, StoreSource};
pub use topology::{
    Card, HostEnd, Member, Topology, TopologyForward, TopologyLease, TopologyMachine, TopologyNetwork,
    TopologyUserNetwork,
};
pub use uplinks::{InterfaceName, UplinkConfig, UplinkKind, VxlanConfig};
pub use user_network::UserNetworkConfig;
pub use values::{MacAddress, MemorySize, ValueError, VcpuCount};
pub use vhost_user::{VhostUserConfig, VhostUserDevice};
