//! Ports of a switch that lead out of the process: to the host, to switches of other programs and hosts, to machines of other VMMs.
//!
//! [`Uplink::open`] makes those that a description names; each kind has a type of its own, too.
//!
//! ```no_run
//! use snowboot_config::UplinkKind;
//! use snowboot_network::Switch;
//! use snowboot_uplink::Uplink;
//!
//! let switch = Switch::new();
//! let tap = UplinkKind::Tap("tap0".parse()?);
//! let uplink = Uplink::open(&tap, switch.attach(&snowboot_uplink::port_name(&tap)))?;
//! // The host's interface tap0 is one of the switch's stations until `uplink` is dropped.
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Invariants
//! * Whatever a guest sends, nothing panics, and descriptors, threads and memory stay within the bounds of its uplink.
//! * Nothing waits for a guest or a peer but the uplink's own thread, and that one only in its poller.
#![forbid(unsafe_code)]

pub mod gateway;
mod losses;
mod named;
mod pump;
pub mod tap;
pub mod vde;
pub mod vhost_user;
pub mod vxlan;
mod wake;

use std::sync::Arc;

use snowboot_config::UplinkKind;
use snowboot_network::Port;

/// A port of a switch that leads to elsewhere, of any kind. Dropping it ends that.
#[derive(Debug)]
pub enum Uplink {
    /// A TAP interface of the host.
    Tap(tap::Tap),
    /// A `vde_switch`.
    Vde(vde::Plug),
    /// Switches of other hosts.
    Vxlan(vxlan::Tunnel),
    /// Machines of other VMMs.
    VhostUser(vhost_user::Backend),
    /// A gateway to the host. Others may add forwards to it as long as it is there.
    UserNetwork(Arc<gateway::UserNetwork>),
}

/// An uplink cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub enum Error {
    /// The TAP interface.
    Tap(#[from] tap::Error),
    /// The plug in a `vde_switch`.
    Vde(#[from] vde::Error),
    /// The end of a VXLAN.
    Vxlan(#[from] vxlan::Error),
    /// The socket for front ends.
    VhostUser(#[from] vhost_user::Error),
    /// The gateway to the host.
    UserNetwork(#[from] gateway::Error),
}

impl Uplink {
    /// Has `port` lead there. For what each kind needs, see [`tap::Tap::open`], [`vde::Plug::connect`], [`vxlan::Tunnel::open`],
    /// [`vhost_user::Backend::listen`] and [`gateway::UserNetwork::share`].
    ///
    /// # Errors
    /// When that cannot be opened: the message names it, and says why and what to do.
    pub fn open(leads_to: &UplinkKind, port: Port) -> Result<Self, Error> {
        Ok(match leads_to {
            UplinkKind::Tap(interface) => Self::Tap(tap::Tap::open(interface, port)?),
            UplinkKind::Vde(switch) => Self::Vde(vde::Plug::connect(switch, "snowboot uplink", port)?),
            UplinkKind::Vxlan(config) => Self::Vxlan(vxlan::Tunnel::open(config, port)?),
            UplinkKind::VhostUser(socket) => Self::VhostUser(vhost_user::Backend::listen(socket, port)?),
            UplinkKind::UserNetwork(config) => {
                Self::UserNetwork(Arc::new(gateway::UserNetwork::share(config, port)?))
            }
        })
    }
}

/// The name of the port behind an uplink, as captures and counters show it.
#[must_use]
pub fn port_name(leads_to: &UplinkKind) -> String {
    match leads_to {
        UplinkKind::Tap(interface) => format!("uplink:{interface}"),
        UplinkKind::Vde(switch) => format!("uplink:vde {}", switch.display()),
        UplinkKind::Vxlan(config) => format!("uplink:vxlan {}", config.vni()),
        UplinkKind::UserNetwork(_) => "uplink:user network".to_owned(),
        UplinkKind::VhostUser(socket) => format!("uplink:vhost-user {}", socket.display()),
    }
}
