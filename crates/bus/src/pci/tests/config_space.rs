//! The configuration space on its own.

use super::*;
use crate::BarMove;

const MEMORY: u16 = 2;

fn with_bar(size: u64, address: u64) -> ConfigSpace {
    let mut config = space(5);
    config.add_memory_bar(0, size, address, true).unwrap();
    config
}

fn set(config: &mut ConfigSpace, offset: u16, value: u32) -> Action {
    config.write(offset, &value.to_le_bytes())
}

fn command(config: &mut ConfigSpace, value: u16) -> Action {
    config.write(4, &value.to_le_bytes())
}

/// What `__pci_read_base` of Linux does with one register.
fn probe(config: &mut ConfigSpace, offset: u16) -> u32 {
    let old = config.read_u32(offset);
    assert_eq!(set(config, offset, u32::MAX), Action::None);
    let mask = config.read_u32(offset);
    assert_eq!(set(config, offset, old), Action::None);
    assert_eq!(config.read_u32(offset), old);
    mask
}

#[test]
fn header_says_who_it_is() {
    let config = space(1);
    assert_eq!(config.read_u32(0), 0x1042_1af4);
    assert_eq!(config.read_u32(8), 0x0180_0001);
    assert_eq!(config.read_u32(0x2c), 0x1100_1af4);
    assert_eq!(config.read_u8(0x0e), 0, "type 0, one function");
    assert_eq!(config.read_u8(0x3d), 0, "no interrupt pin");
    assert_eq!(config.read_u16(4), 0);
    assert_eq!((config.read_u16(6), config.read_u8(0x34)), (0, 0), "no capabilities");
}

#[test]
fn sizing_as_linux_does_it() {
    for (size, low, high) in [
        (16, 0xffff_fff0, u32::MAX),
        (0x4000, 0xffff_c000, u32::MAX),
        (1 << 31, 0x8000_0000, u32::MAX),
        (1 << 32, 0, u32::MAX),
        (1 << 36, 0, 0xffff_fff0),
    ] {
        let mut config = with_bar(size, 1 << 40);
        assert_eq!(probe(&mut config, 0x10), low | 0xc, "size {size:#x}");
        assert_eq!(probe(&mut config, 0x14), high, "size {size:#x}");
        assert_eq!(probe(&mut config, 0x18), 0, "no BAR there");
        assert_eq!(probe(&mut config, 0x30), 0, "no expansion ROM");
        assert_eq!(command(&mut config, MEMORY), Action::None);
        assert_eq!(config.bar(0), Some(BarInfo { address: 1 << 40, size }));
    }
}

#[test]
fn a_move_is_reported_once_and_when_it_takes_effect() {
    let mut config = with_bar(0x4000, 0xc000_0000);
    assert_eq!(set(&mut config, 0x10, 0xd000_0000), Action::None);
    assert_eq!(set(&mut config, 0x14, 1), Action::None);
    assert_eq!(config.bar(0).unwrap().address, 0xc000_0000, "not yet enabled");
    let moved = BarMove { device: 5, bar: 0, from: 0xc000_0000, to: 0x1_d000_0000, size: 0x4000 };
    assert_eq!(command(&mut config, MEMORY), Action::MoveBar(moved));
    assert_eq!(config.bar(0).unwrap().address, 0x1_d000_0000);
    assert_eq!(command(&mut config, 0), Action::None);
    assert_eq!(command(&mut config, MEMORY | 4), Action::None, "same place again");
    let back = BarMove { device: 5, bar: 0, from: 0x1_d000_0000, to: 0xd000_0000, size: 0x4000 };
    assert_eq!(set(&mut config, 0x14, 0), Action::MoveBar(back), "enabled while it is written");
}

#[test]
fn one_write_that_moves_two_bars_reports_both_in_turn() {
    let mut config = with_bar(0x1000, 0xc000_0000);
    config.add_memory_bar(4, 0x1000, 0xc000_1000, false).unwrap();
    assert_eq!(set(&mut config, 0x10, 0xd000_0000), Action::None);
    assert_eq!(set(&mut config, 0x20, 0xd000_1000), Action::None);
    let bar = |action| match action {
        Action::MoveBar(moved) => Some((moved.bar, moved.to)),
        _ => None,
    };
    assert_eq!(bar(command(&mut config, MEMORY)), Some((0, 0xd000_0000)));
    assert_eq!(bar(command(&mut config, MEMORY | 4)), Some((4, 0xd000_1000)));
    assert_eq!(bar(command(&mut config, MEMORY)), None);
}

#[test]
fn only_writable_bits_change_at_any_width() {
    let mut config = with_bar(0x1000, 0xc000_0000);
    let before: Vec<u32> = (0..64).map(|dword| config.read_u32(dword * 4)).collect();
    for offset in (0..0x100).filter(|offset| !(4..6).contains(offset)) {
        let _ = config.write(offset, &[0xff]);
    }
    for (dword, old) in (0_u16..).zip(before) {
        let new = config.read_u32(dword * 4);
        let changed = match dword * 4 {
            0x0c => 0xffff,
            0x10 => 0xffff_f000,
            0x14 => u32::MAX,
            0x3c => 0xff,
            _ => 0,
        };
        assert_eq!(new & !changed, old & !changed, "register {:#x}", dword * 4);
        assert_eq!(new & changed, changed, "register {:#x}", dword * 4);
    }
    config.reset();
    assert_eq!(config.write(5, &[0xff]), Action::None);
    assert_eq!(config.read_u16(4), 0x0500, "INTx disable and SERR#");
    assert_eq!(config.write(3, &[0xff, 0xff, 0, 0xff]), Action::None);
    assert_eq!(config.read_u32(4), 0x46, "an unaligned write takes the writable bytes");
    assert!(config.bus_master() && config.memory_enabled());
}

#[test]
fn the_rest_is_zeroes_and_past_the_end_is_ones() {
    let mut config = space(1);
    for offset in [0x100, 0xffc] {
        assert_eq!(set(&mut config, offset, u32::MAX), Action::None);
        assert_eq!(config.read_u32(offset), 0);
    }
    assert_eq!(config.read_u32(0xffe), 0xffff_0000);
    assert_eq!(config.read_u32(u16::MAX), u32::MAX);
    assert_eq!(set(&mut config, u16::MAX, 0), Action::None);
}

#[test]
fn capabilities_are_chained_and_masked() {
    let mut config = space(1);
    assert_eq!(config.add_capability(9, &[1, 2, 3], &[]).unwrap(), 0x40);
    assert_eq!(config.add_capability(0x11, &[0; 10], &[0xff; 10]).unwrap(), 0x48);
    assert_eq!(config.read_u16(6), 0x10);
    assert_eq!(config.read_u8(0x34), 0x40);
    assert_eq!(config.read_u32(0x40), 0x0201_4809);
    assert_eq!(config.read_u16(0x48), 0x0011);
    assert_eq!(config.write(0x40, &[0xff; 12]), Action::None);
    assert_eq!(config.read_u32(0x40), 0x0201_4809, "read-only");
    assert_eq!(config.read_u32(0x48), 0xffff_0011, "body writable");
    config.reset();
    assert_eq!(config.read_u32(0x48), 0x0000_0011);
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut config = space(1);
    config.add_memory_bar(2, 0x1000, 0, false).unwrap();
    for index in [1, 2, 3, 5, 6, 255] {
        assert_eq!(config.add_memory_bar(index, 0x1000, 0, false), Err(PciError::BarIndex { index }));
    }
    for size in [0, 8, 0x1001] {
        assert_eq!(config.add_memory_bar(0, size, 0, false), Err(PciError::BarSize { index: 0, size }));
    }
    for address in [0x800, u64::MAX - 0xfff] {
        let error = PciError::BarAddress { index: 0, size: 0x1000, address };
        assert_eq!(config.add_memory_bar(0, 0x1000, address, false), Err(error));
    }
    assert_eq!(
        config.add_capability(9, &[0; 4], &[0; 3]),
        Err(PciError::CapabilityMask { id: 9, length: 4, mask: 3 })
    );
    assert_eq!(
        config.add_capability(9, &[0; 191], &[]),
        Err(PciError::CapabilityRoom { id: 9, length: 191 })
    );
    assert_eq!(config.add_capability(9, &[0; 190], &[]), Ok(0x40));
    assert_eq!(config.add_capability(9, &[], &[]), Err(PciError::CapabilityRoom { id: 9, length: 0 }));
}

#[test]
fn reset_returns_to_the_machines_addresses() {
    let mut config = with_bar(0x1000, 0xc000_0000);
    let fresh = config.save();
    let _ = set(&mut config, 0x10, 0xd000_0000);
    let _ = command(&mut config, 0xffff);
    assert_ne!(config.save(), fresh);
    config.reset();
    assert_eq!(config.save(), fresh);
    assert_eq!(command(&mut config, MEMORY), Action::None);
}

#[test]
fn a_saved_state_comes_back_and_names_the_moves() {
    let mut config = with_bar(0x1000, 0xc000_0000);
    let _ = set(&mut config, 0x10, 0xd000_0000);
    let _ = command(&mut config, MEMORY);
    let _ = command(&mut config, 0);
    let _ = set(&mut config, 0x10, 0xe000_0000);
    let json = serde_json::to_string(&config.save()).unwrap();
    let state: ConfigSpaceState = serde_json::from_str(&json).unwrap();
    let mut other = with_bar(0x1000, 0xc000_0000);
    let moved = BarMove { device: 5, bar: 0, from: 0xc000_0000, to: 0xd000_0000, size: 0x1000 };
    assert_eq!(other.restore(state.clone()), Ok(vec![moved]));
    assert_eq!(other.save(), state);
    assert_eq!(other.restore(state), Ok(vec![]));
    let moved = BarMove { from: 0xd000_0000, to: 0xe000_0000, ..moved };
    assert_eq!(command(&mut other, MEMORY), Action::MoveBar(moved));
}

#[test]
fn a_damaged_state_changes_nothing_it_must_not() {
    let mut config = with_bar(0x1000, 0xc000_0000);
    let fresh = config.save();
    let short = ConfigSpaceState { registers: vec![0; 255], ..fresh.clone() };
    assert!(matches!(config.restore(short), Err(PciError::State { expected: 256, found: 255, .. })));
    let more = ConfigSpaceState { bars: vec![0, 0], ..fresh.clone() };
    assert!(matches!(config.restore(more), Err(PciError::State { expected: 1, found: 2, .. })));
    let crooked = ConfigSpaceState { bars: vec![0xc000_0001], ..fresh.clone() };
    assert!(matches!(config.restore(crooked), Err(PciError::BarAddress { .. })));
    assert_eq!(config.save(), fresh);
    let ones = ConfigSpaceState { registers: vec![0xff; 256], bars: vec![0] };
    assert_eq!(config.restore(ones).map(|moves| moves.len()), Ok(1));
    assert_eq!(config.read_u32(0), 0x1042_1af4);
    assert_eq!(config.read_u16(6), 0);
}
