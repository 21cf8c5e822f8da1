//! A 16550A serial port: the register model of vm-superio, with an input backlog behind its FIFO.
//!
//! The machine puts [`Serial`] on its bus at eight ports and gives [`SerialInput`] to whoever types. The port owns its
//! registers and the input that the guest has not read yet. It must never block the vCPU: output goes to the writer byte
//! by byte as the guest sends it, and a writer that fails only loses bytes.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use serde::{Deserialize, Serialize};
use snowboot_bus::{Action, BusDevice, IrqLine, NotSaveable, RestoreError, Saved};
use vm_superio::serial::{NoEvents, SerialState};
use vm_superio::{Serial as Uart, Trigger};

/// Number of I/O ports that the device takes.
pub const PORTS: u64 = 8;

/// Input that waits behind the FIFO: enough to paste a large script, little enough to be held for a guest that never
/// reads.
pub const BACKLOG: usize = 1 << 20;

/// The FIFO of the register model.
const FIFO: usize = 64;
/// The transmit and receive register, while the divisor latch is not selected.
const DATA: u8 = 0;

/// The interrupts that can be enabled (National Semiconductor PC16550D, table II, as are all registers here).
const ENABLE_BITS: u8 = 0x0f;
/// Interrupt identification: none pending, or some of the two that the model has.
const NONE_PENDING: u8 = 0x01;
const TRANSMITTER_EMPTY: u8 = 0x02;
const DATA_AVAILABLE: u8 = 0x04;
/// Line status: there is input; and the transmitter is always ready.
const DATA_READY: u8 = 0x01;
const TRANSMITTER_READY: u8 = 0x20 | 0x40;

const KIND: &str = "serial-16550";
const VERSION: u16 = 1;

/// A serial port as the bus sees it.
pub struct Serial {
    inner: Arc<Mutex<Inner>>,
}

impl Serial {
    /// A port in its reset state that interrupts through `irq` and writes what the guest sends to `output`, one byte per
    /// call followed by a flush, on the vCPU's thread.
    #[must_use]
    pub fn new(irq: Arc<dyn IrqLine>, output: Box<dyn Write + Send>) -> (Self, SerialInput) {
        let uart = Uart::new(Line(irq), output);
        let inner = Arc::new(Mutex::new(Inner { uart, backlog: VecDeque::new() }));
        let input = SerialInput { inner: Arc::downgrade(&inner) };
        (Self { inner }, input)
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serial").finish_non_exhaustive()
    }
}

/// A wide access is one byte per port, as on the ISA bus.
impl BusDevice for Serial {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let mut inner = lock(&self.inner);
        for (register, byte) in (offset..PORTS).zip(data) {
            let register = u8::try_from(register).unwrap_or(u8::MAX);
            *byte = inner.uart.read(register);
            if register == DATA {
                inner.refill();
            }
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Action {
        let mut inner = lock(&self.inner);
        for (register, byte) in (offset..PORTS).zip(data) {
            let register = u8::try_from(register).unwrap_or(u8::MAX);
            // The only error left is the writer's: those bytes are lost, as on a cable nobody holds.
            let _ = inner.uart.write(register, *byte);
            if register != DATA {
                inner.refill(); // Leaving loop-back mode lets input in again.
            }
        }
        Action::None
    }

    /// The registers and the unread input.
    fn save(&self) -> Result<Option<Saved>, NotSaveable> {
        let inner = lock(&self.inner);
        let state = State::new(&inner.uart.state(), inner.backlog.iter().copied().collect());
        Saved::new(KIND, VERSION, &state).map(Some)
    }

    fn restore(&mut self, saved: Saved) -> Result<(), RestoreError> {
        let state: State = saved.open(KIND, VERSION)?;
        state.check()?;
        let mut inner = lock(&self.inner);
        let line = inner.uart.interrupt_evt().clone();
        let idle: Box<dyn Write + Send> = Box::new(io::sink());
        let output = std::mem::replace(&mut inner.uart, Uart::new(line.clone(), idle)).into_writer();
        // Only more input than the FIFO holds is refused, and that was checked.
        inner.uart = Uart::from_state(&state.uart(), line, NoEvents, output)
            .map_err(|error| RestoreError(format!("the serial port refused its registers: {error:?}")))?;
        inner.backlog = state.backlog.into();
        inner.refill();
        Ok(())
    }
}

/// The other end of the cable: what is pushed here, the guest reads. Clones share it. It does not keep the port, so that
/// the output's writer is dropped with the machine, and whoever reads from that learns of the end.
#[derive(Clone)]
pub struct SerialInput {
    inner: Weak<Mutex<Inner>>,
}

impl SerialInput {
    /// Queues input for the guest; returns how many bytes were taken. Past [`BACKLOG`] unread bytes the rest is refused, and
    /// all of it once the port is gone.
    pub fn push(&self, bytes: &[u8]) -> usize {
        let Some(inner) = self.inner.upgrade() else { return 0 };
        let mut inner = lock(&inner);
        let taken = bytes.len().min(BACKLOG.saturating_sub(inner.backlog.len()));
        inner.backlog.extend(bytes.iter().take(taken));
        inner.refill();
        taken
    }
}

impl fmt::Debug for SerialInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SerialInput").finish_non_exhaustive()
    }
}

struct Inner {
    uart: Uart<Line, NoEvents, Box<dyn Write + Send>>,
    backlog: VecDeque<u8>,
}

impl Inner {
    /// Fills an empty FIFO, so that a long input costs one interrupt per FIFO and not one per byte.
    fn refill(&mut self) {
        if self.backlog.is_empty() || self.uart.fifo_capacity() < FIFO {
            return;
        }
        let next: Vec<u8> = self.backlog.iter().copied().take(FIFO).collect();
        // In loop-back mode nothing is taken, and the input waits.
        let taken = self.uart.enqueue_raw_bytes(&next).unwrap_or(0);
        self.backlog.drain(..taken);
    }
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone, Debug)]
struct Line(Arc<dyn IrqLine>);

impl Trigger for Line {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.trigger();
        Ok(())
    }
}

/// The saved form.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    baud_divisor: u16,
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    in_buffer: Vec<u8>,
    backlog: Vec<u8>,
}

impl State {
    fn new(uart: &SerialState, backlog: Vec<u8>) -> Self {
        Self {
            baud_divisor: u16::from_le_bytes([uart.baud_divisor_low, uart.baud_divisor_high]),
            interrupt_enable: uart.interrupt_enable,
            interrupt_identification: uart.interrupt_identification,
            line_control: uart.line_control,
            line_status: uart.line_status,
            modem_control: uart.modem_control,
            modem_status: uart.modem_status,
            scratch: uart.scratch,
            in_buffer: uart.in_buffer.clone(),
            backlog,
        }
    }

    /// Whether a guest and a cable could have brought a port there.
    fn check(&self) -> Result<(), RestoreError> {
        if self.in_buffer.len() > FIFO || self.backlog.len() > BACKLOG {
            return Err(RestoreError("the serial port holds more input than it can".into()));
        }
        let pending = self.interrupt_identification;
        let identified =
            pending == NONE_PENDING || (pending != 0 && pending & !(TRANSMITTER_EMPTY | DATA_AVAILABLE) == 0);
        let ready = if self.in_buffer.is_empty() { 0 } else { DATA_READY };
        if self.interrupt_enable & !ENABLE_BITS != 0
            || !identified
            || self.line_status != TRANSMITTER_READY | ready
        {
            return Err(RestoreError("the serial port's registers are none that it can have".into()));
        }
        Ok(())
    }

    fn uart(&self) -> SerialState {
        let [baud_divisor_low, baud_divisor_high] = self.baud_divisor.to_le_bytes();
        SerialState {
            baud_divisor_low,
            baud_divisor_high,
            interrupt_enable: self.interrupt_enable,
            interrupt_identification: self.interrupt_identification,
            line_control: self.line_control,
            line_status: self.line_status,
            modem_control: self.modem_control,
            modem_status: self.modem_status,
            scratch: self.scratch,
            in_buffer: self.in_buffer.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const IER: u64 = 1;
    const MCR: u64 = 4;
    const LSR: u64 = 5;

    #[derive(Debug, Default)]
    struct Edges(AtomicUsize);

    impl IrqLine for Edges {
        fn trigger(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn port() -> (Serial, SerialInput, Arc<Edges>, Sink) {
        let (edges, sink) = (Arc::new(Edges::default()), Sink::default());
        let (serial, input) = Serial::new(edges.clone(), Box::new(sink.clone()));
        (serial, input, edges, sink)
    }

    fn get(serial: &mut Serial, register: u64) -> u8 {
        let mut byte = [0xff];
        serial.read(register, &mut byte);
        byte[0]
    }

    fn read_all(serial: &mut Serial) -> Vec<u8> {
        let mut all = Vec::new();
        while get(serial, LSR) & 1 != 0 {
            all.push(get(serial, 0));
        }
        all
    }

    #[test]
    fn it_is_a_bus_device() {
        for waiting in [0, 1, 300] {
            snowboot_bus::testing::conformance(PORTS, || {
                let (serial, input, ..) = port();
                input.push(&vec![7; waiting]);
                Box::new(serial)
            });
        }
    }

    #[test]
    fn what_the_guest_sends_arrives_at_once() {
        let (mut serial, _, _, sink) = port();
        for byte in b"login: " {
            assert_eq!(serial.write(0, &[*byte]), Action::None);
        }
        assert_eq!(*sink.0.lock().unwrap(), b"login: ");
    }

    #[test]
    fn a_long_input_arrives_whole_with_one_interrupt_per_fifo() {
        let (mut serial, input, edges, _) = port();
        let _ = serial.write(IER, &[1]);
        let text: Vec<u8> = (0..=255).cycle().take(1000).collect();
        assert_eq!(input.push(&text), 1000);
        assert_eq!(read_all(&mut serial), text);
        assert_eq!(edges.0.load(Ordering::Relaxed), 1000usize.div_ceil(FIFO));
    }

    #[test]
    fn input_is_bounded() {
        let (mut serial, input, ..) = port();
        assert_eq!(input.push(&vec![7; BACKLOG + 5]), BACKLOG);
        assert_eq!(input.push(&[7; 100]), FIFO);
        assert_eq!(input.push(&[7]), 0);
        assert_eq!(read_all(&mut serial).len(), BACKLOG + FIFO);
    }

    #[test]
    fn input_waits_while_the_port_is_looped_back() {
        let (mut serial, input, ..) = port();
        let _ = serial.write(MCR, &[0x10]);
        input.push(b"x");
        assert_eq!(read_all(&mut serial), b"");
        let _ = serial.write(MCR, &[0]);
        assert_eq!(read_all(&mut serial), b"x");
    }

    #[test]
    fn a_saved_port_carries_registers_and_unread_input() {
        let (mut serial, input, ..) = port();
        let _ = serial.write(7, &[0x42]);
        input.push(&[3; 100]);
        let saved = serial.save().unwrap().unwrap();
        let (mut other, _, _, sink) = port();
        other.restore(saved.clone()).unwrap();
        assert_eq!(other.save().unwrap().as_ref(), Some(&saved));
        assert_eq!(get(&mut other, 7), 0x42);
        assert_eq!(read_all(&mut other), [3; 100]);
        let _ = other.write(0, b"!");
        assert_eq!(*sink.0.lock().unwrap(), b"!");

        let before = other.save().unwrap();
        for (field, value) in [
            ("in_buffer", serde_json::json!(vec![0u8; FIFO + 1])),
            ("in_buffer", serde_json::json!([])),
            ("backlog", serde_json::json!(vec![0u8; BACKLOG + 1])),
            ("interrupt_enable", 0x10.into()),
            ("interrupt_identification", 0.into()),
            ("interrupt_identification", 5.into()),
            ("line_status", 0x60.into()),
            ("line_status", 0x63.into()),
        ] {
            let mut bad = saved.clone();
            bad.body[field] = value;
            assert!(other.restore(bad).is_err(), "{field}");
            assert_eq!(other.save().unwrap(), before, "{field}");
        }
        let _ = other.write(0, b"!");
        assert_eq!(*sink.0.lock().unwrap(), b"!!", "the cable is still there");
    }
}
