//! What a machine's vCPUs reach: the two buses and the devices on them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use snowboot_bus::pci::{BarWindow, ConfigPorts, Ecam, PciRoot};
use snowboot_bus::{Access, Action, BarMove, Bus, BusDevice, GuestMemory, Space};
use snowboot_virtio::Device;
use snowboot_virtio::transport::PciTransport;

use crate::Error;
use crate::arch::layout;
use crate::kvm::{MsiRoutes, Vm};

/// The one BAR of a virtio function.
const BAR: u8 = 0;

/// Buses, PCI functions, and the VM that signals for them.
pub(crate) struct Platform {
    ports: Bus,
    mmio: Bus,
    root: Arc<PciRoot>,
    slots: Vec<Slot>,
    vm: Arc<Vm>,
    memory: GuestMemory,
}

/// A virtio device on the PCI bus.
struct Slot {
    number: u8,
    transport: Arc<Mutex<PciTransport>>,
    /// Where its BAR is on the MMIO bus. The guest's own idea of it may differ after a move that was refused.
    address: Mutex<u64>,
}

impl Platform {
    /// An empty platform with the host bridge's windows.
    pub(crate) fn new(vm: Arc<Vm>, memory: GuestMemory) -> Result<Self, Error> {
        let root = Arc::new(PciRoot::new());
        let platform = Self { ports: Bus::new(), mmio: Bus::new(), root, slots: Vec::new(), vm, memory };
        let ecam = Arc::new(Mutex::new(Ecam::new(Arc::clone(&platform.root))));
        platform.mmio.insert(layout::ECAM, layout::ECAM_LENGTH, ecam).map_err(taken)?;
        platform.add_ports(layout::port::PCI_CONFIG, 8, ConfigPorts::new(Arc::clone(&platform.root)))?;
        Ok(platform)
    }

    /// Puts a device at I/O ports.
    pub(crate) fn add_ports(
        &self,
        start: u64,
        count: u64,
        device: impl BusDevice + 'static,
    ) -> Result<(), Error> {
        self.ports.insert(start, count, Arc::new(Mutex::new(device))).map_err(taken)
    }

    /// Puts a virtio device into the next PCI slot.
    pub(crate) fn add_virtio(&mut self, device: Box<dyn Device>) -> Result<(), Error> {
        let full = || Error::Config("A machine has room for 31 virtio devices; it asks for more".to_owned());
        let number = self.root.free_slot().ok_or_else(full)?;
        let address = u64::from(number)
            .checked_mul(PciTransport::BAR_SIZE)
            .and_then(|offset| offset.checked_add(layout::PCI_WINDOW))
            .ok_or_else(full)?;
        let msi = MsiRoutes(Arc::clone(&self.vm));
        let transport =
            PciTransport::new(device, number, address, self.memory.clone(), &msi).map_err(|error| {
                Error::Host {
                    what: "set up a virtio device".to_owned(),
                    source: std::io::Error::other(error),
                }
            })?;
        for doorbell in transport.doorbells() {
            self.vm.add_doorbell(address.saturating_add(doorbell.offset), &doorbell.event)?;
        }
        let transport = Arc::new(Mutex::new(transport));
        self.root.attach(number, transport.clone()).map_err(|error| Error::Config(error.to_string()))?;
        let window = Arc::new(Mutex::new(BarWindow::new(transport.clone(), BAR)));
        self.mmio.insert(address, PciTransport::BAR_SIZE, window).map_err(taken)?;
        self.slots.push(Slot { number, transport, address: Mutex::new(address) });
        Ok(())
    }

    /// Serves one access of a vCPU.
    pub(crate) fn serve(&self, access: Access<'_>) -> Action {
        match access.space {
            Space::Port => self.ports.serve(access.addr, access.op),
            Space::Mmio => self.mmio.serve(access.addr, access.op),
        }
    }

    /// Carries out a BAR's move. One that cannot be (another device is there) leaves the BAR where it was: the guest
    /// then finds nothing at the address it chose, as on a bus where two devices collide.
    pub(crate) fn move_bar(&self, movement: &BarMove) {
        let Some(slot) = self.slots.iter().find(|slot| slot.number == movement.device) else { return };
        let mut address = slot.address.lock().unwrap_or_else(PoisonError::into_inner);
        if self.mmio.relocate(*address, movement.to).is_err() {
            return;
        }
        for doorbell in lock(&slot.transport).doorbells() {
            let (from, to) =
                (address.saturating_add(doorbell.offset), movement.to.saturating_add(doorbell.offset));
            let moved = self
                .vm
                .remove_doorbell(from, &doorbell.event)
                .and_then(|()| self.vm.add_doorbell(to, &doorbell.event));
            // Without it, notifications still arrive, by exits.
            if let Err(error) = moved {
                tracing::debug!(%error, "a doorbell did not move with its BAR");
            }
        }
        *address = movement.to;
    }

    /// All virtio devices, for the event loop.
    pub(crate) fn transports(&self) -> Vec<Arc<Mutex<PciTransport>>> {
        self.slots.iter().map(|slot| Arc::clone(&slot.transport)).collect()
    }

    /// Stops all devices, requests in flight finished.
    pub(crate) fn pause(&self) {
        for slot in &self.slots {
            lock(&slot.transport).pause();
        }
    }

    /// Lets them go on.
    pub(crate) fn resume(&self) {
        for slot in &self.slots {
            lock(&slot.transport).resume();
        }
    }
}

fn lock(transport: &Mutex<PciTransport>) -> MutexGuard<'_, PciTransport> {
    transport.lock().unwrap_or_else(PoisonError::into_inner)
}

fn taken(error: snowboot_bus::BusError) -> Error {
    Error::Config(error.to_string())
}
