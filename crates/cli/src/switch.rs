//! `snowboot switch`: a switch without machines of its own, which joins what its uplinks lead to.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use snowboot_config::{InterfaceName, UplinkKind, UserNetworkConfig, VxlanConfig};
use snowboot_network::Switch;
use snowboot_uplink::{Uplink, port_name};

use crate::disk::split;
use crate::{exit, net, say};

const HELP: &str = "\
Examples:
  snowboot switch --vhost-user /run/user/1000/net.sock --tap tap0
  snowboot switch --vhost-user net.sock --vxlan vni=42,local=192.0.2.1,peer=192.0.2.2
  snowboot switch --vhost-user a.sock --vhost-user b.sock --user-network=hostfwd=tcp::8080-10.0.2.15:80

It runs until a signal ends it. A machine of QEMU's is plugged into net.sock by
  -object memory-backend-memfd,id=m,size=1G,share=on -machine memory-backend=m
  -chardev socket,id=c,path=net.sock -netdev vhost-user,id=n,chardev=c -device virtio-net-pci,netdev=n

Exit status:
  1  an uplink could not be opened: the standard error says which, why, and what to do
  2  the command line is wrong
  129, 130, 131, 143  SIGHUP, SIGINT, SIGQUIT or SIGTERM ended it";

/// Arguments of `snowboot switch`.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// A TAP interface of the host, which is made where it is not there
    #[arg(long, value_name = "INTERFACE")]
    tap: Vec<InterfaceName>,
    /// The folder of a `vde_switch`
    #[arg(long, value_name = "FOLDER")]
    vde: Vec<PathBuf>,
    /// Switches of other hosts: the network, an address of this host, and those of the others
    #[arg(long, value_name = "vni=N,local=ADDRESS[:PORT],peer=ADDRESS[:PORT]...", value_parser = vxlan)]
    vxlan: Vec<VxlanConfig>,
    /// A socket to listen at, that a machine of another VMM plugs its network card into
    #[arg(long, value_name = "SOCKET")]
    vhost_user: Vec<PathBuf>,
    /// A gateway to the host that all of them share, with DHCP and a resolver: 10.0.2.0/24
    #[arg(long, value_name = net::SHARED, value_parser = net::parse_options, num_args = 0..=1, require_equals = true, default_missing_value = "")]
    user_network: Option<UserNetworkConfig>,
    /// Say at the end what went through
    #[arg(long)]
    stats: bool,
}

/// Switches until a signal comes.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let uplinks: Vec<UplinkKind> = (args.tap.iter().cloned().map(UplinkKind::Tap))
        .chain(args.vde.iter().cloned().map(UplinkKind::Vde))
        .chain(args.vxlan.iter().cloned().map(UplinkKind::Vxlan))
        .chain(args.vhost_user.iter().cloned().map(UplinkKind::VhostUser))
        .chain(args.user_network.iter().cloned().map(UplinkKind::UserNetwork))
        .collect();
    let count = uplinks.len();
    ensure!(count > 1, "A switch with {count} uplinks joins nothing: give two of them, or more");
    // From here on a signal is an end in good order.
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM]).context("Cannot watch for signals")?;
    let switch = Switch::new();
    let open = |uplink: &UplinkKind| Uplink::open(uplink, switch.attach(&port_name(uplink)));
    let open = uplinks.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    say::line(&format!("snowboot: the switch is ready, with {count} uplinks"));
    let signal = signals.forever().next().unwrap_or(SIGTERM);
    if args.stats {
        for (name, counters) in switch.counters() {
            say::line(&format!("{name}: {counters}"));
        }
    }
    drop(open);
    Ok(exit::of_signal(signal).into())
}

/// Reads an end of a VXLAN.
fn vxlan(text: &str) -> Result<VxlanConfig, String> {
    let (mut vni, mut local, mut peers) = (None, None, Vec::new());
    let address = |text: &str| VxlanConfig::parse_address(text).map_err(|error| error.to_string());
    for option in split(text) {
        match option.split_once('=').unwrap_or((&option, "")) {
            ("vni", number) => {
                vni = Some(number.parse().map_err(|_| format!("`{number}` is no number of a network"))?);
            }
            ("local", text) => local = Some(address(text)?),
            ("peer", text) => peers.push(address(text)?),
            _ => {
                return Err(format!(
                    "`{option}` is not an option: there are vni=N, local=ADDRESS and peer=ADDRESS"
                ));
            }
        }
    }
    let vni = vni.ok_or("name the network: vni=N")?;
    let local = local.ok_or("name an address of this host, or 0.0.0.0 for all: local=ADDRESS")?;
    VxlanConfig::new(vni, local, peers).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_vxlans_are_read() {
        let found = vxlan("vni=42,local=192.0.2.1,peer=192.0.2.2,peer=192.0.2.3:8472").unwrap();
        assert_eq!((found.vni(), found.local()), (42, "192.0.2.1:4789".parse().unwrap()));
        assert_eq!(found.peers(), ["192.0.2.2:4789".parse().unwrap(), "192.0.2.3:8472".parse().unwrap()]);
        for (text, part) in [
            ("local=192.0.2.1,peer=192.0.2.2", "vni=N"),
            ("vni=x,local=192.0.2.1", "`x` is no number"),
            ("vni=1,peer=192.0.2.1", "local=ADDRESS"),
            ("vni=1,local=192.0.2.1", "0 peers"),
            ("vni=1,local=192.0.2.1,ttl=1", "`ttl=1` is not an option"),
            ("vni=1,local=host,peer=192.0.2.1", "`host` is no address"),
        ] {
            let error = vxlan(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
