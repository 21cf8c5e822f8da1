//! `snowboot test --show-topology`: the machines of a test, their network cards and the networks between them.

mod dot;
mod text;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;

use crate::generate::print;
use crate::test;

/// How a topology is written: as tables, or as a graph for Graphviz.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    Text,
    Dot,
}

/// Prints the topology of a manifest. No file that the manifest names has to be there.
pub(crate) fn show(file: &Path, form: Form) -> Result<ExitCode> {
    let manifest = test::read(file)?;
    let topology = manifest.topology();
    let written = match form {
        Form::Text => text::write(&manifest.name, &topology),
        Form::Dot => dot::write(&manifest.name, &topology),
    };
    print(written.as_bytes())
}

#[cfg(test)]
mod tests {
    use snowboot_config::{Manifest, Topology};

    /// The topology of a manifest with these machines and networks.
    pub(super) fn topology(text: &str) -> Topology {
        let text = format!("name = 't'\ntest-script = ''\n{text}");
        Manifest::parse("/t.toml".as_ref(), &text).unwrap().topology()
    }

    pub(super) const ROUTED: &str = "
[networks.backbone]
vlan = 7
description = 'between the \"routers\"'
[networks.spare]
[machines.client]
kernel = 'k'
[machines.client.user-network]
restrict = true
dns = '::1'
forward-ports = [
  { host-port = 2222, guest-port = 22 },
  { from = 'guest', guest-address = '10.0.2.100', guest-port = 7, host-port = 7777 },
]
[machines.lonely]
kernel = 'k'
vlans = []
[machines.router-1]
kernel = 'k'
number = 200
vlans = [1, 'backbone']
user-network = true
";
}
