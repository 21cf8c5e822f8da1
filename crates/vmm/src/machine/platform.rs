//! What a machine's vCPUs reach: the two buses and the devices on them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use snowboot_bus::pci::{BarWindow, ConfigPorts, Ecam, PciRoot};
use snowboot_bus::{Access, Action, BarMove, Bus, BusDevice, GuestMemory, Space};
use snowboot_virtio::Device;
use snowboot_virtio::transport::{Doorbell, PciTransport};

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
    /// The slots' BARs, in the same order.
    windows: Mutex<Vec<Window>>,
    vm: Arc<Vm>,
    memory: GuestMemory,
}

/// A virtio device on the PCI bus.
struct Slot {
    number: u8,
    transport: Arc<Mutex<PciTransport>>,
    thread: Thread,
}

/// Which thread of the machine serves a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Thread {
    /// The machine's own: a turn only moves bytes in memory, and few come together.
    Shared,
    /// One for this device alone, called so. Either a turn waits for the host's storage, for others not to wait with it (guests
    /// spin with interrupts off for some of those, such as the console), or its guest gathers requests while it is not there.
    Own(&'static str),
}

/// Where a device's BAR is.
struct Window {
    device: Arc<Mutex<dyn BusDevice>>,
    /// On the bus; `None` while another device is where the guest wants it.
    address: Option<u64>,
    /// Where the guest wants it.
    wanted: u64,
    doorbells: Vec<Doorbell>,
    /// Those that KVM knows, at `address`.
    registered: Vec<Doorbell>,
}

impl Window {
    fn is_in_the_way_of(&self, address: u64) -> bool {
        self.address.is_some_and(|own| own.abs_diff(address) < PciTransport::BAR_SIZE)
    }
}

impl Platform {
    /// An empty platform with the host bridge's windows.
    pub(crate) fn new(vm: Arc<Vm>, memory: GuestMemory) -> Result<Self, Error> {
        let root = Arc::new(PciRoot::new());
        let platform = Self {
            ports: Bus::new(),
            mmio: Bus::new(),
            root,
            slots: Vec::new(),
            windows: Mutex::default(),
            vm,
            memory,
        };
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
    pub(crate) fn add_virtio(&mut self, device: Box<dyn Device>, thread: Thread) -> Result<(), Error> {
        self.add_shared_virtio(device, thread).map(drop)
    }

    /// The same, for a device that others than its own thread serve, too: what holds it, to lock.
    pub(crate) fn add_shared_virtio(
        &mut self,
        device: Box<dyn Device>,
        thread: Thread,
    ) -> Result<Arc<Mutex<PciTransport>>, Error> {
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
        let doorbells = transport.doorbells();
        for doorbell in &doorbells {
            self.vm.add_doorbell(address.saturating_add(doorbell.offset), &doorbell.event)?;
        }
        let transport = Arc::new(Mutex::new(transport));
        self.root.attach(number, transport.clone()).map_err(|error| Error::Config(error.to_string()))?;
        let device = Arc::new(Mutex::new(BarWindow::new(transport.clone(), BAR)));
        self.mmio.insert(address, PciTransport::BAR_SIZE, device.clone()).map_err(taken)?;
        let registered = doorbells.clone();
        let window = Window { device, address: Some(address), wanted: address, doorbells, registered };
        lock(&self.windows).push(window);
        self.slots.push(Slot { number, transport: Arc::clone(&transport), thread });
        Ok(transport)
    }

    /// Why the host had no page for a vCPU, in words.
    pub(crate) fn explain_missing_page(&self) -> String {
        self.vm.explain_missing_page()
    }

    /// Serves one access of a vCPU.
    pub(crate) fn serve(&self, access: Access<'_>) -> Action {
        match access.space {
            Space::Port => self.ports.serve(access.addr, access.op),
            Space::Mmio => self.mmio.serve(access.addr, access.op),
        }
    }

    /// Puts a BAR where the guest has enabled it. What another function decodes there stays, and this one is nowhere until
    /// that has moved on; what another one has there but does not decode makes way, and is put on again when it does.
    pub(crate) fn move_bar(&self, movement: &BarMove) {
        let mut windows = lock(&self.windows);
        let Some(index) = self.slots.iter().position(|slot| slot.number == movement.device) else { return };
        let Some(window) = windows.get_mut(index) else { return };
        if window.address != Some(movement.to) {
            window.wanted = movement.to;
            self.take_off(window);
        }
        while self.put_on_one(&mut windows) {}
    }

    /// Puts a window on the bus that is not there although its function decodes, if there is one with room.
    fn put_on_one(&self, windows: &mut [Window]) -> bool {
        let decodes: Vec<bool> = self.slots.iter().map(|slot| lock(&slot.transport).is_decoding()).collect();
        let missing = (0..).zip(windows.iter().zip(&decodes));
        let missing: Vec<usize> = missing
            .filter(|(_, (it, decodes))| it.address.is_none() && **decodes)
            .map(|(index, _)| index)
            .collect();
        missing.into_iter().any(|index| {
            let Some(wanted) = windows.get(index).map(|window| window.wanted) else { return false };
            for (other, decodes) in windows.iter_mut().zip(&decodes) {
                if !decodes && other.is_in_the_way_of(wanted) {
                    self.take_off(other);
                }
            }
            windows.get_mut(index).is_some_and(|window| self.put_on(window))
        })
    }

    fn take_off(&self, window: &mut Window) {
        let Some(address) = window.address.take() else { return };
        for doorbell in window.registered.drain(..) {
            let place = address.saturating_add(doorbell.offset);
            if let Err(error) = self.vm.remove_doorbell(place, &doorbell.event) {
                tracing::debug!(%error, "a doorbell stays where its BAR was");
            }
        }
        // It is there: nobody else takes windows off.
        let _ = self.mmio.remove(address);
    }

    /// Whether there was room.
    fn put_on(&self, window: &mut Window) -> bool {
        let address = window.wanted;
        if self.mmio.insert(address, PciTransport::BAR_SIZE, window.device.clone()).is_err() {
            return false;
        }
        window.address = Some(address);
        for doorbell in &window.doorbells {
            // Without it, notifications still arrive, by exits.
            match self.vm.add_doorbell(address.saturating_add(doorbell.offset), &doorbell.event) {
                Ok(()) => window.registered.push(doorbell.clone()),
                Err(error) => tracing::debug!(%error, "a doorbell does not move with its BAR"),
            }
        }
        true
    }

    /// The virtio devices that share a thread.
    pub(crate) fn shared_thread(&self) -> Vec<Arc<Mutex<PciTransport>>> {
        let shared = self.slots.iter().filter(|slot| slot.thread == Thread::Shared);
        shared.map(|slot| Arc::clone(&slot.transport)).collect()
    }

    /// The virtio devices that have one each, and what it is called.
    pub(crate) fn own_threads(&self) -> Vec<(&'static str, Arc<Mutex<PciTransport>>)> {
        let own = self.slots.iter().filter_map(|slot| match slot.thread {
            Thread::Own(name) => Some((name, Arc::clone(&slot.transport))),
            Thread::Shared => None,
        });
        own.collect()
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn taken(error: snowboot_bus::BusError) -> Error {
    Error::Config(error.to_string())
}
