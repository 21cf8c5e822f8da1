//! Bus 0: which function is in which slot, with the host bridge in slot 0.
//!
//! Owns the slots, and the host bridge in the first one. The machine attaches and detaches; the two windows look
//! functions up for every access, and hold the table's lock only while they do, so a function may be attached while
//! another one is being served.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::{CONFIG_SPACE_SIZE, ConfigSpace, ConfigSpaceState, Identifiers, PciError, PciFunction};
use crate::Action;
use crate::access::lock;

/// Slots of a bus.
const SLOTS: usize = 32;

/// The host bridge's slot.
const HOST_BRIDGE: u8 = 0;

type Function = Arc<Mutex<dyn PciFunction>>;

/// The host bridge and the functions of bus 0.
pub struct PciRoot {
    slots: RwLock<[Option<Function>; SLOTS]>,
    /// What is in slot 0, for its state.
    host_bridge: Arc<Mutex<HostBridge>>,
}

/// A register of configuration space, as both windows name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConfigAddress {
    pub(super) bus: u8,
    pub(super) device: u8,
    pub(super) function: u8,
    pub(super) register: u16,
}

impl PciRoot {
    /// A bus with nothing but its host bridge at 00:00.0.
    #[must_use]
    pub fn new() -> Self {
        let mut slots: [Option<Function>; SLOTS] = [const { None }; SLOTS];
        let host_bridge = Arc::new(Mutex::new(HostBridge::new()));
        if let Some(slot) = slots.first_mut() {
            *slot = Some(host_bridge.clone());
        }
        Self { slots: RwLock::new(slots), host_bridge }
    }

    /// Puts `function` at device number `number`, 1 to 31.
    ///
    /// # Errors
    /// When there is no such slot, or it is taken.
    pub fn attach(&self, number: u8, function: Arc<Mutex<dyn PciFunction>>) -> Result<(), PciError> {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let slot = slot_mut(&mut slots, number)?;
        if slot.is_some() {
            return Err(PciError::SlotTaken { number });
        }
        *slot = Some(function);
        Ok(())
    }

    /// Takes the function at device number `number` off the bus. An access that is under way ends first or goes on with
    /// the function that is handed back.
    ///
    /// # Errors
    /// When there is no such slot, or nothing is in it.
    pub fn detach(&self, number: u8) -> Result<Arc<Mutex<dyn PciFunction>>, PciError> {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        slot_mut(&mut slots, number)?.take().ok_or(PciError::SlotEmpty { number })
    }

    /// The lowest free device number.
    #[must_use]
    pub fn free_slot(&self) -> Option<u8> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.iter().position(Option::is_none).and_then(|number| u8::try_from(number).ok())
    }

    /// The host bridge's configuration space as plain data. The other functions belong to whoever attached them, and are
    /// saved there.
    #[must_use]
    pub fn save(&self) -> ConfigSpaceState {
        lock(&self.host_bridge).config.save()
    }

    /// Takes over the writable bits of a host bridge's saved configuration space, which need not be trusted.
    ///
    /// # Errors
    /// When the state is not of a function without BARs; nothing has changed then.
    pub fn restore(&self, state: ConfigSpaceState) -> Result<(), PciError> {
        // Without BARs there are no moves to carry out.
        lock(&self.host_bridge).config.restore(state).map(drop)
    }

    /// Reads a register; `data` is all ones when nothing is there.
    pub(super) fn read(&self, address: ConfigAddress, data: &mut [u8]) {
        data.fill(0xff);
        if let Some(function) = self.find(address, data.len()) {
            lock(&function).read_config(address.register, data);
        }
    }

    /// Writes a register; nothing happens when nothing is there.
    pub(super) fn write(&self, address: ConfigAddress, data: &[u8]) -> Action {
        match self.find(address, data.len()) {
            Some(function) => lock(&function).write_config(address.register, data),
            None => Action::None,
        }
    }

    /// The function that owns all `width` bytes at `address`. An access over the end of a function's space has no
    /// owner.
    fn find(&self, address: ConfigAddress, width: usize) -> Option<Function> {
        let end = usize::from(address.register).checked_add(width)?;
        if address.bus != 0 || address.function != 0 || end > usize::from(CONFIG_SPACE_SIZE) {
            return None;
        }
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.get(usize::from(address.device))?.clone()
    }
}

impl Default for PciRoot {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for PciRoot {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let taken = slots.iter().enumerate().filter_map(|(number, slot)| slot.as_ref().map(|_| number));
        formatter.write_str("PciRoot ")?;
        formatter.debug_list().entries(taken).finish()
    }
}

/// The bridge between the processors and bus 0. It has no registers of its own; operating systems look for its class.
#[derive(Debug)]
struct HostBridge {
    config: ConfigSpace,
}

impl HostBridge {
    fn new() -> Self {
        // An Intel host bridge that no driver and no quirk of Linux binds to, as other KVM runtimes use.
        let identifiers = Identifiers {
            vendor: 0x8086,
            device: 0x0d57,
            revision: 0,
            class: [0x06, 0x00, 0x00],
            subsystem_vendor: 0,
            subsystem: 0,
        };
        Self { config: ConfigSpace::new(HOST_BRIDGE, identifiers) }
    }
}

impl PciFunction for HostBridge {
    fn read_config(&mut self, offset: u16, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn write_config(&mut self, offset: u16, data: &[u8]) -> Action {
        self.config.write(offset, data)
    }

    fn read_bar(&mut self, _bar: u8, _offset: u64, _data: &mut [u8]) {}

    fn write_bar(&mut self, _bar: u8, _offset: u64, _data: &[u8]) -> Action {
        Action::None
    }
}

fn slot_mut(slots: &mut [Option<Function>; SLOTS], number: u8) -> Result<&mut Option<Function>, PciError> {
    if number == HOST_BRIDGE {
        return Err(PciError::NoSlot { number });
    }
    slots.get_mut(usize::from(number)).ok_or(PciError::NoSlot { number })
}
