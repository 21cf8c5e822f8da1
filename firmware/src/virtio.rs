//! The virtio devices, through the `virtio-drivers` crate, with interrupts by MSI-X.

use alloc::vec;
use alloc::vec::Vec;
use alloc::{format, string::String};
use core::alloc::Layout;
use core::ptr::NonNull;

use virtio_drivers::device::blk::{BlkReq, BlkResp, SECTOR_SIZE, VirtIOBlk};
use virtio_drivers::device::rng::VirtIORng;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::pci::bus::{Cam, DeviceFunction, MmioCam, PciRoot};
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{BufferDirection, Error, Hal, PAGE_SIZE, PhysAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::cpu;
use crate::interrupts;
use crate::pci::{Function, Msix};
use crate::report::{Result, check, ensure, note};
use crate::window::Window;

const KIND_BLOCK: u16 = 2;
const KIND_RNG: u16 = 4;
/// Fields of the common configuration (virtio 1.2, 4.1.4.3).
const CONFIG_VECTOR: usize = 0x10;
const QUEUE_SELECT: usize = 0x16;
const QUEUE_VECTOR: usize = 0x1a;
/// The vector that every queue of one-queue devices has: 0 is the configuration's.
const QUEUE_VECTOR_INDEX: usize = 1;
const QUEUE_SIZE: usize = 8;
/// `VIRTIO_F_VERSION_1` and `VIRTIO_F_EVENT_IDX` (virtio 1.2, 6).
const FEATURES: u64 = 1 << 32 | 1 << 29;
/// What the disk check writes: this many sectors from that one on.
const FIRST_SECTOR: usize = 8;
const SECTORS: usize = 24;

/// Memory is mapped one to one, and devices reach all of it.
struct Direct;

// SAFETY: pages come from the heap, which hands each out once; addresses are the same on both sides.
unsafe impl Hal for Direct {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let layout = Layout::from_size_align(pages * PAGE_SIZE, PAGE_SIZE).expect("a whole number of pages");
        // SAFETY: a queue is never empty, so the layout is not.
        let pages = NonNull::new(unsafe { alloc::alloc::alloc_zeroed(layout) }).expect("memory");
        (pages.as_ptr().expose_provenance() as PhysAddr, pages)
    }

    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        0
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(core::ptr::with_exposed_provenance_mut(address as usize)).expect("a BAR's address")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr().expose_provenance() as PhysAddr
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// The crate's transport, which knows no MSI-X, with a vector for the configuration (0) and for each queue (1 ...).
struct MsixTransport {
    inner: PciTransport,
    common: Window,
    vectors: usize,
}

impl MsixTransport {
    fn new(ecam: usize, function: &Function) -> Result<Self> {
        let place = core::ptr::with_exposed_provenance_mut(ecam);
        // SAFETY: ECAM is there; of the 256 MiB, only this function's registers are accessed, and these exist.
        let mut root = PciRoot::new(unsafe { MmioCam::new(place, Cam::Ecam) });
        let address = DeviceFunction { bus: 0, device: function.number, function: 0 };
        let inner = PciTransport::new::<Direct, _>(&mut root, address).map_err(|error| format!("{error}"))?;
        Ok(Self { inner, common: function.common, vectors: function.msix.vectors() })
    }
}

impl Transport for MsixTransport {
    fn device_type(&self) -> DeviceType {
        self.inner.device_type()
    }

    fn read_device_features(&mut self) -> u64 {
        self.inner.read_device_features()
    }

    fn write_driver_features(&mut self, driver_features: u64) {
        self.inner.write_driver_features(driver_features);
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.inner.max_queue_size(queue)
    }

    fn notify(&mut self, queue: u16) {
        self.inner.notify(queue);
    }

    fn get_status(&self) -> DeviceStatus {
        self.inner.get_status()
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.inner.set_status(status);
        assert_eq!(self.inner.get_status(), status, "the device refused a step of its set-up");
    }

    fn set_guest_page_size(&mut self, size: u32) {
        self.inner.set_guest_page_size(size);
    }

    fn requires_legacy_layout(&self) -> bool {
        self.inner.requires_legacy_layout()
    }

    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver_area: PhysAddr,
        device_area: PhysAddr,
    ) {
        let vector = queue + 1;
        assert!(usize::from(vector) < self.vectors, "queue {queue} has no vector");
        self.common.write(CONFIG_VECTOR, 0u16);
        self.common.write(QUEUE_SELECT, queue);
        self.common.write(QUEUE_VECTOR, vector);
        assert_eq!(self.common.read::<u16>(QUEUE_VECTOR), vector, "the device refused a vector");
        self.inner.queue_set(queue, size, descriptors, driver_area, device_area);
    }

    fn queue_unset(&mut self, queue: u16) {
        self.inner.queue_unset(queue);
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.inner.queue_used(queue)
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        self.inner.ack_interrupt()
    }

    fn read_config_generation(&self) -> u32 {
        self.inner.read_config_generation()
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> virtio_drivers::Result<T> {
        self.inner.read_config_space(offset)
    }

    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> virtio_drivers::Result<()> {
        self.inner.write_config_space(offset, value)
    }
}

/// The entropy device, driven by hand so that a request's interrupt is waited for before its buffer is taken back. (Who
/// polls tells the device through the event index that no interrupt is needed, possibly before it would have come.)
pub(crate) struct Rng {
    transport: MsixTransport,
    queue: VirtQueue<Direct, QUEUE_SIZE>,
    msix: Msix,
}

/// Checks every device; returns the rng for further use.
pub(crate) fn check_all(ecam: usize, functions: &[Function], top: usize) -> Option<Rng> {
    let of_kind = |kind| functions.iter().filter(move |function| function.kind == kind);
    for (index, function) in of_kind(KIND_BLOCK).enumerate() {
        check(&format!("disk{index}"), || check_disk(ecam, function, index));
    }
    let function = check("rng", || {
        let function = of_kind(KIND_RNG).next().ok_or("there is none")?;
        check_rng(ecam, function).map(|()| function)
    })?;
    let mut rng = check("rng-again", || Rng::new(ecam, function))?;
    check("rng-high", || rng.check_high(top));
    check("msix", || rng.check_delivery());
    check("msix-mask", || rng.check_mask(|msix, masked| msix.mask(QUEUE_VECTOR_INDEX, masked)));
    check("msix-function-mask", || rng.check_mask(Msix::mask_function));
    Some(rng)
}

/// The crate's own driver.
fn check_rng(ecam: usize, function: &Function) -> Result {
    let mut device = VirtIORng::<Direct, _>::new(MsixTransport::new(ecam, function)?).map_err(text)?;
    let (mut one, mut other) = ([0; 64], [0; 64]);
    for buffer in [&mut one, &mut other] {
        let count = device.request_entropy(buffer).map_err(text)?;
        ensure(count == buffer.len(), format_args!("{count} bytes came, {} were asked for", buffer.len()))?;
    }
    ensure(one != other && one != [0; 64], format_args!("it is not random: {one:?}, then {other:?}"))
}

impl Rng {
    /// Sets the device up anew: the driver before this one has reset it.
    fn new(ecam: usize, function: &Function) -> Result<Self> {
        let mut transport = MsixTransport::new(ecam, function)?;
        transport.set_status(DeviceStatus::empty());
        transport.set_status(DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER);
        let offered = transport.read_device_features();
        ensure(offered & FEATURES == FEATURES, format_args!("it offers {offered:#x} only"))?;
        transport.write_driver_features(FEATURES);
        let known = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER | DeviceStatus::FEATURES_OK;
        transport.set_status(known);
        let queue = VirtQueue::new(&mut transport, 0, false, true).map_err(text)?;
        transport.set_status(known | DeviceStatus::DRIVER_OK);
        let mut rng = Self { transport, queue, msix: function.msix };
        rng.fill(&mut [0; 64])?;
        Ok(rng)
    }

    /// Asks for bytes.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) -> Result {
        self.request(buffer, |_| true).map(drop)
    }

    /// Makes one request and waits for its end; `came` waits for something else before the buffer is taken back, and its
    /// answer is returned.
    fn request(&mut self, buffer: &mut [u8], came: impl FnOnce(&Msix) -> bool) -> Result<bool> {
        let length = buffer.len();
        // SAFETY: the buffer is taken back before this returns, or the payload ends.
        let token = unsafe { self.queue.add(&[], &mut [buffer]) }.map_err(text)?;
        if self.queue.should_notify() {
            self.transport.notify(0);
        }
        let came = came(&self.msix);
        assert!(cpu::wait_until(|| self.queue.can_pop()), "a request does not end");
        // SAFETY: it is the buffer that was added.
        let count = unsafe { self.queue.pop_used(token, &[], &mut [buffer]) }.map_err(text)?;
        ensure(count as usize == length, format_args!("{count} bytes came, {length} were asked for"))?;
        Ok(came)
    }

    /// A buffer in the highest memory: addresses of more than 32 bits where there is that much.
    fn check_high(&mut self, top: usize) -> Result {
        note(format_args!("top={top:#x}"));
        let place = core::ptr::with_exposed_provenance_mut::<u8>(top);
        // SAFETY: it is RAM by the machine's memory map, beyond all else that the payload uses.
        let buffer = unsafe { core::slice::from_raw_parts_mut(place, 64) };
        buffer.fill(0);
        self.fill(buffer)?;
        ensure(buffer.iter().any(|byte| *byte != 0), format_args!("nothing arrived at {top:#x}"))
    }

    fn check_delivery(&mut self) -> Result {
        let config = interrupts::count(self.msix.first_vector);
        for round in 0..100 {
            let vector = self.msix.first_vector + QUEUE_VECTOR_INDEX as u8;
            let before = interrupts::count(vector);
            let came = self.request(&mut [0; 16], |_| interrupts::wait_for(vector, before))?;
            ensure(came, format_args!("the interrupt of request {round} did not come"))?;
            let now = interrupts::count(vector);
            ensure(now == before + 1, format_args!("{} interrupts came of request {round}", now - before))?;
        }
        let now = interrupts::count(self.msix.first_vector);
        ensure(now == config, format_args!("{} configuration interrupts came", now - config))
    }

    /// While `mask` masks, an interrupt is pending; afterwards it comes.
    fn check_mask(&mut self, mask: impl Fn(&Msix, bool)) -> Result {
        let vector = self.msix.first_vector + QUEUE_VECTOR_INDEX as u8;
        let before = interrupts::count(vector);
        mask(&self.msix, true);
        let pending =
            self.request(&mut [0; 16], |msix| cpu::wait_until(|| msix.is_pending(QUEUE_VECTOR_INDEX)))?;
        let meanwhile = interrupts::count(vector);
        mask(&self.msix, false);
        let came = interrupts::wait_for(vector, before);
        ensure(pending, format_args!("the pending bit of a masked vector is not set"))?;
        ensure(meanwhile == before, format_args!("a masked vector sent an interrupt"))?;
        ensure(came, format_args!("the interrupt did not come after unmasking"))?;
        ensure(!self.msix.is_pending(QUEUE_VECTOR_INDEX), format_args!("the pending bit stays set"))
    }
}

fn text(error: Error) -> String {
    format!("{error}")
}

/// What sector `sector` of disk `disk` holds after the check.
fn pattern(disk: usize, sector: usize) -> Vec<u8> {
    (0..SECTOR_SIZE)
        .map(|byte| (byte.wrapping_mul(7) ^ sector.wrapping_mul(13)).wrapping_add(disk) as u8)
        .collect()
}

fn check_disk(ecam: usize, function: &Function, index: usize) -> Result {
    let mut disk = VirtIOBlk::<Direct, _>::new(MsixTransport::new(ecam, function)?).map_err(text)?;
    let mut id = [0; 20];
    let length = disk.device_id(&mut id).map_err(text)?;
    let serial = core::str::from_utf8(&id[..length]).unwrap_or("?");
    let (sectors, read_only) = (disk.capacity(), disk.readonly());
    note(format_args!("disk{index} sectors={sectors} read-only={read_only} serial={serial}"));
    let mut first = [0; SECTOR_SIZE];
    read_by_interrupt(&mut disk, function.msix.first_vector + QUEUE_VECTOR_INDEX as u8, &mut first)?;
    let label = first.split(|byte| *byte == 0).next().unwrap_or_default();
    note(format_args!("disk{index} label={}", core::str::from_utf8(label).unwrap_or("?")));

    let data: Vec<u8> =
        (FIRST_SECTOR..FIRST_SECTOR + SECTORS).flat_map(|sector| pattern(index, sector)).collect();
    let written = disk.write_blocks(FIRST_SECTOR, &data);
    if read_only {
        ensure(written == Err(Error::IoError), format_args!("writing to a read-only disk gave {written:?}"))?;
    } else {
        written.map_err(text)?;
        disk.flush().map_err(text)?;
        let mut back = vec![0; data.len()];
        disk.read_blocks(FIRST_SECTOR, &mut back).map_err(text)?;
        ensure(back == data, format_args!("what was read is not what was written"))?;
    }
    let beyond = disk.read_blocks(sectors as usize, &mut first);
    ensure(beyond == Err(Error::IoError), format_args!("reading beyond the end gave {beyond:?}"))?;
    disk.read_blocks(sectors as usize - 1, &mut first).map_err(text)
}

/// Reads sector 0 and waits for the interrupt before looking at the queue.
fn read_by_interrupt(
    disk: &mut VirtIOBlk<Direct, MsixTransport>,
    vector: u8,
    buffer: &mut [u8; SECTOR_SIZE],
) -> Result {
    let (mut request, mut response) = (BlkReq::default(), BlkResp::default());
    let before = interrupts::count(vector);
    // SAFETY: none of the three is touched until the request is complete, or the payload ends.
    let token = unsafe { disk.read_blocks_nb(0, &mut request, buffer, &mut response) }.map_err(text)?;
    let came = interrupts::wait_for(vector, before);
    assert!(cpu::wait_until(|| disk.peek_used() == Some(token)), "a request does not end");
    // SAFETY: these are what the request was made with.
    unsafe { disk.complete_read_blocks(token, &request, buffer, &mut response) }.map_err(text)?;
    ensure(came, format_args!("its interrupt did not come"))
}
