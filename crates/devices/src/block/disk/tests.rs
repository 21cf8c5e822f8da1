use std::os::unix::fs::MetadataExt;

use proptest::prelude::*;

use super::*;

fn sparse(path: &Path, bytes: u64) -> Result<Disk, DiskError> {
    Disk::create(path, bytes, None, |_| Ok(()))
}

fn slice(bytes: &mut [u8]) -> VolatileSlice<'_, ()> {
    VolatileSlice::from(bytes)
}

#[test]
fn a_created_image_is_sparse_zero_and_locked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("root.img");
    let disk = sparse(&path, 1 << 30).unwrap();
    assert_eq!(disk.sectors(), (1 << 30) / SECTOR);
    assert!(std::fs::metadata(&path).unwrap().blocks() < 100);
    assert!(matches!(Disk::open(&path, false, None), Err(DiskError::InUse { .. })));
    assert!(matches!(Disk::open(&path, true, None), Err(DiskError::InUse { .. })));
    drop(disk);
    let (one, two) = (Disk::open(&path, true, None).unwrap(), Disk::open(&path, true, None).unwrap());
    assert!(one.is_read_only() && two.is_read_only());
    assert!(matches!(Disk::open(&path, false, None), Err(DiskError::InUse { .. })));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn creating_replaces_nothing_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("root.img");
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(sparse(&path, 512), Err(DiskError::Exists { .. })));
    let too_long = sparse(&folder.path().join("huge.img"), u64::MAX);
    assert!(matches!(too_long, Err(DiskError::Create { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let missing = sparse(&folder.path().join("no/such.img"), 512);
    assert!(missing.unwrap_err().to_string().contains("no/such.img"));
}

#[test]
fn what_is_no_raw_disk_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.qcow2");
    assert!(matches!(Disk::open(&path, true, None), Err(DiskError::Open { .. })));
    assert!(matches!(Disk::open(folder.path(), true, None), Err(DiskError::NotADisk { .. })));
    assert!(matches!(Disk::open(Path::new("/dev/null"), true, None), Err(DiskError::NotADisk { .. })));
    let pipe = folder.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(matches!(Disk::open(&pipe, true, None), Err(DiskError::NotADisk { .. })));
    std::fs::write(&path, b"KDMV and so on").unwrap();
    let message = Disk::open(&path, true, None).unwrap_err().to_string();
    assert!(message.contains("VMDK") && message.contains("x.qcow2"), "{message}");
    std::fs::write(&path, b"QFI\xfb and so on").unwrap();
    let message = Disk::open(&path, true, None).unwrap_err().to_string();
    assert!(message.contains("no qcow2 image that can be read"), "{message}");
    assert_eq!(Disk::open(&path, true, Some(Format::Raw)).unwrap().sectors(), 1);
}

#[test]
fn the_last_broken_sector_is_padded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odd.img");
    std::fs::write(&path, vec![9; 700]).unwrap();
    let disk = Disk::open(&path, false, None).unwrap();
    assert_eq!(disk.sectors(), 2);
    let mut data = [1; 512];
    disk.read(&[slice(&mut data)], 512).unwrap();
    assert_eq!((data[187], data[188], data[511]), (9, 0, 0));
    disk.write(&[slice(&mut [5; 512])], 512).unwrap();
    assert_eq!(std::fs::read(&path).unwrap().len(), 1024);
}

#[test]
fn more_buffers_than_a_system_call_takes_are_read_and_written() {
    let folder = tempfile::tempdir().unwrap();
    let disk = sparse(&folder.path().join("many.img"), 1 << 20).unwrap();
    let mut data: Vec<u8> = (0..=250).cycle().take(3 * MOST_BUFFERS + 7).collect();
    let buffers: Vec<_> = data.iter_mut().map(|byte| slice(std::slice::from_mut(byte))).collect();
    disk.write(&buffers, 512).unwrap();
    drop(buffers);
    let mut back = vec![0; data.len()];
    let buffers: Vec<_> = back.iter_mut().map(|byte| slice(std::slice::from_mut(byte))).collect();
    disk.read(&buffers, 512).unwrap();
    drop(buffers);
    assert_eq!(data, back);
}

#[test]
fn ranges_are_zeroed_and_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("zero.img");
    std::fs::write(&path, vec![9; 1 << 20]).unwrap();
    let mut disk = Disk::open(&path, false, None).unwrap();
    let full = std::fs::metadata(&path).unwrap().blocks();
    disk.zero(4096, 8192, false).unwrap();
    disk.zero(65536, 65536, true).unwrap();
    disk.discard(512 << 10, 512 << 10).unwrap();
    disk.flush(true).unwrap();
    let content = std::fs::read(&path).unwrap();
    assert_eq!(content.len(), 1 << 20);
    assert!(content[4096..12_288].iter().all(|byte| *byte == 0));
    assert!(content[65536..131_072].iter().all(|byte| *byte == 0));
    assert_eq!((content[4095], content[131_072]), (9, 9));
    assert!(std::fs::metadata(&path).unwrap().blocks() < full);
}

const MIB: u64 = 1 << 20;

fn qcow2(path: &Path) -> Disk {
    Disk::create(path, MIB, Some(Format::Qcow2), |_| Ok(())).unwrap()
}

fn read(disk: &Disk, offset: u64, length: usize) -> Vec<u8> {
    let mut data = vec![1; length];
    disk.read(&[slice(&mut data)], offset).unwrap();
    data
}

fn write(disk: &Disk, offset: u64, byte: u8, length: usize) {
    disk.write(&[slice(&mut vec![byte; length])], offset).unwrap();
}

#[test]
fn a_qcow2_image_is_made_found_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.img");
    let disk = qcow2(&path);
    assert_eq!(disk.sectors(), MIB / SECTOR);
    write(&disk, 5000, 7, 3000);
    drop(disk);
    let disk = Disk::open(&path, true, None).unwrap();
    assert_eq!(disk.sectors(), MIB / SECTOR);
    assert_eq!(read(&disk, 5000, 3000), vec![7; 3000]);
    assert_eq!(read(&disk, 0, 5000), vec![0; 5000]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn images_are_over_others_which_stay_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("base.img"), vec![3; 1 << 20]).unwrap();
    drop(Disk::create_over(&at("middle"), &at("base.img"), None, 0).unwrap());
    let (one, two) = (
        Disk::create_over(&at("one"), &at("middle"), None, 2 * MIB),
        Disk::create_over(&at("two"), &at("middle"), None, 0),
    );
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!((one.sectors(), two.sectors()), (2 * MIB / SECTOR, MIB / SECTOR));
    let before = std::fs::read(at("middle")).unwrap();
    write(&one, 100, 1, 200);
    write(&two, 200, 2, 200);
    assert_eq!((read(&one, 99, 3), read(&one, 299, 3)), (vec![3, 1, 1], vec![1, 3, 3]));
    assert_eq!((read(&two, 199, 2), read(&one, MIB, 9)), (vec![3, 2], vec![0; 9]));
    drop((one, two));
    assert_eq!(std::fs::read(at("middle")).unwrap(), before);
    assert_eq!(std::fs::read(at("base.img")).unwrap(), vec![3; 1 << 20]);
    // The names within are relative, so that the folder can be moved.
    let moved = tempfile::tempdir().unwrap();
    for name in ["base.img", "middle", "one"] {
        std::fs::rename(at(name), moved.path().join(name)).unwrap();
    }
    let one = Disk::open_over(&moved.path().join("one"), &moved.path().join("middle")).unwrap();
    assert_eq!(read(&one, 99, 3), [3, 1, 1]);
    drop(one);
    let error = Disk::open_over(&moved.path().join("one"), &moved.path().join("base.img")).unwrap_err();
    assert!(error.to_string().contains("was not made over"), "{error}");
}

#[test]
fn a_chain_that_is_broken_or_circular_is_one_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let error = |name: &str| Disk::open(&at(name), false, None).unwrap_err().to_string();
    std::fs::write(at("base"), vec![3; 1 << 20]).unwrap();
    drop(Disk::create_over(&at("a"), &at("base"), None, 0).unwrap());
    drop(Disk::create_over(&at("b"), &at("a"), None, 0).unwrap());
    let held = Disk::open(&at("base"), false, None).unwrap();
    assert!(error("b").contains("in use by another machine"), "{}", error("b"));
    drop(held);
    std::fs::remove_file(at("base")).unwrap();
    let message = error("b");
    assert!(message.contains("base") && message.contains("No such file"), "{message}");
    std::fs::hard_link(at("b"), at("base")).unwrap();
    // Its format is named in `a`: raw. One that is qcow2, over the first again:
    drop(Disk::create(&at("c"), MIB, Some(Format::Qcow2), |_| Ok(())).unwrap());
    drop(Disk::create_over(&at("d"), &at("c"), None, 0).unwrap());
    std::fs::remove_file(at("c")).unwrap();
    std::fs::hard_link(at("d"), at("c")).unwrap();
    assert!(error("d").contains("is behind itself"), "{}", error("d"));
    std::fs::copy(at("d"), at("e")).unwrap();
    assert!(error("e").contains("is behind itself"), "{}", error("e"));
}

#[test]
fn a_chain_has_an_end() {
    let folder = tempfile::tempdir().unwrap();
    let at = |number: u32| folder.path().join(number.to_string());
    drop(qcow2(&at(0)));
    for number in 1..64 {
        drop(Disk::create_over(&at(number), &at(number - 1), None, 0).unwrap());
    }
    assert_eq!(read(&Disk::open(&at(63), true, None).unwrap(), 0, 9), [0; 9]);
    let error = Disk::create_over(&at(64), &at(63), None, 0).unwrap_err().to_string();
    assert!(error.contains("more than 64 images"), "{error}");
    assert!(!at(64).exists());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 64);
}

#[test]
fn a_guest_cannot_have_its_raw_disk_taken_for_another_format() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    let disk = sparse(&path, MIB).unwrap();
    for magic in [&b"QFI\xfb"[..], b"KDMV", b"vhdxfile"] {
        let mut header = magic.to_vec();
        header.resize(2048, 9);
        let (first, second) = header.split_at_mut(2);
        let outcome = disk.write(&[slice(first), slice(second)], 0);
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        disk.write(&[slice(&mut header)], 512).unwrap();
    }
    assert_eq!(read(&disk, 0, 512), [0; 512]);
    write(&disk, 0, 8, 1500);
    assert_eq!((read(&disk, 0, 1500), read(&disk, 1500, 1)), (vec![8; 1500], vec![9]));
    drop(disk);
    let named = Disk::open(&path, false, Some(Format::Raw)).unwrap();
    named.write(&[slice(&mut b"QFI\xfb".to_vec())], 0).unwrap();
}

#[test]
fn a_backing_file_is_qcow2_only_if_its_image_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    drop(qcow2(&at("base")));
    drop(Disk::create_over(&at("top"), &at("base"), None, 0).unwrap());
    // Takes the name of the format (header extension 0xe2792aca) away.
    let mut bytes = std::fs::read(at("top")).unwrap();
    let place = bytes.windows(4).position(|word| word == [0xe2, 0x79, 0x2a, 0xca]).unwrap();
    bytes[place..place + 4].copy_from_slice(&[0x12, 0x34, 0x56, 0x78]);
    std::fs::write(at("top"), bytes).unwrap();
    let message = Disk::open(&at("top"), true, None).unwrap_err().to_string();
    assert!(message.contains("does not say the format") && message.contains("rebase -u"), "{message}");
    std::fs::write(at("base"), vec![6; 1 << 20]).unwrap();
    assert_eq!(read(&Disk::open(&at("top"), true, None).unwrap(), 9, 2), [6, 6]);
}

#[test]
fn an_image_that_is_cut_short_is_an_error_and_not_zeroes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    std::fs::write(&path, vec![3; 1 << 20]).unwrap();
    let disk = Disk::open(&path, false, None).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(4096).unwrap();
    assert_eq!(read(&disk, 0, 4096), vec![3; 4096]);
    let mut data = [0; 512];
    let error = disk.read(&[slice(&mut data)], 8192).unwrap_err().to_string();
    assert!(error.contains("disk.img was cut short from 1048576 to 4096 bytes"), "{error}");
    assert!(disk.flush(false).is_err());
}

fn changes(folder: &Path) -> Arc<Changes> {
    Changes::new(tempfile::tempfile_in(folder).unwrap(), Path::new("changes")).unwrap()
}

#[test]
fn changes_are_kept_apart_from_their_image_and_from_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("base.img");
    std::fs::write(&path, vec![3; 10_000]).unwrap();
    let (before, kept) = (std::fs::metadata(&path).unwrap(), changes(folder.path()));
    let one = Disk::with_changes(&path, None, Arc::clone(&kept)).unwrap();
    let two = Disk::with_changes(&path, None, changes(folder.path())).unwrap();
    assert_eq!((one.sectors(), one.is_read_only()), (20, false));
    write(&one, 4000, 1, 1000);
    write(&two, 9728, 2, 512);
    assert_eq!((read(&one, 3999, 2), read(&one, 4999, 2)), (vec![3, 1], vec![1, 3]));
    assert_eq!(
        (read(&two, 4000, 2), read(&two, 9727, 2), read(&two, 10_239, 1)),
        (vec![3; 2], vec![3, 2], vec![2])
    );
    drop(one);
    let again = Disk::with_changes(&path, None, kept).unwrap();
    assert_eq!((read(&again, 4000, 2), read(&again, 9728, 1)), (vec![1; 2], vec![3]));
    assert_eq!(std::fs::read(&path).unwrap(), vec![3; 10_000]);
    assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), before.modified().unwrap());
}

/// What a guest can do to a disk.
#[derive(Clone, Debug)]
enum Step {
    Read(u64, u64),
    Write(u64, u64, u8),
    Zero(u64, u64, bool),
    Discard(u64, u64),
    Flush,
}

const SPACE: u64 = 200;

fn step() -> impl Strategy<Value = Step> {
    let range = || (0..SPACE, 1..SPACE).prop_map(|(from, length)| (from, length.min(SPACE - from)));
    prop_oneof![
        range().prop_map(|(from, length)| Step::Read(from, length)),
        (range(), 1..=255u8).prop_map(|((from, length), byte)| Step::Write(from, length, byte)),
        (range(), any::<bool>()).prop_map(|((from, length), unmap)| Step::Zero(from, length, unmap)),
        range().prop_map(|(from, length)| Step::Discard(from, length)),
        Just(Step::Flush),
    ]
}

/// Does the same to a disk and to what it should hold; a discarded byte may be anything.
fn compare(mut disk: Disk, mut model: Vec<Option<u8>>, steps: &[Step]) -> Disk {
    let bytes = |sectors: u64| usize::try_from(sectors * SECTOR).unwrap();
    for step in steps {
        match *step {
            Step::Read(from, length) => {
                let data = read(&disk, from * SECTOR, bytes(length));
                let expected = &model[bytes(from)..bytes(from + length)];
                let agree =
                    data.iter().zip(expected).all(|(is, should)| should.is_none_or(|should| should == *is));
                assert!(agree, "{step:?}");
            }
            Step::Write(from, length, byte) => {
                write(&disk, from * SECTOR, byte, bytes(length));
                model[bytes(from)..bytes(from + length)].fill(Some(byte));
            }
            Step::Zero(from, length, unmap) => {
                disk.zero(from * SECTOR, length * SECTOR, unmap).unwrap();
                model[bytes(from)..bytes(from + length)].fill(Some(0));
            }
            Step::Discard(from, length) => {
                disk.discard(from * SECTOR, length * SECTOR).unwrap();
                model[bytes(from)..bytes(from + length)].fill(None);
            }
            Step::Flush => disk.flush(false).unwrap(),
        }
    }
    disk
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn every_kind_of_disk_holds_what_was_written(steps in proptest::collection::vec(step(), 1..40)) {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let size = SPACE * SECTOR;
        let base: Vec<u8> = (0..size).map(|index| u8::try_from(index / SECTOR % 251).unwrap()).collect();
        std::fs::write(at("base"), &base).unwrap();
        let shown: Vec<_> = base.iter().copied().map(Some).collect();
        let zeroes = vec![Some(0); base.len()];
        compare(sparse(&at("raw"), size).unwrap(), zeroes.clone(), &steps);
        compare(Disk::create(&at("new"), size, Some(Format::Qcow2), |_| Ok(())).unwrap(), zeroes, &steps);
        compare(Disk::create_over(&at("over"), &at("base"), None, 0).unwrap(), shown.clone(), &steps);
        compare(Disk::with_changes(&at("base"), None, changes(folder.path())).unwrap(), shown.clone(), &steps);
        // Changes over a qcow2 image over a raw one.
        drop(Disk::create_over(&at("clean"), &at("base"), None, 0).unwrap());
        compare(Disk::with_changes(&at("clean"), None, changes(folder.path())).unwrap(), shown, &steps);
        prop_assert_eq!(std::fs::read(at("base")).unwrap(), base);
    }
}
