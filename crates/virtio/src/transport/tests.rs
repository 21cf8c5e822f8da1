//! The function as its driver and its machine see it.

use snowboot_bus::GuestAddress;
use vm_memory::Bytes;

use super::*;
use crate::features;
use crate::testing::echo::{CHANGE, EVENT, Echo};
use crate::testing::{self, CountingMsi, Function};

fn echo() -> Function {
    Function::new(Box::new(Echo::default()))
}

fn started() -> Function {
    let mut function = echo();
    function.start(features::EVENT_IDX);
    assert_eq!(function.status(), 0xf);
    function
}

/// Adds a request to queue 0 and expects it back.
fn works(function: &mut Function) -> bool {
    function.add(0, b"ping");
    function.notify(0);
    function.used(0).pop().is_some_and(|used| used.written() == b"ping")
}

const SELECT: u64 = 0x16;
const SIZE: u64 = 0x18;
const VECTOR: u64 = 0x1a;
const ENABLE: u64 = 0x1c;
const DESC: u64 = 0x20;

#[test]
fn every_device_rule_holds_for_the_test_s_own_device() {
    testing::conformance(|| Box::new(Echo::default()));
}

#[test]
fn it_looks_like_a_modern_virtio_function() {
    let mut function = echo();
    assert_eq!(function.config::<4>(0), [0xf4, 0x1a, 0x44, 0x10]);
    assert_eq!(function.config::<4>(8), [1, 0, 0xff, 0]);
    assert_eq!(function.config::<4>(0x2c), [0xf4, 0x1a, 0x00, 0x11]);
    let classes = [
        (DeviceId::Net, 0x1041, [2, 0, 0]),
        (DeviceId::Block, 0x1042, [1, 0, 0]),
        (DeviceId::Console, 0x1043, [7, 0x80, 0]),
        (DeviceId::NineP, 0x1049, [1, 0x80, 0]),
    ];
    for (id, device, class) in classes {
        let identifiers = layout::identifiers(id);
        assert_eq!((identifiers.device, identifiers.class), (device, class));
    }
    let parts = function.parts;
    assert_eq!((parts.common, parts.status, parts.device), (0, 0x1000, 0x2000));
    assert_eq!((parts.notify, parts.notify_step), (0x3000, 4));
    assert_eq!((parts.msix_table, parts.msix_pending), (0x4000, 0x7000));
    assert_eq!(function.config::<2>(parts.msix + 2), [2, 0], "three vectors");
    assert_eq!(function.common_u16(0x12), 2);
    assert_eq!(function.transport.bar(), BarInfo { address: 0xc000_0000, size: 0x8000 });
    let bells = function.transport.doorbells();
    assert_eq!(
        bells.iter().map(|bell| (bell.queue, bell.offset)).collect::<Vec<_>>(),
        [(0, 0x3000), (1, 0x3004)]
    );
}

#[test]
fn a_request_goes_there_and_back() {
    let mut function = started();
    assert!(works(&mut function));
    assert_eq!((function.interrupts(0), function.interrupts(1)), (1, 0));
    function.add(1, b"");
    function.notify(1);
    assert!(function.used(1).is_empty());
    function.transport.source_ready(EVENT);
    assert_eq!(function.used(1).pop().unwrap().written(), [0x5a]);
    assert_eq!(function.interrupts(1), 1);
    assert_eq!(function.read::<1>(0x1000), [0], "with MSI-X, the status is not about queues");
}

#[test]
fn steps_out_of_order_are_refused() {
    let mut function = echo();
    for (written, read) in [(4, 0), (8, 0), (0xc, 0), (1, 1), (9, 1), (3, 3), (7, 3), (0xb, 3), (0x40, 3)] {
        function.set_common(0x14, &[written]);
        assert_eq!(function.status(), read, "after {written:#x}");
    }
    assert!(function.negotiate(features::VERSION_1));
    function.set_common(0x14, &[3]);
    assert_eq!(function.status(), 0xb, "bits are not taken back");
    function.set_common(0x0c, &[0xff; 4]);
    assert_eq!(function.common_u32(0x0c), 1, "features are settled");
    function.set_common(0x14, &[0x80]);
    assert_eq!(function.status(), 0x8b);
    function.set_common(0x14, &[0xf]);
    assert_eq!(function.status(), 0x8b, "a driver that has failed does not go on");
    function.set_common(0x14, &[0]);
    assert_eq!(function.status(), 0);
}

#[test]
fn a_driver_that_fails_stops_the_device() {
    let mut function = started();
    function.set_common(0x14, &[0x8f]);
    function.add(0, b"ping");
    function.notify(0);
    assert!(function.used(0).is_empty());
    function.start(0);
    assert!(works(&mut function));
}

#[test]
fn queues_are_configured_before_they_are_enabled_and_before_driver_ok() {
    let mut function = echo();
    assert!(function.negotiate(features::VERSION_1));
    assert_eq!(function.common_u16(SIZE), 16);
    for (written, read) in [(0u16, 16), (3, 16), (32, 16), (8, 8), (16, 16), (1, 1)] {
        function.set_common(SIZE, &written.to_le_bytes());
        assert_eq!(function.common_u16(SIZE), read, "after {written}");
    }
    function.set_common(DESC, &0x1234_5670u32.to_le_bytes());
    function.set_common(DESC + 4, &0x89u32.to_le_bytes());
    assert_eq!((function.common_u32(DESC), function.common_u32(DESC + 4)), (0x1234_5670, 0x89));
    function.set_common(ENABLE, &2u16.to_le_bytes());
    assert_eq!(function.common_u16(ENABLE), 0);
    function.enable_queue(0);
    assert_eq!(function.common_u16(ENABLE), 1);
    for (offset, bytes) in [(DESC, [0u8; 4].as_slice()), (SIZE, &[2, 0]), (ENABLE, &[0, 0])] {
        function.set_common(offset, bytes);
    }
    assert_eq!((function.common_u16(ENABLE), function.common_u16(SIZE)), (1, 16));
    assert_eq!(u64::from(function.common_u32(DESC)), function.rings[0].config.desc_table);
    function.set_common(0x14, &[0xf]);
    function.set_common(SELECT, &1u16.to_le_bytes());
    function.set_common(ENABLE, &1u16.to_le_bytes());
    assert_eq!(function.common_u16(ENABLE), 0, "too late");
    assert!(works(&mut function), "one queue is enough");
    function.add(1, b"");
    function.notify(1);
    assert_eq!(function.status(), 0xf);
}

#[test]
fn a_queue_that_does_not_exist_has_size_zero() {
    let mut function = echo();
    for index in [2u16, 100, u16::MAX] {
        function.set_common(SELECT, &index.to_le_bytes());
        assert_eq!(function.common_u16(SELECT), index);
        function.set_common(SIZE, &4u16.to_le_bytes());
        function.set_common(ENABLE, &1u16.to_le_bytes());
        function.set_common(VECTOR, &0u16.to_le_bytes());
        for offset in [SIZE, ENABLE, 0x1e, 0x38, 0x3a] {
            assert_eq!(function.common_u16(offset), 0, "{offset:#x}");
        }
        assert_eq!(function.common_u16(VECTOR), 0xffff);
    }
}

#[test]
fn vectors_that_do_not_exist_are_none() {
    let mut function = echo();
    for offset in [0x10, VECTOR] {
        assert_eq!(function.common_u16(offset), 0xffff);
        for (written, read) in [(2u16, 2), (3, 0xffff), (0, 0), (0xffff, 0xffff)] {
            function.set_common(offset, &written.to_le_bytes());
            assert_eq!(function.common_u16(offset), read);
        }
    }
}

#[test]
fn only_whole_fields_are_read_and_written() {
    let mut function = echo();
    assert_eq!(function.read::<8>(0x18), [0xff; 8]);
    assert_eq!(function.read::<8>(0x24), [0xff; 8]);
    assert_eq!(function.read::<2>(0x04), [0xff; 2]);
    assert_eq!(function.read::<1>(0x13), [0xff]);
    assert_eq!(function.read::<4>(0x14), [0xff; 4]);
    assert_eq!(function.read::<4>(0x3c), [0xff; 4]);
    function.set_common(0x14, &[1, 0]);
    function.set_common(0x14, &[1, 0, 0, 0]);
    assert_eq!(function.status(), 0);
    function.set_common(DESC + 4, &[0xff; 8]);
    assert_eq!(function.common_u32(DESC + 4), 0);
}

#[test]
fn wide_fields_are_also_accessed_as_a_whole() {
    let mut function = echo();
    for (field, value) in [(DESC, 0x1234_5678_9abc_def0), (DESC + 8, u64::MAX), (DESC + 16, 1 << 32)] {
        function.set_common(field, &value.to_le_bytes());
        assert_eq!(function.read::<8>(field), value.to_le_bytes());
        assert_eq!(function.common_u32(field + 4), u32::try_from(value >> 32).unwrap());
    }
    function.set_common(ENABLE, &[1, 0]);
    function.set_common(DESC, &[0; 8]);
    assert_eq!(
        function.read::<8>(DESC),
        0x1234_5678_9abc_def0u64.to_le_bytes(),
        "an enabled queue is settled"
    );
}

#[test]
fn features_beyond_the_second_word_do_not_exist() {
    let mut function = echo();
    function.set_common(0x00, &2u32.to_le_bytes());
    assert_eq!(function.common_u32(0x04), 0);
    function.set_common(0x08, &7u32.to_le_bytes());
    function.set_common(0x0c, &[0xff; 4]);
    assert_eq!(function.common_u32(0x0c), 0);
}

#[test]
fn a_corrupt_ring_asks_for_a_reset_and_gets_over_it() {
    let mut function = started();
    function.rings[0].offer(100);
    function.notify(0);
    assert_eq!(function.status(), 0x4f);
    assert_eq!(function.config_interrupts(), 1);
    assert_eq!(function.read::<1>(0x1000), [2]);
    assert_eq!(function.read::<1>(0x1000), [0], "reading clears");
    function.rings[0].reset();
    assert!(!works(&mut function));
    function.transport.source_ready(EVENT);
    assert_eq!(function.config_interrupts(), 1, "once");
    function.start(0);
    assert!(works(&mut function));
}

#[test]
fn queues_that_cannot_live_ask_for_a_reset() {
    let mut function = echo();
    assert!(function.negotiate(features::VERSION_1));
    function.enable_interrupts();
    function.rings[0].config.used_ring = 1 << 40;
    function.enable_queue(0);
    function.set_common(0x14, &[0xf]);
    assert_eq!((function.status(), function.config_interrupts()), (0x4f, 1));

    let mut function = Function::new(Box::new(Echo::refusing()));
    function.start(0);
    assert_eq!((function.status(), function.config_interrupts()), (0x4f, 1));
    function.transport.pause();
    assert!(function.transport.save().unwrap().queues.is_none());
}

#[test]
fn a_change_of_the_configuration_has_a_new_generation() {
    let mut function = started();
    let before = function.common_u8(0x15);
    function.transport.source_ready(CHANGE);
    assert_ne!(function.common_u8(0x15), before);
    assert_eq!(function.config_interrupts(), 1);
}

#[test]
fn without_msix_the_status_byte_tells() {
    let mut function = echo();
    assert!(function.negotiate(features::VERSION_1));
    function.enable_queue(0);
    function.set_common(0x14, &[0xf]);
    assert!(works(&mut function));
    assert_eq!(function.read::<1>(0x1000), [1]);
    assert_eq!(function.read::<1>(0x1000), [0]);
    assert_eq!(function.interrupts(0), 0);
}

#[test]
fn the_window_reaches_everything_without_the_bar() {
    let mut function = started();
    let window = function.parts.window;
    let set = |function: &mut Function, offset: u32, length: u32| {
        let _ = function.transport.write_config(window + 8, &offset.to_le_bytes());
        let _ = function.transport.write_config(window + 12, &length.to_le_bytes());
    };
    let _ = function.transport.write_config(4, &4u16.to_le_bytes());
    assert_eq!(function.read::<1>(0x14), [0xff], "the BAR is off");
    set(&mut function, 0x14, 1);
    assert_eq!(function.config::<4>(window + 16), [0xf, 0, 0, 0]);
    set(&mut function, 0x2004, 4);
    let _ = function.transport.write_config(window + 16, &[1, 2, 3, 4]);
    assert_eq!(function.config::<4>(window + 16), [1, 2, 3, 4]);
    function.add(0, b"ping");
    set(&mut function, 0x3000, 2);
    let _ = function.transport.write_config(window + 16, &[0, 0]);
    function.run();
    assert_eq!(function.used(0).len(), 1);
    for (offset, length) in [(0x14, 0), (0x14, 3), (0x14, 8), (0x15, 2), (0x12, 4), (0, u32::MAX)] {
        set(&mut function, offset, length);
        let _ = function.transport.write_config(window + 16, &[9; 4]);
        assert_eq!(function.config::<4>(window + 16), [9; 4], "{offset:#x} by {length}");
    }
    for offset in [0x8000, 0xffff_fffc] {
        set(&mut function, offset, 4);
        let _ = function.transport.write_config(window + 16, &[9; 4]);
        assert_eq!(function.config::<4>(window + 16), [0xff; 4], "{offset:#x}");
    }
    set(&mut function, 0x14, 1);
    assert_eq!(function.config::<1>(window + 16), [0xf], "nothing of that was an access");
}

#[test]
fn a_pause_keeps_everything_and_a_resume_catches_up() {
    let mut function = started();
    function.transport.pause();
    function.transport.pause();
    function.add(0, b"ping");
    function.notify(0);
    assert!(function.used(0).is_empty());
    function.transport.resume();
    assert_eq!(function.used(0).len(), 1);
    assert!(works(&mut function));
}

#[test]
fn without_bus_mastering_the_device_keeps_off_memory() {
    let mut function = started();
    let _ = function.transport.write_config(4, &2u16.to_le_bytes());
    function.add(0, b"ping");
    function.notify(0);
    assert!(function.used(0).is_empty());
    function.transport.pause();
    let _ = function.transport.write_config(4, &6u16.to_le_bytes());
    assert!(function.used(0).is_empty(), "paused all the same");
    function.transport.resume();
    assert_eq!(function.used(0).len(), 1);
}

#[test]
fn a_machine_reset_is_as_new() {
    let mut function = echo();
    function.transport.pause();
    let fresh = function.transport.save().unwrap();
    function.transport.resume();
    let _ = function.transport.write_config(4, &6u16.to_le_bytes());
    function.start(features::EVENT_IDX);
    assert!(works(&mut function));
    function.transport.reset();
    function.transport.pause();
    let after = function.transport.save().unwrap();
    // `Function::new` has switched decoding on.
    assert_eq!((&after.registers, &after.queues), (&fresh.registers, &fresh.queues));
    assert_eq!(after.config.registers[4..6], [0, 0]);
    assert_eq!(after.msix, fresh.msix);
}

/// A function that is stopped in the middle of everything: requests that nobody has seen, one put back, interrupts
/// masked and pending.
fn busy() -> (Function, TransportState) {
    let mut function = started();
    assert!(works(&mut function));
    function.write(0x2000, &[9, 8, 7, 6]);
    function.add(1, b"");
    function.transport.source_ready(EVENT);
    assert_eq!(function.used(1).len(), 1);
    function.add(1, b"");
    function.notify(1);
    function.write(0x4000 + 16 + 12, &1u32.to_le_bytes());
    assert!(works(&mut function));
    function.transport.source_ready(CHANGE);
    function.transport.pause();
    function.add(0, b"late");
    let state = function.transport.save().unwrap();
    (function, state)
}

#[test]
fn a_function_goes_on_in_another_machine() {
    let (mut function, state) = busy();
    assert_eq!(function.read::<4>(0x7000), [2, 0, 0, 0], "the masked interrupt is pending");
    assert_eq!(state.queues.as_ref().unwrap()[1].as_ref().unwrap().put_back.len(), 1);
    let json = serde_json::to_string(&state).unwrap();
    let state: TransportState = serde_json::from_str(&json).unwrap();

    let msi = CountingMsi::default();
    let memory = GuestMemory::clone(&function.memory);
    let device = Box::<Echo>::default();
    let mut other = PciTransport::new(device, 3, 0xd000_0000, memory, &msi).unwrap();
    other.pause();
    let moves = other.restore(state.clone()).unwrap();
    assert_eq!(moves.iter().map(|bar| (bar.from, bar.to)).collect::<Vec<_>>(), [(0xd000_0000, 0xc000_0000)]);
    assert_eq!(other.save().unwrap(), state);
    function.transport = other;
    function.msi = msi;
    function.transport.resume();
    assert_eq!(function.used(0).pop().unwrap().written(), b"late");
    assert_eq!(function.read::<4>(0x2000), [9, 8, 7, 6]);
    function.transport.source_ready(EVENT);
    assert_eq!(function.used(1).len(), 1);
    assert_eq!((function.interrupts(0), function.interrupts(1)), (0, 1));
    function.write(0x4000 + 16 + 12, &0u32.to_le_bytes());
    assert_eq!(function.interrupts(0), 1, "unmasked, it comes");
    assert!(works(&mut function));
}

#[test]
fn a_state_that_no_driver_brought_about_is_refused() {
    let (function, state) = busy();
    let value = serde_json::to_value(&state).unwrap();
    let spoil = |path: &str, to: serde_json::Value| {
        let mut value = value.clone();
        *value.pointer_mut(path).unwrap() = to;
        serde_json::from_value::<TransportState>(value).ok()
    };
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let cases = [
        ("/version", "2"),
        ("/device_type", "1"),
        ("/registers/status", "7"),
        ("/registers/status", "32"),
        ("/registers/status", "79"),
        ("/registers/status", "143"),
        ("/registers/accepted", "0"),
        ("/registers/accepted", "18446744073709551615"),
        ("/registers/interrupt_status", "4"),
        ("/registers/queues", "[]"),
        ("/registers/queues/0/config/size", "0"),
        ("/registers/queues/0/config/size", "7"),
        ("/registers/queues/0/config/size", "32"),
        ("/registers/queues/0/config/max_size", "32"),
        ("/registers/queues/0/config/ready", "false"),
        ("/registers/queues/0/config/used_ring", "1099511627776"),
        ("/registers/queues/0/config/desc_table", "1"),
        ("/queues", "null"),
        ("/queues", "[]"),
        ("/queues/1", "null"),
        ("/queues/1/put_back", "[8]"),
        ("/queues/1/put_back", "[0,0,0,0,0,0,0,0,0]"),
        ("/msix/vectors", "[]"),
        ("/config/registers", "[]"),
        ("/config/bars", "[]"),
        ("/device/kind", "\"block\""),
        ("/device/version", "2"),
        ("/device/body", "{}"),
    ];
    let mut other = Function::with_memory(Box::<Echo>::default(), &function.memory, &[16, 8]).transport;
    other.restore(state.clone()).unwrap_err();
    other.pause();
    for (path, to) in cases {
        if let Some(bad) = spoil(path, json(to)) {
            other.restore(bad).expect_err(path);
            let after = other.save().unwrap();
            assert!(after.queues.is_none(), "{path}");
            assert_eq!(after.config.registers[4], 0, "{path}");
        }
    }
    other.restore(state.clone()).unwrap();
    assert_eq!(other.save().unwrap(), state);
}

#[test]
fn a_state_with_wrong_positions_is_a_corrupt_ring() {
    let (mut function, mut state) = busy();
    state.queues.as_mut().unwrap()[0].as_mut().unwrap().next_avail = 1000;
    function.transport.restore(state).unwrap();
    function.transport.resume();
    assert_eq!(function.status(), 0x4f);
    function.start(0);
    assert!(works(&mut function));
}

#[test]
fn a_running_function_is_not_saved() {
    let mut function = started();
    function.transport.save().unwrap_err();
    assert!(works(&mut function));
}

#[test]
fn what_does_not_fit_is_not_built() {
    struct Wide(usize);
    impl Device for Wide {
        fn identity(&self) -> crate::Identity {
            crate::Identity { id: DeviceId::Net, features: 0, queue_sizes: vec![1; self.0] }
        }
        fn start(&mut self, _: Session) -> Result<(), crate::StartError> {
            Ok(())
        }
        fn stop(&mut self) -> Option<Session> {
            None
        }
        fn queue_ready(&mut self, _: u16) -> Result<(), crate::QueueFault> {
            Ok(())
        }
        fn save(&self) -> Result<crate::Saved, NotSaveable> {
            crate::Saved::new("wide", 1, &())
        }
        fn restore(&mut self, _: crate::Saved) -> Result<(), RestoreError> {
            Ok(())
        }
    }
    let memory = testing::memory(0x1000);
    let build = |queues, address| {
        let msi = CountingMsi::default();
        PciTransport::new(Box::new(Wide(queues)), 1, address, GuestMemory::clone(&memory), &msi)
    };
    assert!(matches!(build(513, 0), Err(TransportError::TooManyQueues { queues: 513 })));
    assert!(matches!(build(1, 0x4000), Err(TransportError::Pci(_))));
    build(512, 0x8000).unwrap();
    build(0, 0x8000).unwrap();
}

#[test]
fn guest_memory_is_shared_not_copied() {
    let function = started();
    let address = GuestAddress(function.rings[0].config.used_ring + 2);
    assert_eq!(function.memory.read_obj::<u16>(address).unwrap(), 0);
}
