//! The root and its windows, and what random accesses do to all of it.

use proptest::prelude::*;

use super::*;
use crate::{Bus, BusDevice, Op};

const ECAM: u64 = 0xe000_0000;

struct Machine {
    mmio: Bus,
    ports: Bus,
    root: Arc<PciRoot>,
}

fn machine() -> Machine {
    let root = Arc::new(PciRoot::new());
    let function = Arc::new(Mutex::new(TestFunction::new(3)));
    root.attach(3, function.clone()).unwrap();
    let (mmio, ports) = (Bus::new(), Bus::new());
    mmio.insert(BAR_ADDRESS, BAR_SIZE, Arc::new(Mutex::new(BarWindow::new(function, 0)))).unwrap();
    mmio.insert(ECAM, 1 << 20, Arc::new(Mutex::new(Ecam::new(Arc::clone(&root))))).unwrap();
    ports.insert(0xcf8, 8, Arc::new(Mutex::new(ConfigPorts::new(Arc::clone(&root))))).unwrap();
    Machine { mmio, ports, root }
}

fn read<const N: usize>(bus: &Bus, address: u64) -> [u8; N] {
    let mut data = [0; N];
    assert_eq!(bus.serve(address, Op::Read(&mut data)), Action::None);
    data
}

fn ecam(device: u64, function: u64, register: u64) -> u64 {
    ECAM + (device << 15) + (function << 12) + register
}

fn select(machine: &Machine, address: u32) {
    assert_eq!(machine.ports.serve(0xcf8, Op::Write(&address.to_le_bytes())), Action::None);
}

#[test]
fn the_ports_are_a_bus_device() {
    // One function for all, so that the address alone is theirs.
    let root = machine().root;
    crate::testing::conformance(8, || Box::new(ConfigPorts::new(Arc::clone(&root))));
}

#[test]
fn reserved_bits_of_a_saved_address_are_not_taken() {
    let mut ports = ConfigPorts::new(machine().root);
    let mut saved = ports.save().unwrap().unwrap();
    saved.body = serde_json::json!({ "address": u32::MAX });
    ports.restore(saved).unwrap();
    let mut data = [0; 4];
    ports.read(0, &mut data);
    assert_eq!(u32::from_le_bytes(data), 0x80ff_fffc);
}

#[test]
fn the_other_windows_keep_no_state() {
    let machine = machine();
    let function = machine.root.detach(3).unwrap();
    assert_eq!(BarWindow::new(function, 0).save().unwrap(), None);
    let mut ecam = Ecam::new(Arc::clone(&machine.root));
    assert_eq!(ecam.save().unwrap(), None);
    let foreign = ConfigPorts::new(machine.root).save().unwrap().unwrap();
    ecam.restore(foreign).unwrap_err();
}

#[test]
fn the_host_bridge_is_saved_and_restored() {
    let (one, other) = (machine(), machine());
    let fresh = one.root.save();
    let all: Vec<u8> = (0..=255).map(|byte: u8| byte ^ 0x5a).collect();
    for (offset, bytes) in (0..).step_by(4).zip(all.chunks(4)) {
        assert_eq!(one.mmio.serve(ECAM + offset, Op::Write(bytes)), Action::None);
    }
    let saved = one.root.save();
    assert_ne!(saved, fresh);
    other.root.restore(saved.clone()).unwrap();
    assert_eq!(other.root.save(), saved);
    one.root.restore(saved.clone()).unwrap();
    assert_eq!(one.root.save(), saved);
    let header: [u8; 64] = read(&one.mmio, ECAM);
    assert_eq!(read::<64>(&other.mmio, ECAM), header);

    let ones = ConfigSpaceState { registers: vec![0xff; 256], bars: Vec::new() };
    other.root.restore(ones).unwrap();
    assert_eq!(u32::from_le_bytes(read(&other.mmio, ECAM)), 0x0d57_8086, "read-only bits are not taken");
    let before = other.root.save();
    for wrong in [
        ConfigSpaceState { registers: vec![0; 255], ..saved.clone() },
        ConfigSpaceState { bars: vec![0], ..saved },
    ] {
        other.root.restore(wrong).unwrap_err();
        assert_eq!(other.root.save(), before);
    }
}

#[test]
fn the_host_bridge_is_there_and_stays() {
    let machine = machine();
    assert_eq!(u32::from_le_bytes(read(&machine.mmio, ECAM)), 0x0d57_8086);
    assert_eq!(u32::from_le_bytes(read(&machine.mmio, ECAM + 8)), 0x0600_0000);
    assert_eq!(machine.root.detach(0).err(), Some(PciError::NoSlot { number: 0 }));
}

#[test]
fn slots_are_given_out_and_taken_back() {
    let root = PciRoot::new();
    for number in 1..32 {
        assert_eq!(root.free_slot(), Some(number));
        root.attach(number, Arc::new(Mutex::new(TestFunction::new(number)))).unwrap();
    }
    assert_eq!(root.free_slot(), None);
    let function = root.detach(7).unwrap();
    assert_eq!(root.free_slot(), Some(7));
    assert_eq!(root.detach(7).err(), Some(PciError::SlotEmpty { number: 7 }));
    assert_eq!(root.attach(8, function.clone()), Err(PciError::SlotTaken { number: 8 }));
    for number in [0, 32, 255] {
        assert_eq!(root.attach(number, function.clone()), Err(PciError::NoSlot { number }));
    }
}

#[test]
fn absent_functions_read_all_ones() {
    let machine = machine();
    for address in [ecam(1, 0, 0), ecam(3, 1, 0), ecam(31, 7, 0xffc), ecam(3, 0, 0xffe), ECAM + (1 << 20)] {
        assert_eq!(read(&machine.mmio, address), [0xff; 4], "{address:#x}");
        assert_eq!(machine.mmio.serve(address, Op::Write(&[0; 4])), Action::None);
    }
    let mut window = Ecam::new(Arc::clone(&machine.root));
    for offset in [1 << 20, 1 << 28, u64::MAX] {
        let mut data = [0xff; 4];
        window.read(offset, &mut data);
        assert_eq!(data, [0xff; 4]);
        assert_eq!(window.write(offset, &[0; 4]), Action::None);
    }
}

#[test]
fn both_windows_give_the_same_answers() {
    let machine = machine();
    for device in 0..32_u32 {
        for register in (0..256_u32).step_by(4) {
            select(&machine, 1 << 31 | device << 11 | register);
            let address = ecam(u64::from(device), 0, u64::from(register));
            assert_eq!(read::<4>(&machine.mmio, address), read::<4>(&machine.ports, 0xcfc));
            assert_eq!(read::<2>(&machine.mmio, address + 1), read::<2>(&machine.ports, 0xcfd));
            assert_eq!(read::<1>(&machine.mmio, address + 3), read::<1>(&machine.ports, 0xcff));
        }
    }
    select(&machine, 1 << 31 | 3 << 11 | 4);
    assert_eq!(machine.ports.serve(0xcfd, Op::Write(&[4])), Action::None);
    assert_eq!(read(&machine.mmio, ecam(3, 0, 4)), [0, 4, 0x10, 0], "a byte of COMMAND");
    assert_eq!(
        machine.mmio.serve(ecam(3, 0, 0x10), Op::Write(&0x1_d000_0000_u64.to_le_bytes())),
        Action::None
    );
    let action = machine.ports.serve(0xcfc, Op::Write(&[2]));
    assert!(matches!(action, Action::MoveBar(moved) if moved.device == 3 && moved.to == 0x1_d000_0000));
}

#[test]
fn the_address_port_takes_dwords_only() {
    let machine = machine();
    select(&machine, u32::MAX);
    assert_eq!(u32::from_le_bytes(read(&machine.ports, 0xcf8)), 0x80ff_fffc);
    select(&machine, 0x8000_0000);
    assert_eq!(machine.ports.serve(0xcfb, Op::Write(&[1])), Action::None);
    assert_eq!(machine.ports.serve(0xcf8, Op::Write(&[1, 1])), Action::None);
    assert_eq!(u32::from_le_bytes(read(&machine.ports, 0xcf8)), 0x8000_0000);
    assert_eq!(read(&machine.ports, 0xcf8), [0xff], "no mechanism #2");
    assert_eq!(read(&machine.ports, 0xcfa), [0xff; 4], "across the two registers");
    assert_eq!(read(&machine.ports, 0xcfe), [0xff; 4], "across the end");
    let mut ports = ConfigPorts::new(Arc::clone(&machine.root));
    assert_eq!(ports.write(0, &0x8000_0000_u32.to_le_bytes()), Action::None);
    let mut data = [0xff; 4];
    ports.read(6, &mut data);
    assert_eq!(data, [0xff; 4], "across the end, whatever range it was inserted at");
    for absent in [0x0000_0000, 0x8001_0000, 0x8000_0100] {
        select(&machine, absent);
        assert_eq!(read(&machine.ports, 0xcfc), [0xff; 4], "{absent:#x}");
    }
}

#[test]
fn a_bar_window_reaches_its_bar_wherever_it_is() {
    let machine = machine();
    assert_eq!(machine.mmio.serve(BAR_ADDRESS + 8, Op::Write(&[1, 2, 3, 4])), Action::None);
    assert_eq!(read(&machine.mmio, BAR_ADDRESS + 8), [1, 2, 3, 4]);
    machine.mmio.relocate(BAR_ADDRESS, 0x1_0000_0000).unwrap();
    assert_eq!(read(&machine.mmio, 0x1_0000_0008), [1, 2, 3, 4]);
    assert_eq!(read(&machine.mmio, BAR_ADDRESS + 8), [0xff; 4]);
}

fn interesting() -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => (4..0x18_u64).prop_map(|register| ecam(3, 0, register)),
        2 => (0..0x100_u64).prop_map(|register| ecam(3, 0, register)),
        1 => ECAM..ECAM + (1 << 20) + 16,
        1 => BAR_ADDRESS..BAR_ADDRESS + 0x2040,
        1 => any::<u64>(),
    ]
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(0), Just(0xff), Just(2), any::<u8>()];
    prop::collection::vec(byte, 0..=8)
}

proptest! {
    /// No sequence of accesses panics; identity stays, and where the machine keeps a BAR is where it answers.
    #[test]
    fn random_accesses_do_no_harm(
        accesses in prop::collection::vec((any::<bool>(), any::<bool>(), interesting(), payload()), 1..200),
    ) {
        let machine = machine();
        let mut place = BAR_ADDRESS;
        for (is_port, is_write, address, mut data) in accesses {
            let (bus, address) =
                if is_port { (&machine.ports, 0xcf8 + address % 9) } else { (&machine.mmio, address) };
            let op = if is_write { Op::Write(&data) } else { Op::Read(&mut data) };
            if let Action::MoveBar(moved) = bus.serve(address, op) {
                prop_assert_eq!((moved.device, moved.bar, moved.size), (3, 0, BAR_SIZE));
                prop_assert_ne!(moved.from, moved.to);
                // A guest may ask for what cannot be; the machine then leaves the range where it is.
                if machine.mmio.relocate(place, moved.to).is_ok() {
                    place = moved.to;
                }
            }
            prop_assert_eq!(read(&machine.mmio, ecam(3, 0, 0)), [0xf4, 0x1a, 0x42, 0x10]);
        }
        prop_assert_ne!(read::<4>(&machine.mmio, place), [0xff; 4]);
    }

    /// Reading back what was written at any width and offset shows exactly the writable bits.
    #[test]
    fn wide_writes_equal_byte_writes(offset in 0_u16..0x110, data in payload()) {
        let (mut wide, mut narrow) = (TestFunction::new(3).config, TestFunction::new(3).config);
        let _ = wide.write(offset, &data);
        for (offset, byte) in (offset..).zip(&data) {
            let _ = narrow.write(offset, &[*byte]);
        }
        prop_assert_eq!(wide.save().registers, narrow.save().registers);
    }
}
