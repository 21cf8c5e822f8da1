//! MSI-X tables over fake sources.

use super::*;

const ENABLE: u16 = 1 << 15;
const FUNCTION_MASK: u16 = 1 << 14;
const MESSAGE: Msi = Msi { address: 0xfee0_1000, data: 0x4021 };

fn put(table: &mut MsixTable, offset: u64, value: u32) {
    table.write_table(offset, &value.to_le_bytes());
}

/// Writes a message as Linux does for a masked vector.
fn write_message(table: &mut MsixTable, vector: u64, data: u32) {
    put(table, vector * 16, 0xfee0_1000);
    put(table, vector * 16 + 4, 0);
    put(table, vector * 16 + 8, data);
}

fn mask(table: &mut MsixTable, vector: u64, masked: bool) {
    put(table, vector * 16 + 12, u32::from(masked));
}

fn live(vectors: usize) -> (MsixTable, Vec<Arc<FakeSource>>) {
    let (mut table, sources) = table(vectors);
    table.set_control(ENABLE);
    for vector in 0..u64::try_from(vectors).unwrap() {
        write_message(&mut table, vector, 0x4021);
        mask(&mut table, vector, false);
    }
    (table, sources)
}

fn pba(table: &MsixTable) -> u64 {
    let mut bytes = [0; 8];
    table.read_pba(0, &mut bytes);
    u64::from_le_bytes(bytes)
}

#[test]
fn sizes_follow_the_number_of_vectors() {
    for (vectors, table_size, pba_size, field) in [
        (1, 16, 8, 0),
        (64, 1024, 8, 63),
        (65, 1040, 16, 64),
        (2048, 32768, 256, 2047),
        (2049, 32768, 256, 2047),
    ] {
        let (table, _) = table(vectors);
        assert_eq!((table.table_size(), table.pba_size(), table.control()), (table_size, pba_size, field));
    }
}

#[test]
fn linux_enabling_a_vector_programs_its_route_once() {
    let (mut table, sources) = table(2);
    table.set_control(ENABLE | FUNCTION_MASK);
    mask(&mut table, 0, true);
    mask(&mut table, 1, true);
    table.set_control(ENABLE);
    write_message(&mut table, 0, 0x4021);
    assert_eq!(sources[0].routes(), []);
    mask(&mut table, 0, false);
    assert_eq!(sources[0].routes(), [MESSAGE]);
    table.trigger(0);
    assert_eq!(sources[0].triggered(), 1);
    for _ in 0..3 {
        mask(&mut table, 0, true);
        mask(&mut table, 0, false);
        table.set_control(ENABLE | FUNCTION_MASK);
        table.set_control(ENABLE);
        table.set_control(0);
        table.set_control(ENABLE);
    }
    assert_eq!(sources[0].routes().len(), 1, "masking costs no route");
    mask(&mut table, 0, true);
    write_message(&mut table, 0, 0x4022);
    mask(&mut table, 0, false);
    assert_eq!(sources[0].routes().len(), 2, "another message costs one");
    assert_eq!(sources[1].routes(), [], "a masked vector costs none");
    assert_eq!(sources[0].triggered(), 1, "nothing was pending");
}

#[test]
fn a_masked_vector_is_pending_until_unmasked() {
    let (mut table, sources) = live(2);
    mask(&mut table, 1, true);
    table.trigger(1);
    table.trigger(1);
    assert_eq!((pba(&table), sources[1].triggered()), (0b10, 0));
    mask(&mut table, 1, false);
    assert_eq!((pba(&table), sources[1].triggered()), (0, 1));

    table.set_control(ENABLE | FUNCTION_MASK);
    table.trigger(0);
    assert_eq!((pba(&table), sources[0].triggered()), (0b01, 0));
    mask(&mut table, 0, true);
    table.set_control(ENABLE);
    assert_eq!((pba(&table), sources[0].triggered()), (0b01, 0), "still masked itself");
    mask(&mut table, 0, false);
    assert_eq!((pba(&table), sources[0].triggered()), (0, 1));
}

#[test]
fn a_pending_interrupt_is_sent_with_the_new_message() {
    let (mut table, sources) = live(1);
    mask(&mut table, 0, true);
    table.trigger(0);
    write_message(&mut table, 0, 0x4099);
    assert_eq!(sources[0].routes().len(), 1);
    mask(&mut table, 0, false);
    assert_eq!(sources[0].routes().last().unwrap().data, 0x4099);
    assert_eq!(sources[0].triggered(), 1);
}

#[test]
fn nothing_is_sent_when_disabled_or_out_of_range() {
    let (mut table, sources) = live(1);
    table.trigger(1);
    table.trigger(u16::MAX);
    table.set_control(FUNCTION_MASK);
    assert!(!table.enabled());
    table.trigger(0);
    table.set_control(ENABLE);
    assert_eq!((pba(&table), sources[0].triggered()), (0, 0));
}

#[test]
fn only_aligned_dwords_and_qwords_count() {
    let (mut table, _) = live(2);
    table.write_table(16, &[0xff; 8]);
    let mut entry = [0; 8];
    table.read_table(16, &mut entry);
    assert_eq!(u64::from_le_bytes(entry), 0xffff_ffff_ffff_fffc);
    let before = table.save();
    for (offset, width) in [(0, 1), (0, 2), (2, 4), (4, 8), (12, 8), (0, 16), (32, 4), (u64::MAX - 3, 4)] {
        table.write_table(offset, &vec![0x55; width]);
        let mut data = vec![0; width];
        table.read_table(offset, &mut data);
        assert_eq!(data, vec![0xff; width], "offset {offset} width {width}");
        table.read_pba(if offset == 0 { 8 } else { offset | 1 }, &mut data);
        assert_eq!(data, vec![0xff; width]);
    }
    assert_eq!(table.save(), before);
    put(&mut table, 12, u32::MAX);
    let mut control = [0; 4];
    table.read_table(12, &mut control);
    assert_eq!(u32::from_le_bytes(control), 1, "reserved bits stay zero");
}

#[test]
fn the_pending_bits_of_high_vectors_are_in_their_places() {
    let (mut table, _) = table(70);
    table.set_control(ENABLE);
    for vector in [0, 33, 69] {
        table.trigger(vector);
    }
    assert_eq!(pba(&table), 1 | 1 << 33);
    let mut dword = [0; 4];
    table.read_pba(8, &mut dword);
    assert_eq!(u32::from_le_bytes(dword), 1 << 5);
}

#[test]
fn a_refused_route_is_counted_and_the_interrupt_is_kept() {
    let (mut table, sources) = table(1);
    sources[0].refuse.store(true, Ordering::Relaxed);
    table.set_control(ENABLE);
    write_message(&mut table, 0, 0x4021);
    mask(&mut table, 0, false);
    table.trigger(0);
    assert_eq!((table.route_failures(), sources[0].triggered(), pba(&table)), (2, 0, 1));
    assert!(table.take_route_error().is_some());
    assert!(table.take_route_error().is_none());
    sources[0].refuse.store(false, Ordering::Relaxed);
    table.trigger(0);
    assert_eq!((table.route_failures(), sources[0].triggered(), pba(&table)), (2, 1, 0));
    assert_eq!(sources[0].routes(), [MESSAGE]);
}

#[test]
fn reset_masks_everything_without_touching_routes() {
    let (mut live_table, sources) = live(2);
    live_table.set_control(ENABLE | FUNCTION_MASK);
    live_table.trigger(0);
    live_table.reset();
    assert_eq!(live_table.save(), table(2).0.save());
    live_table.trigger(1);
    assert_eq!((sources[0].routes().len(), sources[1].triggered()), (1, 0));
}

#[test]
fn a_saved_table_comes_back_with_its_routes() {
    let (mut table_a, _) = live(3);
    mask(&mut table_a, 1, true);
    table_a.trigger(1);
    mask(&mut table_a, 2, true);
    let json = serde_json::to_string(&table_a.save()).unwrap();
    let state: MsixState = serde_json::from_str(&json).unwrap();
    let (mut table_b, sources) = table(3);
    table_b.restore(state.clone()).unwrap();
    assert_eq!(table_b.save(), state);
    assert_eq!(sources[0].routes(), [MESSAGE]);
    assert_eq!((sources[1].routes(), sources[1].triggered()), (vec![], 0));
    mask(&mut table_b, 1, false);
    assert_eq!((sources[1].routes().len(), sources[1].triggered()), (1, 1));
    table_b.restore(state.clone()).unwrap();
    assert_eq!(sources[0].routes().len(), 2, "a restore trusts no earlier route");
    let (mut small, _) = table(2);
    let error = PciError::State { what: "MSI-X table", expected: 2, found: 3 };
    assert_eq!(small.restore(state), Err(error));
}
