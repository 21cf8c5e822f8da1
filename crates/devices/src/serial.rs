//! A 16550A serial port: the register model of vm-superio, with an input backlog behind its FIFO.
//!
//! The machine puts [`Serial`] on its bus at eight ports and gives [`SerialInput`] to whoever types. The port owns its
//! registers and the input that the guest has not read yet. It must never block the vCPU: output goes to the writer byte
//! by byte as the guest sends it, and a writer that fails only loses bytes.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use snowboot_bus::{Action, BusDevice, IrqLine};
use snowboot_virtio::{NotSaveable, RestoreError, Saved};
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
        (Self { inner: Arc::clone(&inner) }, SerialInput { inner })
    }

    /// The registers and the unread input.
    ///
    /// # Errors
    /// When the state cannot be expressed as plain data.
    pub fn save(&self) -> Result<Saved, NotSaveable> {
        let inner = lock(&self.inner);
        let state = State::new(&inner.uart.state(), inner.backlog.iter().copied().collect());
        Saved::new(KIND, VERSION, &state)
    }

    /// Takes a saved state.
    ///
    /// # Errors
    /// When the state is another device's, malformed, or holds more input than the port does.
    pub fn restore(&mut self, saved: Saved) -> Result<(), RestoreError> {
        let state: State = saved.open(KIND, VERSION)?;
        if state.in_buffer.len() > FIFO || state.backlog.len() > BACKLOG {
            return Err(RestoreError("the serial port holds more input than it can".into()));
        }
        let mut inner = lock(&self.inner);
        let line = inner.uart.interrupt_evt().clone();
        let idle: Box<dyn Write + Send> = Box::new(io::sink());
        let output = std::mem::replace(&mut inner.uart, Uart::new(line.clone(), idle)).into_writer();
        inner.uart = Uart::from_state(&state.uart(), line, NoEvents, output)
            .map_err(|error| RestoreError(format!("the serial port refused its registers: {error:?}")))?;
        inner.backlog = state.backlog.into();
        inner.refill();
        Ok(())
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
}

/// The other end of the cable: what is pushed here, the guest reads. Clones share it.
#[derive(Clone)]
pub struct SerialInput {
    inner: Arc<Mutex<Inner>>,
}

impl SerialInput {
    /// Queues input for the guest; returns how many bytes were taken. Past [`BACKLOG`] unread bytes the rest is refused.
    pub fn push(&self, bytes: &[u8]) -> usize {
        let mut inner = lock(&self.inner);
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
    fn any_width_and_offset_is_answered() {
        let (mut serial, ..) = port();
        for offset in 0..PORTS + 2 {
            for width in [1, 2, 4, 8] {
                serial.read(offset, &mut vec![0xff; width]);
                let _ = serial.write(offset, &vec![0x5a; width]);
            }
        }
    }

    #[test]
    fn a_saved_port_carries_registers_and_unread_input() {
        let (mut serial, input, ..) = port();
        let _ = serial.write(7, &[0x42]);
        input.push(&[3; 100]);
        let saved = serial.save().unwrap();
        let (mut other, _, _, sink) = port();
        other.restore(saved.clone()).unwrap();
        assert_eq!(other.save().unwrap(), saved);
        assert_eq!(get(&mut other, 7), 0x42);
        assert_eq!(read_all(&mut other), [3; 100]);
        let _ = other.write(0, b"!");
        assert_eq!(*sink.0.lock().unwrap(), b"!");

        let mut bad = saved.clone();
        bad.body["in_buffer"] = vec![0u8; FIFO + 1].into();
        assert!(other.restore(bad).is_err());
        let mut bad = saved;
        bad.version += 1;
        assert!(other.restore(bad).is_err());
    }
}
