//! Readers and writers of a chain.

use std::io::Read;

use vm_memory::GuestMemoryRegion;
use vm_memory::bitmap::Bitmap;

use super::*;

#[test]
fn readers_and_writers_cut_where_they_are_told() {
    let mut rig = Rig::new(0);
    rig.memory.write_slice(b"hello, world", GuestAddress(BUFFERS)).unwrap();
    let room = 0x1fffc; // Across the border of two regions.
    rig.ring.add(&[
        buffer(BUFFERS, 5, 0, 0),
        buffer(BUFFERS, 0, 0, 0),
        buffer(BUFFERS + 5, 7, 0, 0),
        buffer(room, 8, WRITE, 0),
        buffer(room + 8, 3, WRITE, 0),
    ]);
    let mut chain = rig.queue.pop().unwrap().unwrap();
    let mut tail = chain.reader.split_at(6).unwrap();
    assert!(tail.split_at(7).is_err());
    assert_eq!(tail.skip(1), 1);
    let mut text = String::new();
    chain.reader.read_to_string(&mut text).unwrap();
    tail.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello,world");
    assert_eq!((tail.remaining(), tail.skip(1)), (0, 0));
    assert!(tail.read_obj::<u16>().is_err());

    let mut status = chain.writer.split_at(10).unwrap();
    assert_eq!(chain.writer.fill_from(&mut b"0123456789abc".as_slice()).unwrap(), 10);
    assert_eq!((chain.writer.remaining(), status.remaining()), (0, 1));
    status.write_all(b"!").unwrap();
    assert!(status.write_obj(1u8).is_err());
    chain.writer.join(status);
    assert_eq!((chain.writer.written(), chain.writer.remaining()), (11, 0));
    rig.queue.complete(&rig.interrupt, chain).unwrap();
    let used = rig.ring.used().pop().unwrap();
    assert_eq!(used.written(), b"0123456789!");
}

#[test]
fn a_status_behind_a_gap_does_not_count() {
    let mut rig = Rig::new(0);
    rig.room(8);
    let mut chain = rig.queue.pop().unwrap().unwrap();
    let mut status = chain.writer.split_at(6).unwrap();
    status.write_all(b"!").unwrap();
    chain.writer.write_all(b"abc").unwrap();
    chain.writer.join(status);
    assert_eq!((chain.writer.written(), chain.writer.remaining()), (3, 0));
    rig.queue.complete(&rig.interrupt, chain).unwrap();
    assert_eq!(rig.ring.used().pop().unwrap().data.get(6), Some(&b'!'));
}

#[test]
fn slices_are_the_memory_itself_and_are_marked_dirty() {
    let mut rig = Rig::new(0);
    rig.ring.add(&[buffer(0x1fffc, 8, 0, 0), buffer(0x30000, 4, WRITE, 0), buffer(0x38000, 4, WRITE, 0)]);
    rig.memory.write_slice(b"abcdefgh", GuestAddress(0x1fffc)).unwrap();
    let mut chain = rig.queue.pop().unwrap().unwrap();
    assert_eq!(chain.reader.skip(1), 1);
    let lengths: Vec<usize> = chain.reader.slices(6).map(|slice| slice.len()).collect();
    assert_eq!(lengths, [3, 3]);
    let mut text = Vec::new();
    for slice in chain.reader.slices(usize::MAX) {
        slice.write_all_volatile_to(0, &mut text, slice.len()).unwrap();
    }
    assert_eq!((text.as_slice(), chain.reader.remaining()), (b"bcdefgh".as_slice(), 7));

    let region = rig.memory.find_region(GuestAddress(0x30000)).unwrap();
    let dirty = |address: u64| region.bitmap().dirty_at(usize::try_from(address - 0x20000).unwrap());
    assert!(!dirty(0x30000) && !dirty(0x38000));
    assert_eq!(chain.writer.slices(6).map(|slice| slice.len()).collect::<Vec<_>>(), [4, 2]);
    assert_eq!(chain.writer.advance(3), 3);
    assert!(dirty(0x30000) && !dirty(0x38000));
    assert_eq!(chain.writer.advance(6), 5);
    assert!(dirty(0x38000));
    assert_eq!(chain.writer.written(), 8);
    drop(chain);
}

#[test]
fn bytes_are_appended_as_they_are_or_not_at_all() {
    let mut rig = Rig::new(0);
    rig.ring.add(&[buffer(0x1fffc, 8, 0, 0), buffer(0x30000, 4, 0, 0)]);
    rig.memory.write_slice(b"abcdefgh", GuestAddress(0x1fffc)).unwrap();
    rig.memory.write_slice(b"ijkl", GuestAddress(0x30000)).unwrap();
    let mut chain = rig.queue.pop().unwrap().unwrap();
    assert_eq!(chain.reader.skip(1), 1);
    let mut bytes = b"-".to_vec();
    assert!(chain.reader.append_to(&mut bytes, 12).is_err());
    assert_eq!((bytes.as_slice(), chain.reader.remaining()), (b"-".as_slice(), 11));
    chain.reader.append_to(&mut bytes, 9).unwrap();
    chain.reader.append_to(&mut bytes, 0).unwrap();
    assert_eq!((bytes.as_slice(), chain.reader.remaining()), (b"-bcdefghij".as_slice(), 2));
    drop(chain);
}

#[test]
fn a_source_that_fails_first_is_an_error_and_later_an_end() {
    struct Source(Vec<std::io::Result<usize>>);
    impl Read for Source {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            buf.fill(b'x');
            self.0.pop().unwrap_or(Ok(0))
        }
    }
    let fail = || Err(std::io::ErrorKind::WouldBlock.into());
    let mut rig = Rig::new(0);
    rig.room(8);
    let mut chain = rig.queue.pop().unwrap().unwrap();
    chain.writer.fill_from(&mut Source(vec![fail()])).unwrap_err();
    let interrupted = Err(std::io::ErrorKind::Interrupted.into());
    assert_eq!(chain.writer.fill_from(&mut Source(vec![fail(), Ok(2), interrupted])).unwrap(), 2);
    assert_eq!((chain.writer.written(), chain.writer.remaining()), (2, 6));
    drop(chain);
}
