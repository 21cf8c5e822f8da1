//! Chains and rings that no driver makes.

use super::*;

#[test]
fn malformed_chains_go_back_unseen_and_the_ring_lives_on() {
    const B: u64 = BUFFERS;
    let table = |flags| buffer(B, 32, flags, 1);
    let cases: Vec<(&str, Vec<Descriptor>, Vec<Descriptor>)> = vec![
        ("next index", vec![buffer(B, 1, NEXT, SIZE)], vec![]),
        ("loop", vec![buffer(B, 1, NEXT, 0)], vec![]),
        ("address", vec![buffer(MEMORY - 1, 2, 0, 0)], vec![]),
        ("overflow", vec![buffer(u64::MAX, 2, WRITE, 0)], vec![]),
        ("order", vec![buffer(B, 1, WRITE | NEXT, 1), buffer(B, 1, 0, 0)], vec![]),
        ("nested", vec![table(INDIRECT)], vec![buffer(B + 16, 16, INDIRECT, 0), buffer(B, 1, 0, 0)]),
        ("indirect and next", vec![table(INDIRECT | NEXT), buffer(B, 1, 0, 0)], vec![buffer(B, 1, 0, 0)]),
        ("no table", vec![buffer(B, 0, INDIRECT, 0)], vec![]),
        ("half a descriptor", vec![buffer(B, 24, INDIRECT, 0)], vec![]),
        ("table outside", vec![buffer(MEMORY, 16, INDIRECT, 0)], vec![]),
        ("table at the end of the world", vec![buffer(u64::MAX - 7, 32, INDIRECT, 0)], vec![]),
        ("index in a table", vec![table(INDIRECT)], vec![buffer(B, 1, NEXT, 2)]),
        ("loop in a table", vec![table(INDIRECT)], vec![buffer(B, 1, NEXT, 0)]),
    ];
    for (name, direct, indirect) in cases {
        let mut rig = Rig::new(features::INDIRECT_DESC);
        for (index, descriptor) in (0..).zip(&indirect) {
            rig.memory.write_slice(&descriptor.bytes(), GuestAddress(B + 16 * index)).unwrap();
        }
        assert_eq!(rig.raw(&direct), Ok(0), "{name}");
        assert_eq!(rig.used_lengths(), [(0, 0)], "{name}");
        assert_eq!((rig.interrupts(), rig.queue.malformed()), (1, 1), "{name}");
        assert_eq!(rig.raw(&[buffer(B, 4, WRITE, 0)]), Ok(1), "{name}");
    }
}

#[test]
fn a_chain_is_at_most_four_gib_long() {
    let memory = Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), 2 << 30)]).unwrap());
    let mut ring = Ring::new(&memory, SIZE, SIZE, &mut 0x1000);
    let mut queue = Queue::new(0, &ring.config, 0, &memory).unwrap();
    let half = buffer(0, 1 << 31, WRITE, 0);
    ring.add(&[half, Descriptor { length: (1 << 31) - 1, ..half }]);
    let chain = queue.pop().unwrap().unwrap();
    assert_eq!(chain.writer.remaining(), 0xffff_ffff);
    ring.add(&[half, half]);
    assert!(queue.pop().unwrap().is_none());
    assert_eq!(queue.malformed(), 1);
    drop(chain);
}

#[test]
fn indirect_tables_need_to_be_negotiated() {
    let mut rig = Rig::new(0);
    rig.memory.write_slice(&buffer(BUFFERS, 1, 0, 0).bytes(), GuestAddress(BUFFERS)).unwrap();
    assert_eq!(rig.raw(&[buffer(BUFFERS, 16, INDIRECT, 0)]), Ok(0));
    let mut rig = Rig::new(features::INDIRECT_DESC);
    rig.memory.write_slice(&buffer(BUFFERS, 1, 0, 0).bytes(), GuestAddress(BUFFERS)).unwrap();
    assert_eq!(rig.raw(&[buffer(BUFFERS, 16, INDIRECT | WRITE, 0)]), Ok(1), "the write flag is ignored");
    assert_eq!(rig.used_lengths(), [(0, 0)]);
    let direct_first = [buffer(BUFFERS, 1, NEXT, 1), buffer(BUFFERS, 16, INDIRECT, 0)];
    assert_eq!(rig.raw(&direct_first), Ok(1));
}

#[test]
fn a_table_may_be_longer_than_the_ring_up_to_a_bound() {
    for (length, served) in [(1023u16, 1), (1024, 0), (2000, 0)] {
        let mut rig = Rig::new(features::INDIRECT_DESC);
        let mut bytes = Vec::new();
        for index in 0..length {
            let flags = if index + 1 < length { NEXT } else { 0 };
            bytes.extend(buffer(BUFFERS, 1, flags, index + 1).bytes());
        }
        rig.memory.write_slice(&bytes, GuestAddress(BUFFERS)).unwrap();
        assert_eq!(rig.raw(&[buffer(BUFFERS, u32::from(length) * 16, INDIRECT, 0)]), Ok(served), "{length}");
    }
}

#[test]
fn a_corrupt_ring_is_a_fault_that_stays() {
    let corruptions: [Case<Ring>; 3] = [
        ("the index jumps", |ring| ring.set_avail_index(SIZE + 2)),
        ("the index runs back", |ring| ring.set_avail_index(0)),
        ("no such descriptor", |ring| ring.offer(SIZE)),
    ];
    for (name, corrupt) in corruptions {
        let mut rig = Rig::new(0);
        rig.room(1);
        rig.answer(b"x").unwrap();
        corrupt(&mut rig.ring);
        let fault = rig.answer(b"x").unwrap_err();
        rig.ring.set_avail_index(1);
        assert_eq!(rig.answer(b"x").unwrap_err(), fault, "{name}");
        assert_eq!(rig.queue.pop().unwrap_err(), fault, "{name}");
        assert!(rig.queue.state().is_err(), "{name}");
    }
}

#[test]
fn answers_before_a_fault_reach_the_driver() {
    let mut rig = Rig::new(0);
    rig.room(1);
    rig.ring.offer(SIZE);
    rig.answer(b"x").unwrap_err();
    assert_eq!(rig.used_lengths(), [(0, 1)]);
    assert_eq!(rig.interrupts(), 1);
}
