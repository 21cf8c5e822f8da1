//! Tests of the parts together, and what they share: a fake interrupt source and a small function.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::*;
use crate::{Msi, MsiError, MsiSource};

mod config_space;
mod msix;
mod windows;

/// Remembers what it was asked for; refuses routes while told to.
#[derive(Debug, Default)]
struct FakeSource {
    configured: Mutex<Vec<Option<Msi>>>,
    triggered: AtomicUsize,
    refuse: AtomicBool,
}

impl FakeSource {
    fn routes(&self) -> Vec<Msi> {
        self.configured.lock().unwrap().iter().map(|message| message.unwrap()).collect()
    }

    fn triggered(&self) -> usize {
        self.triggered.load(Ordering::Relaxed)
    }
}

impl MsiSource for FakeSource {
    fn trigger(&self) {
        self.triggered.fetch_add(1, Ordering::Relaxed);
    }

    fn configure(&self, message: Option<Msi>) -> Result<(), MsiError> {
        if self.refuse.load(Ordering::Relaxed) {
            return Err(MsiError { what: "route", source: std::io::Error::from_raw_os_error(22) });
        }
        self.configured.lock().unwrap().push(message);
        Ok(())
    }
}

fn table(vectors: usize) -> (MsixTable, Vec<Arc<FakeSource>>) {
    let sources: Vec<_> = (0..vectors).map(|_| Arc::new(FakeSource::default())).collect();
    let handles = sources.iter().map(|source| Arc::clone(source) as Arc<dyn MsiSource>).collect();
    (MsixTable::new(handles), sources)
}

const BAR_ADDRESS: u64 = 0xc000_0000;
const BAR_SIZE: u64 = 0x4000;

fn space(device_number: u8) -> ConfigSpace {
    let identifiers = Identifiers {
        vendor: 0x1af4,
        device: 0x1042,
        revision: 1,
        class: [0x01, 0x80, 0x00],
        subsystem_vendor: 0x1af4,
        subsystem: 0x1100,
    };
    ConfigSpace::new(device_number, identifiers)
}

/// A function with one BAR, whose first page is the vector table and whose second is the pending bit array.
struct TestFunction {
    config: ConfigSpace,
    msix: MsixTable,
    capability: u16,
}

impl TestFunction {
    fn new(device_number: u8) -> Self {
        let mut config = space(device_number);
        config.add_memory_bar(0, BAR_SIZE, BAR_ADDRESS, false).unwrap();
        let body = [2, 0, 0, 0, 0, 0, 0, 0x10, 0, 0];
        let capability = config.add_capability(0x11, &body, &[0, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        Self { config, msix: table(3).0, capability }
    }
}

impl PciFunction for TestFunction {
    fn read_config(&mut self, offset: u16, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn write_config(&mut self, offset: u16, data: &[u8]) -> Action {
        let action = self.config.write(offset, data);
        self.msix.set_control(self.config.read_u16(self.capability + 2));
        action
    }

    fn read_bar(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
        match offset {
            0..0x1000 if bar == 0 => self.msix.read_table(offset, data),
            0x1000..0x2000 if bar == 0 => self.msix.read_pba(offset - 0x1000, data),
            _ => {}
        }
    }

    fn write_bar(&mut self, _bar: u8, offset: u64, data: &[u8]) -> Action {
        self.msix.write_table(offset, data);
        self.msix.trigger(1);
        Action::None
    }
}
