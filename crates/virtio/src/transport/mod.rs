//! virtio over PCI (virtio 1.2, 4.1): a function whose BAR 0 holds a device's registers, doorbells and interrupts.
//!
//! Owns the registers and, whenever the device must not run, its session. The session runs while three things are so:
//! the driver has set `DRIVER_OK`, the machine has not paused the device, and the driver lets the function be a bus
//! master (a kernel that starts another one takes that away, to keep devices out of the new kernel's memory).
//!
//! ```text
//!              DRIVER_OK                     pause, bus master off
//!   no session ─────────► held ◄────────────────────────────────── running
//!        ▲                 │  ──────────────────────────────────►     │
//!        │                 │         resume, bus master on            │
//!        └─────────────────┴──────────────────────────────────────────┘
//!              reset, FAILED, a fault (which also sets NEEDS_RESET)
//! ```
//!
//! vCPU threads call in through the bus, and the machine's event loop through [`PciTransport::queue_ready`] and
//! [`PciTransport::source_ready`], under one lock that the machine holds. Nothing here blocks or watches anything.

mod layout;
mod registers;
mod state;
#[cfg(test)]
mod tests;

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use snowboot_bus::pci::{BarInfo, ConfigSpace, MsixTable, PciError, PciFunction};
use snowboot_bus::{Action, BarMove, GuestMemory, MsiAllocator, MsiError};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use self::layout::{Capabilities, Place};
use self::registers::{Event, Registers};
use crate::device::{Device, DeviceId, NotSaveable, RestoreError, Session, Token};
use crate::{Interrupt, Queue};

pub use registers::RegistersState;
pub use state::TransportState;

/// The window's registers, from the start of its capability (4.1.4.9).
const WINDOW_BAR: u16 = 4;
const WINDOW_OFFSET: u16 = 8;
const WINDOW_LENGTH: u16 = 12;
const WINDOW_DATA: u16 = 16;

/// A device cannot be put on PCI.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// There is no room for its doorbells and vectors.
    #[error("A PCI device cannot have {queues} virtqueues; the most are {}", layout::MAX_QUEUES)]
    TooManyQueues {
        /// How many it has.
        queues: usize,
    },
    /// The interrupt controller is exhausted.
    #[error("Cannot allocate an interrupt for each queue of the device")]
    Interrupts(#[source] MsiError),
    /// The process is out of file descriptors, most likely.
    #[error("Cannot create a doorbell for each queue of the device")]
    Doorbells(#[source] std::io::Error),
    /// The address is not one for the BAR.
    #[error("Cannot lay out the device's PCI function")]
    Pci(#[source] PciError),
}

/// Where a driver notifies one queue.
#[derive(Clone, Debug)]
pub struct Doorbell {
    /// The queue.
    pub queue: u16,
    /// Offset in BAR 0. A write of any width and value there rings it.
    pub offset: u64,
    /// Becomes readable when the doorbell rings. Whoever watches it reads it and then calls
    /// [`PciTransport::queue_ready`]. The queue itself rings it too, when it has more work than one turn's.
    pub event: Arc<EventFd>,
}

/// A PCI function that drives a virtio device.
pub struct PciTransport {
    device: Box<dyn Device>,
    id: DeviceId,
    memory: Arc<GuestMemory>,
    config: ConfigSpace,
    capabilities: Capabilities,
    registers: Registers,
    interrupt: Interrupt,
    doorbells: Vec<Arc<EventFd>>,
    /// The session while the device must not run.
    held: Option<Session>,
    paused: bool,
    /// How often the device needed a reset; each power of two is logged.
    faults: u64,
}

impl PciTransport {
    /// Length of BAR 0 in bytes.
    pub const BAR_SIZE: u64 = layout::BAR_SIZE;

    /// Puts `device` into slot `device_number` of bus 0, with BAR 0 at `bar_address`, a multiple of [`Self::BAR_SIZE`].
    ///
    /// # Errors
    /// When the device has too many queues, or interrupts, doorbells or the address are not to be had.
    pub fn new(
        device: Box<dyn Device>,
        device_number: u8,
        bar_address: u64,
        memory: GuestMemory,
        msi: &dyn MsiAllocator,
    ) -> Result<Self, TransportError> {
        let identity = device.identity();
        let sizes = &identity.queue_sizes;
        let queues = u16::try_from(sizes.len()).ok().filter(|_| sizes.len() <= layout::MAX_QUEUES);
        let queues = queues.ok_or(TransportError::TooManyQueues { queues: sizes.len() })?;
        // One for the configuration, and one for each queue.
        let sources: Result<Vec<_>, _> = (0..=queues).map(|_| msi.allocate()).collect();
        let msix = MsixTable::new(sources.map_err(TransportError::Interrupts)?);
        let event = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map(Arc::new);
        let doorbells: Result<Vec<_>, _> = sizes.iter().map(|_| event()).collect();
        let mut config = ConfigSpace::new(device_number, layout::identifiers(identity.id));
        let capabilities = layout::add_capabilities(&mut config, bar_address, queues, msix.control())
            .map_err(TransportError::Pci)?;
        let interrupt = Interrupt::new(msix, sizes.len());
        Ok(Self {
            device,
            id: identity.id,
            memory: Arc::new(memory),
            config,
            capabilities,
            registers: Registers::new(identity.features, sizes, interrupt.clone()),
            interrupt,
            doorbells: doorbells.map_err(TransportError::Doorbells)?,
            held: None,
            paused: false,
            faults: 0,
        })
    }

    /// The device's type.
    #[must_use]
    pub fn device_id(&self) -> DeviceId {
        self.id
    }

    /// Where BAR 0 is now.
    #[must_use]
    pub fn bar(&self) -> BarInfo {
        let nowhere = BarInfo { address: 0, size: Self::BAR_SIZE };
        self.config.bar(layout::BAR).unwrap_or(nowhere)
    }

    /// The queues' doorbells, for the machine to register with the kernel and to watch.
    #[must_use]
    pub fn doorbells(&self) -> Vec<Doorbell> {
        (0..)
            .zip(&self.doorbells)
            .map(|(queue, event)| Doorbell {
                queue,
                offset: layout::doorbell(queue),
                event: Arc::clone(event),
            })
            .collect()
    }

    /// The doorbells that the machine watches: all or none, as [`Device::watches_doorbells`] says.
    #[must_use]
    pub fn watched_doorbells(&self) -> Vec<Doorbell> {
        if self.device.watches_doorbells() { self.doorbells() } else { Vec::new() }
    }

    /// The device's own descriptors to watch for reading, as [`Device::sources`].
    #[must_use]
    pub fn sources(&self) -> Vec<(Token, BorrowedFd<'_>)> {
        self.device.sources()
    }

    /// Whether the guest lets the function answer at its BAR.
    #[must_use]
    pub fn is_decoding(&self) -> bool {
        self.config.memory_enabled()
    }

    /// How many requests the device has answered, of all its queues.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.interrupt.answered()
    }

    /// A doorbell rang. Does nothing when the device is not running.
    pub fn queue_ready(&mut self, queue: u16) {
        if let Err(fault) = self.device.queue_ready(queue) {
            self.fail(&fault);
        }
    }

    /// A source became readable.
    pub fn source_ready(&mut self, token: Token) {
        if let Err(fault) = self.device.source_ready(token) {
            self.fail(&fault);
        }
    }

    /// Stops the device and keeps its session, until [`Self::resume`].
    pub fn pause(&mut self) {
        self.paused = true;
        self.settle();
    }

    /// Lets the device run again, if its driver wants it to. It serves what has come in meanwhile.
    pub fn resume(&mut self) {
        self.paused = false;
        self.settle();
    }

    /// Back to how it was when the machine was built, with the BAR at its first address, where the machine moves its
    /// range. A paused device stays paused.
    pub fn reset(&mut self) {
        self.reset_device();
        self.registers.reset();
        self.interrupt.msix().reset();
        self.config.reset();
    }

    /// The whole function as plain data.
    ///
    /// # Errors
    /// When it is not paused, or the device cannot be saved.
    pub fn save(&self) -> Result<TransportState, NotSaveable> {
        if !self.paused {
            return Err(NotSaveable { reason: "it is running; pause the machine first".into() });
        }
        let queues = |session: &Session| {
            let states = session.queues.iter().map(|queue| queue.as_ref().map(Queue::state).transpose());
            states.collect::<Result<Vec<_>, _>>()
        };
        Ok(TransportState {
            version: state::VERSION,
            device_type: state::device_type(self.id),
            config: self.config.save(),
            msix: self.interrupt.msix().save(),
            registers: self.registers.save(),
            queues: self.held.as_ref().map(queues).transpose()?,
            device: self.device.save()?,
        })
    }

    /// Takes over a saved state, which need not be trusted, and returns the moves of BARs that the machine has to carry
    /// out. The device runs from [`Self::resume`] on.
    ///
    /// # Errors
    /// When it is not paused, or the state is not of such a device. It is as after [`Self::reset`] then.
    pub fn restore(&mut self, state: TransportState) -> Result<Vec<BarMove>, RestoreError> {
        if !self.paused {
            return Err(RestoreError("it is running; pause the machine first".into()));
        }
        self.reset();
        let outcome = self.take_over(state);
        if outcome.is_err() {
            self.reset();
        }
        outcome
    }

    fn take_over(&mut self, state: TransportState) -> Result<Vec<BarMove>, RestoreError> {
        let refused = |error: PciError| RestoreError(error.to_string());
        state.check(self.id)?;
        self.interrupt.msix().restore(state.msix).map_err(refused)?;
        self.registers.restore(&state.registers)?;
        match (self.registers.is_live(), state.queues) {
            (true, Some(queues)) => self.held = Some(self.session_at(queues)?),
            (false, None) => {}
            _ => return Err(RestoreError("its queues and its status do not fit together".into())),
        }
        self.device.restore(state.device)?;
        self.config.restore(state.config).map_err(refused)
    }

    /// A session whose queues go on from saved states.
    fn session_at(&self, states: Vec<Option<crate::QueueState>>) -> Result<Session, RestoreError> {
        let mut session = self.session().map_err(|fault| RestoreError(fault.to_string()))?;
        if states.len() != session.queues.len() {
            return Err(RestoreError("its queues are not this device's".into()));
        }
        for (queue, state) in session.queues.iter_mut().zip(states) {
            match (queue, state) {
                (Some(queue), Some(state)) => queue.restore(state)?,
                (None, None) => {}
                _ => return Err(RestoreError("its queues are not those that are enabled".into())),
            }
        }
        Ok(session)
    }

    fn session(&self) -> Result<Session, crate::QueueFault> {
        let features = self.registers.features();
        let queues = (0..).zip(self.registers.queues()).zip(&self.doorbells);
        let queues = queues.map(|((index, config), doorbell)| {
            let queue =
                config.ready.then(|| Queue::new(index, config, features, &self.memory)).transpose()?;
            Ok(queue.map(|queue| queue.with_doorbell(Arc::clone(doorbell))))
        });
        Ok(Session { features, queues: queues.collect::<Result<_, _>>()?, interrupt: self.interrupt.clone() })
    }

    /// Brings the session to where it belongs: to the device if it may run, else here.
    fn settle(&mut self) {
        if self.paused || !self.config.bus_master() {
            if let Some(session) = self.device.stop() {
                self.held = Some(session);
            }
        } else if let Some(session) = self.held.take()
            && let Err(error) = self.device.start(session)
        {
            self.fail(&error);
        }
    }

    fn begin_session(&mut self) {
        match self.session() {
            Ok(session) => {
                self.held = Some(session);
                self.settle();
            }
            Err(fault) => self.fail(&fault),
        }
    }

    fn end_session(&mut self) {
        drop(self.device.stop());
        self.held = None;
    }

    fn reset_device(&mut self) {
        self.end_session();
        self.device.reset();
    }

    /// The device cannot go on before its driver resets it (2.1.2).
    fn fail(&mut self, reason: &dyn std::error::Error) {
        self.end_session();
        self.faults = self.faults.saturating_add(1);
        if self.faults.is_power_of_two() {
            tracing::warn!(device = ?self.id, faults = self.faults, %reason, "the device needs a reset by its driver");
        }
        self.registers.set_needs_reset();
        if self.registers.driver_ok() {
            self.interrupt.config();
        }
    }

    fn read_place(&mut self, offset: u64, data: &mut [u8]) {
        match layout::place(offset) {
            Some(Place::Common(offset)) => self.registers.read(offset, data),
            Some(Place::InterruptStatus(offset)) => {
                data.fill(0);
                if let Some(byte) = data.first_mut().filter(|_| offset == 0) {
                    *byte = self.interrupt.take_status();
                }
            }
            Some(Place::Device(offset)) => {
                data.fill(0);
                self.device.read_config(offset, data);
            }
            Some(Place::Doorbell(_)) => data.fill(0),
            Some(Place::MsixTable(offset)) => self.interrupt.msix().read_table(offset, data),
            Some(Place::MsixPending(offset)) => self.interrupt.msix().read_pba(offset, data),
            None => {}
        }
    }

    fn write_place(&mut self, offset: u64, data: &[u8]) {
        match layout::place(offset) {
            Some(Place::Common(offset)) => match self.registers.write(offset, data) {
                Event::None => {}
                Event::Start => self.begin_session(),
                Event::Stop => self.end_session(),
                Event::Reset => self.reset_device(),
            },
            Some(Place::Device(offset)) => self.device.write_config(offset, data),
            Some(Place::Doorbell(offset)) => {
                let event = layout::doorbell_queue(offset).and_then(|queue| self.doorbells.get(queue));
                if let Some(event) = event {
                    // A counter that is full is readable already.
                    let _ = event.write(1);
                }
            }
            Some(Place::MsixTable(offset)) => {
                self.interrupt.msix().write_table(offset, data);
                self.report_routes();
            }
            Some(Place::InterruptStatus(_) | Place::MsixPending(_)) | None => {}
        }
    }

    fn report_routes(&self) {
        let mut msix = self.interrupt.msix();
        if let Some(error) = msix.take_route_error()
            && msix.route_failures().is_power_of_two()
        {
            let reason = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(device = ?self.id, %error, reason, "the guest's interrupt cannot be routed");
        }
    }

    /// The access that the driver has set up in the window, if it is one (4.1.4.9): offset in the BAR, and width.
    fn window(&self) -> Option<(u64, usize)> {
        let register = |offset| self.config.read_u32(self.capabilities.window + offset);
        let bar = self.config.read_u8(self.capabilities.window + WINDOW_BAR);
        let offset = register(WINDOW_OFFSET);
        let width: u16 = match register(WINDOW_LENGTH) {
            1 => 1,
            2 => 2,
            4 => 4,
            _ => return None,
        };
        let aligned = offset.is_multiple_of(u32::from(width));
        (bar == layout::BAR && aligned).then_some((offset.into(), usize::from(width)))
    }

    fn touches_window(&self, offset: u16, length: usize) -> bool {
        let start = self.capabilities.window + WINDOW_DATA;
        let end = usize::from(offset).saturating_add(length);
        offset < start + 4 && end > usize::from(start)
    }
}

impl PciFunction for PciTransport {
    fn read_config(&mut self, offset: u16, data: &mut [u8]) {
        if self.touches_window(offset, data.len())
            && let Some((place, width)) = self.window()
        {
            let mut bytes = [0; 4];
            if let Some(bytes) = bytes.get_mut(..width) {
                bytes.fill(0xff);
                self.read_place(place, bytes);
            }
            // Data is the driver's to write, so nothing else is touched, and it moves no BAR.
            let _ = self.config.write(self.capabilities.window + WINDOW_DATA, &bytes);
        }
        self.config.read(offset, data);
    }

    fn write_config(&mut self, offset: u16, data: &[u8]) -> Action {
        let was_decoding = self.is_decoding();
        let mut action = self.config.write(offset, data);
        // The machine may have given the place away meanwhile.
        if self.is_decoding() && !was_decoding && action == Action::None {
            let BarInfo { address, size } = self.bar();
            let device = self.config.device_number();
            action = Action::MoveBar(BarMove { device, bar: layout::BAR, from: address, to: address, size });
        }
        if self.touches_window(offset, data.len())
            && let Some((place, width)) = self.window()
        {
            let bytes = self.config.read_u32(self.capabilities.window + WINDOW_DATA).to_le_bytes();
            self.write_place(place, bytes.get(..width).unwrap_or_default());
        }
        let control = self.config.read_u16(self.capabilities.msix_control);
        self.interrupt.msix().set_control(control);
        self.report_routes();
        self.settle();
        action
    }

    fn read_bar(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
        if bar == layout::BAR && self.config.memory_enabled() {
            self.read_place(offset, data);
        }
    }

    fn write_bar(&mut self, bar: u8, offset: u64, data: &[u8]) -> Action {
        if bar == layout::BAR && self.config.memory_enabled() {
            self.write_place(offset, data);
        }
        Action::None
    }
}

impl fmt::Debug for PciTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PciTransport")
            .field("id", &self.id)
            .field("registers", &self.registers)
            .field("held", &self.held)
            .field("paused", &self.paused)
            .finish_non_exhaustive()
    }
}
