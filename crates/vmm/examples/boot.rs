//! The smallest embedding program: boots a NixOS toplevel and copies its serial port to the standard output.
//!
//! ```text
//! cargo run -p snowboot-vmm --example boot -- TOPLEVEL [ROOT-IMAGE]
//! ```

use std::path::Path;

use snowboot_config::{DiskConfig, MachineConfig, MemorySize, VcpuCount};
use snowboot_vmm::{Builder, toplevel};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("name a toplevel")?;
    let root = arguments.next().map(|path| DiskConfig {
        read_only: true,
        serial: Some("root".to_owned()),
        ..DiskConfig::of_image(path)
    });
    let config = MachineConfig {
        name: "example".to_owned(),
        boot: toplevel::read(Path::new(&folder), None, None)?,
        memory: MemorySize::from_mib(512)?,
        vcpus: VcpuCount::default(),
        disks: root.into_iter().collect(),
        pmem: Vec::new(),
        vhost_user: Vec::new(),
        nics: Vec::new(),
        shares: Vec::new(),
    };
    let machine = Builder::new(config).serial_output(Box::new(std::io::stdout())).build()?;
    machine.start()?;
    if let Some(outcome) = machine.wait(None) {
        println!("the machine ended: {outcome}");
    }
    Ok(())
}
