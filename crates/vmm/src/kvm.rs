//! The one module that talks to KVM, and the one that holds `unsafe`.
//!
//! It owns the VM's file descriptors, its memory slots and its interrupt routes. KVM's many exits come out as our few.
#![expect(unsafe_code, reason = "memory slots and the run page are raw memory shared with the kernel")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use kvm_bindings::{
    CpuId, KVM_EXIT_IO, KVM_EXIT_IO_IN, KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY, KvmIrqRouting, Msrs,
    kvm_irq_routing_entry, kvm_msr_entry, kvm_pit_config, kvm_regs, kvm_sregs, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, IoEventAddress, NoDatamatch, VcpuExit, VcpuFd, VmFd};
use snowboot_bus::{Access, GuestMemory, IrqLine, Msi, MsiAllocator, MsiError, MsiSource, Op, Space};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use vmm_sys_util::ioctl::ioctl;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler, unblock_signal};

use crate::Error;
use crate::arch::layout;
use crate::memory::Image;

/// The only version of the KVM API there is.
const API_VERSION: i32 = 12;
/// What no machine can do without; all of it is older than Linux 5.10.
const NEEDED: [(Cap, &str); 5] = [
    (Cap::Irqfd, "IRQFD"),
    (Cap::Ioeventfd, "IOEVENTFD"),
    (Cap::ImmediateExit, "IMMEDIATE_EXIT"),
    (Cap::SignalMsi, "SIGNAL_MSI"),
    (Cap::UserMemory, "USER_MEMORY"),
];
/// Size of `struct kvm_lapic_state` registers' window is fixed; the local vector table entries used at boot.
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
/// Delivery modes of a local vector table entry (Intel SDM 3, section 11.5.1).
const MODE_NMI: u32 = 0x400;
const MODE_EXTINT: u32 = 0x700;

/// KVM takes this many routes (`KVM_MAX_IRQ_ROUTES`).
const GSI_END: u32 = 4096;

// KVM API 4.133; kvm-ioctls does not have it.
vmm_sys_util::ioctl_io_nr!(KVM_GET_STATS_FD, kvm_bindings::KVMIO, 0xce);

/// The KVM device.
pub(crate) struct Kvm {
    fd: kvm_ioctls::Kvm,
}

impl Kvm {
    /// Opens the KVM device and checks that it speaks the API that everything here is written to.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())
            .map_err(|_| Error::Config("The path of the KVM device contains a NUL byte".to_owned()))?;
        let fd = kvm_ioctls::Kvm::new_with_path(&name).map_err(|error| {
            let source = io::Error::from_raw_os_error(error.errno());
            Error::KvmDevice { path: path.to_owned(), why: explain_open(&source), source }
        })?;
        let version = fd.get_api_version();
        if version != API_VERSION {
            return Err(Error::KvmDevice {
                path: path.to_owned(),
                why: format!("it answers as API version {version}, not {API_VERSION}; is it the KVM device?"),
                source: io::Error::from(io::ErrorKind::Unsupported),
            });
        }
        let kvm = Self { fd };
        match NEEDED.iter().find(|(capability, _)| !kvm.fd.check_extension(*capability)) {
            None => Ok(kvm),
            Some((_, name)) => Err(Error::KvmDevice {
                path: path.to_owned(),
                why: format!("it lacks the capability {name}; use a kernel from Linux 5.10 on"),
                source: io::Error::from(io::ErrorKind::Unsupported),
            }),
        }
    }

    /// Fails when a machine of `vcpus` vCPUs is more than this host allows.
    pub(crate) fn check_vcpus(&self, vcpus: u8) -> Result<(), Error> {
        let most = self.fd.get_max_vcpus();
        if usize::from(vcpus) > most {
            return Err(Error::Config(format!(
                "This host's KVM allows {most} vCPUs in a machine, not {vcpus}"
            )));
        }
        Ok(())
    }

    /// What this host's KVM can show a guest as its CPU.
    pub(crate) fn supported_cpuid(&self) -> Result<CpuId, Error> {
        self.fd
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(Error::kvm("list the supported CPUID leaves"))
    }

    /// Whether the in-kernel local APIC has a TSC-deadline timer. Kernels before 6.18 do not list the CPUID bit.
    pub(crate) fn has_tsc_deadline(&self) -> bool {
        self.fd.check_extension(Cap::TscDeadlineTimer)
    }

    /// Makes a VM with `memory` and `images` in its slots, an in-kernel interrupt controller and timer.
    pub(crate) fn create_vm(&self, memory: GuestMemory, images: Vec<PlacedImage>) -> Result<Arc<Vm>, Error> {
        let fd = self.fd.create_vm().map_err(Error::kvm("create a VM"))?;
        set_slots(&fd, &memory, &images)?;
        fd.set_identity_map_address(layout::KVM_IDENTITY_MAP)
            .map_err(Error::kvm("place its identity map"))?;
        let tss = usize::try_from(layout::KVM_TSS).map_err(|_| Error::Config("TSS address".to_owned()))?;
        fd.set_tss_address(tss).map_err(Error::kvm("place its TSS"))?;
        fd.create_irq_chip().map_err(Error::kvm("create the interrupt controllers"))?;
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        fd.create_pit2(pit).map_err(Error::kvm("create the interval timer"))?;
        let routes = Mutex::new(Routes { entries: pin_routes(), next: layout::gsi::FIRST_MSI });
        let vm = Vm { fd, routes, images, _memory: memory };
        vm.load_routes(&vm.routes.lock().unwrap_or_else(PoisonError::into_inner))
            .map_err(Error::host("route the interrupt pins"))?;
        Ok(Arc::new(vm))
    }
}

fn explain_open(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "it does not exist. Load the module (modprobe kvm_amd or kvm_intel), enable \
            virtualization in the firmware, or give this machine nested virtualization"
                .to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "permission denied. Add yourself to the group kvm (sudo usermod -aG kvm \
            $USER, then log in again)"
                .to_owned()
        }
        _ => format!("{error}"),
    }
}

/// An image and where guests have it.
pub(crate) struct PlacedImage {
    /// Guest-physical.
    pub(crate) address: u64,
    pub(crate) image: Image,
}

fn set_slots(fd: &VmFd, memory: &GuestMemory, images: &[PlacedImage]) -> Result<(), Error> {
    let mut slots = 0..;
    for (region, slot) in memory.iter().zip(&mut slots) {
        let address = memory.get_host_address(region.start_addr()).map_err(|error| Error::Host {
            what: "map guest memory".to_owned(),
            source: io::Error::other(error),
        })?;
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: address as u64,
        };
        // SAFETY: the region is mapped for `memory_size` bytes, slots do not overlap, and `Vm` keeps `memory` alive for
        // as long as the VM's file descriptor.
        unsafe { fd.set_user_memory_region(region) }.map_err(Error::kvm("set a memory slot"))?;
    }
    for (PlacedImage { address, image }, slot) in images.iter().zip(&mut slots) {
        let region = kvm_userspace_memory_region {
            slot,
            flags: kvm_bindings::KVM_MEM_READONLY,
            guest_phys_addr: *address,
            memory_size: image.size(),
            userspace_addr: image.host_address(),
        };
        // SAFETY: the image is mapped for `memory_size` bytes, its slot is behind all memory, and `Vm` keeps the image for
        // as long as the VM's file descriptor.
        unsafe { fd.set_user_memory_region(region) }.map_err(Error::kvm("set a memory slot for an image"))?;
    }
    Ok(())
}

/// A virtual machine.
pub(crate) struct Vm {
    fd: VmFd,
    routes: Mutex<Routes>,
    /// The slots point into these two. After `fd`, so that they are dropped later.
    images: Vec<PlacedImage>,
    _memory: GuestMemory,
}

struct Routes {
    entries: BTreeMap<u32, kvm_irq_routing_entry>,
    next: u32,
}

impl Vm {
    /// Creates vCPU `index`.
    pub(crate) fn create_vcpu(&self, index: u8) -> Result<Vcpu, Error> {
        let fd = self.fd.create_vcpu(u64::from(index)).map_err(Error::kvm("create a vCPU"))?;
        Ok(Vcpu { fd })
    }

    /// What a vCPU came out for when the host had no page for it, in words.
    pub(crate) fn explain_missing_page(&self) -> String {
        let images = || self.images.iter().map(|it| &it.image);
        if let Some((image, now)) = images().find_map(|it| Some((it, it.cut_to()?))) {
            let path = image.path().display();
            return format!("{path} was cut to {now} bytes while the guest had it as persistent memory");
        }
        let paths: Vec<_> = images().map(|image| image.path().display().to_string()).collect();
        match paths.as_slice() {
            [] => "KVM got no page of guest memory from the host".to_owned(),
            paths => format!("the host could not read a page of {}", paths.join(" or of ")),
        }
    }

    /// An edge-triggered line into the I/O APIC.
    pub(crate) fn irq_line(&self, gsi: u32) -> Result<Arc<dyn IrqLine>, Error> {
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
            .map_err(Error::host("create an event file descriptor"))?;
        self.fd.register_irqfd(&event, gsi).map_err(Error::kvm("register an interrupt line"))?;
        Ok(Arc::new(Line { event }))
    }

    /// Sends guest writes of any value to `address` straight to `event`, without an exit.
    pub(crate) fn add_doorbell(&self, address: u64, event: &EventFd) -> Result<(), Error> {
        self.fd
            .register_ioevent(event, &IoEventAddress::Mmio(address), NoDatamatch)
            .map_err(Error::kvm("register a doorbell"))
    }

    /// Undoes [`Vm::add_doorbell`].
    pub(crate) fn remove_doorbell(&self, address: u64, event: &EventFd) -> Result<(), Error> {
        self.fd
            .unregister_ioevent(event, &IoEventAddress::Mmio(address), NoDatamatch)
            .map_err(Error::kvm("remove a doorbell"))
    }

    fn route(&self, gsi: u32, message: Msi) -> Result<(), io::Error> {
        let mut entry =
            kvm_irq_routing_entry { gsi, type_: kvm_bindings::KVM_IRQ_ROUTING_MSI, ..Default::default() };
        let [low, high] = halves(message.address);
        entry.u.msi.address_lo = low;
        entry.u.msi.address_hi = high;
        entry.u.msi.data = message.data;
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let before = routes.entries.insert(gsi, entry);
        let outcome = self.load_routes(&routes);
        // The message is the guest's, and KVM may refuse it; left in the table it would spoil every later update.
        if outcome.is_err() {
            match before {
                Some(before) => routes.entries.insert(gsi, before),
                None => routes.entries.remove(&gsi),
            };
        }
        outcome
    }

    fn load_routes(&self, routes: &Routes) -> Result<(), io::Error> {
        let entries: Vec<_> = routes.entries.values().copied().collect();
        let table = KvmIrqRouting::from_entries(&entries).map_err(|_| io::ErrorKind::OutOfMemory)?;
        self.fd.set_gsi_routing(&table).map_err(|error| io::Error::from_raw_os_error(error.errno()))
    }
}

fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

/// The I/O APIC's pins, and nothing of the PIC: the machine is a hardware-reduced one. KVM's own table leads the first
/// 16 interrupts to both, where a guest that never set the PIC up gets them a second time, as exceptions 0 to 15.
fn pin_routes() -> BTreeMap<u32, kvm_irq_routing_entry> {
    let mut entries = BTreeMap::new();
    for gsi in 0..layout::gsi::FIRST_MSI {
        let mut entry =
            kvm_irq_routing_entry { gsi, type_: kvm_bindings::KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
        entry.u.irqchip.irqchip = kvm_bindings::KVM_IRQCHIP_IOAPIC;
        entry.u.irqchip.pin = gsi;
        entries.insert(gsi, entry);
    }
    entries
}

#[derive(Debug)]
struct Line {
    event: EventFd,
}

impl IrqLine for Line {
    fn trigger(&self) {
        // A full counter means that an edge is pending anyhow.
        let _ = self.event.write(1);
    }
}

/// Hands out MSI sources of one VM.
pub(crate) struct MsiRoutes(pub(crate) Arc<Vm>);

impl MsiAllocator for MsiRoutes {
    fn allocate(&self) -> Result<Arc<dyn MsiSource>, MsiError> {
        let event =
            EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(|source| MsiError { what: "create", source })?;
        let mut routes = self.0.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let gsi = routes.next;
        if gsi >= GSI_END {
            return Err(MsiError { what: "allocate", source: io::ErrorKind::StorageFull.into() });
        }
        routes.next = gsi.saturating_add(1);
        Ok(Arc::new(Message { vm: Arc::clone(&self.0), gsi, event, state: Mutex::default() }))
    }
}

struct Message {
    vm: Arc<Vm>,
    gsi: u32,
    event: EventFd,
    state: Mutex<MessageState>,
}

#[derive(Default)]
struct MessageState {
    registered: bool,
    routed: Option<Msi>,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Message").field("gsi", &self.gsi).finish_non_exhaustive()
    }
}

impl MsiSource for Message {
    fn trigger(&self) {
        // A full counter means that the interrupt is pending anyhow.
        let _ = self.event.write(1);
    }

    fn configure(&self, message: Option<Msi>) -> Result<(), MsiError> {
        // Masking needs no call: a masked vector is simply not triggered by its table.
        let Some(message) = message else { return Ok(()) };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.routed != Some(message) {
            self.vm.route(self.gsi, message).map_err(|source| MsiError { what: "route", source })?;
            state.routed = Some(message);
        }
        if !state.registered {
            self.vm.fd.register_irqfd(&self.event, self.gsi).map_err(|error| MsiError {
                what: "register",
                source: io::Error::from_raw_os_error(error.errno()),
            })?;
            state.registered = true;
        }
        Ok(())
    }
}

/// Why a vCPU came back.
#[derive(Debug)]
pub(crate) enum Exit<'a> {
    /// A register access; a read is completed by the next entry.
    Access(Access<'a>),
    /// Several accesses of one string instruction to the same port: `width` bytes each.
    PortString { port: u16, width: usize, op: Op<'a> },
    /// A signal or `immediate_exit`, or nothing to do: look at the commands and enter again.
    Interrupted,
    /// Triple fault.
    TripleFault,
    /// The host had no page for an address of the guest's.
    MissingPage,
    /// KVM cannot go on, in words.
    Fault(String),
}

/// A virtual CPU. It belongs to the thread that runs it.
pub(crate) struct Vcpu {
    fd: VcpuFd,
}

impl Vcpu {
    pub(crate) fn set_cpuid(&self, cpuid: &CpuId) -> Result<(), Error> {
        self.fd.set_cpuid2(cpuid).map_err(Error::kvm("set a vCPU's CPUID"))
    }

    pub(crate) fn sregs(&self) -> Result<kvm_sregs, Error> {
        self.fd.get_sregs().map_err(Error::kvm("read a vCPU's system registers"))
    }

    pub(crate) fn set_sregs(&self, sregs: &kvm_sregs) -> Result<(), Error> {
        self.fd.set_sregs(sregs).map_err(Error::kvm("set a vCPU's system registers"))
    }

    pub(crate) fn set_regs(&self, regs: &kvm_regs) -> Result<(), Error> {
        self.fd.set_regs(regs).map_err(Error::kvm("set a vCPU's registers"))
    }

    /// The file with KVM's own statistics of this vCPU; `None` on kernels without (`KVM_CAP_BINARY_STATS_FD`, Linux 5.14).
    pub(crate) fn statistics(&self) -> Option<File> {
        // SAFETY: the request takes no argument and touches no memory of this process.
        let fd = unsafe { ioctl(&self.fd, KVM_GET_STATS_FD()) };
        // SAFETY: the kernel has just made this descriptor, and nothing else knows it.
        (fd >= 0).then(|| unsafe { File::from_raw_fd(fd) })
    }

    /// Sets MSRs; every one of them must be taken.
    pub(crate) fn set_msrs(&self, values: &[(u32, u64)]) -> Result<(), Error> {
        let entries: Vec<_> =
            values.iter().map(|&(index, data)| kvm_msr_entry { index, data, ..Default::default() }).collect();
        let msrs = Msrs::from_entries(&entries).map_err(|_| Error::Config("Too many MSRs".to_owned()))?;
        let done = self.fd.set_msrs(&msrs).map_err(Error::kvm("set a vCPU's MSRs"))?;
        match values.get(done) {
            None => Ok(()),
            Some((index, _)) => Err(Error::Config(format!("KVM does not take the MSR {index:#x}"))),
        }
    }

    /// Wires the local APIC's pins as a PC's firmware does: LINT0 takes the PIC, LINT1 the NMI.
    pub(crate) fn wire_lapic(&self) -> Result<(), Error> {
        let mut lapic = self.fd.get_lapic().map_err(Error::kvm("read a local APIC"))?;
        for (offset, mode) in [(LVT_LINT0, MODE_EXTINT), (LVT_LINT1, MODE_NMI)] {
            if let Some(register) = lapic.regs.get_mut(offset..offset + 4) {
                for (byte, value) in register.iter_mut().zip(mode.to_le_bytes()) {
                    *byte = value.cast_signed();
                }
            }
        }
        self.fd.set_lapic(&lapic).map_err(Error::kvm("set up a local APIC"))
    }

    /// Enters the guest until something has to be done outside.
    pub(crate) fn run(&mut self) -> Exit<'_> {
        let exit = match self.fd.run() {
            Ok(exit) => exit,
            Err(error) => return Self::failed_entry(error),
        };
        match exit {
            // Ports are decoded from the run page, which knows the width of string instructions.
            VcpuExit::IoIn(..) | VcpuExit::IoOut(..) => self.port_access(),
            VcpuExit::MmioRead(addr, data) => {
                // SAFETY: `data` is the run page's MMIO buffer, which lives as long as `self`; the borrow checker cannot
                // see that the other arms no longer use the exit (returning a conditional borrow).
                let data = unsafe { std::slice::from_raw_parts_mut(data.as_mut_ptr(), data.len()) };
                Exit::Access(Access { space: Space::Mmio, addr, op: Op::Read(data) })
            }
            VcpuExit::MmioWrite(addr, data) => {
                // SAFETY: as above, for reading.
                let data = unsafe { std::slice::from_raw_parts(data.as_ptr(), data.len()) };
                Exit::Access(Access { space: Space::Mmio, addr, op: Op::Write(data) })
            }
            VcpuExit::Intr | VcpuExit::Hlt | VcpuExit::IrqWindowOpen | VcpuExit::SetTpr => Exit::Interrupted,
            VcpuExit::Shutdown => Exit::TripleFault,
            VcpuExit::SystemEvent(kind, _) => Exit::Fault(format!("unexpected system event {kind}")),
            VcpuExit::FailEntry(reason, cpu) => Exit::Fault(format!(
                "entering the guest on CPU {cpu} failed with hardware reason {reason:#x}"
            )),
            VcpuExit::InternalError => self.internal_error(),
            other => Exit::Fault(format!("unexpected exit {other:?}")),
        }
    }

    fn failed_entry(error: kvm_ioctls::Error) -> Exit<'static> {
        // EAGAIN: an application processor got its start-up message, or still waits for it.
        if error.errno() == libc::EINTR || error.errno() == libc::EAGAIN {
            Exit::Interrupted
        } else if error.errno() == libc::EFAULT {
            Exit::MissingPage
        } else {
            Exit::Fault(format!("KVM_RUN failed: {}", io::Error::from_raw_os_error(error.errno())))
        }
    }

    /// `KVM_EXIT_IO`, from the run page.
    fn port_access(&mut self) -> Exit<'_> {
        let run = self.fd.get_kvm_run();
        debug_assert_eq!(run.exit_reason, KVM_EXIT_IO);
        // SAFETY: the exit reason is KVM_EXIT_IO, for which the kernel fills this member of the union.
        let io = unsafe { run.__bindgen_anon_1.io };
        let width = usize::from(io.size);
        let length = width.saturating_mul(usize::try_from(io.count).unwrap_or(0));
        let Ok(offset) = usize::try_from(io.data_offset) else {
            return Exit::Fault("KVM reported a port access outside of its run page".to_owned());
        };
        let base = std::ptr::from_mut(run).cast::<u8>();
        // SAFETY: the kernel puts `size * count` bytes at `data_offset` of the mapping that `run` begins, and leaves
        // them alone until the next entry; the slice borrows `self`.
        let data = unsafe { std::slice::from_raw_parts_mut(base.add(offset), length) };
        let op = if u32::from(io.direction) == KVM_EXIT_IO_IN { Op::Read(data) } else { Op::Write(data) };
        if length == width {
            Exit::Access(Access { space: Space::Port, addr: u64::from(io.port), op })
        } else {
            Exit::PortString { port: io.port, width, op }
        }
    }

    fn internal_error(&mut self) -> Exit<'_> {
        let run = self.fd.get_kvm_run();
        // SAFETY: the exit reason is KVM_EXIT_INTERNAL_ERROR, for which the kernel fills this member of the union.
        let internal = unsafe { run.__bindgen_anon_1.internal };
        let count = usize::try_from(internal.ndata).unwrap_or(0).min(internal.data.len());
        let data: Vec<_> = internal.data.iter().take(count).map(|word| format!("{word:#x}")).collect();
        let kind = match internal.suberror {
            1 => "it cannot emulate an instruction",
            2 => "an exit came while another event was being delivered",
            3 => "delivering an event failed",
            4 => "an exit of a kind that it does not know",
            _ => "unknown",
        };
        let place = self.fd.get_regs().map_or_else(|_| String::new(), |regs| format!(" at {:#x}", regs.rip));
        Exit::Fault(format!(
            "KVM internal error{place}: {kind} (suberror {}, {})",
            internal.suberror,
            data.join(" ")
        ))
    }

    /// Completes the access that the last exit left open, without running the guest: KVM takes the value of a read, and
    /// finishes the instruction, only on the next entry, so a vCPU that is paused or saved before is inconsistent. An
    /// instruction of several accesses comes out for the next one; it is done when this is [`Exit::Interrupted`].
    pub(crate) fn complete_pending(&mut self) -> Exit<'_> {
        // It stays set until the last one: whoever was interrupted looks for commands before entering again.
        self.fd.set_kvm_immediate_exit(1);
        self.run()
    }

    /// Marks the guest's kvm-clock page, so that its watchdogs do not take a pause for a lock-up (KVM API 4.75).
    pub(crate) fn announce_pause(&self) {
        // Refused while the guest has no kvm-clock, and of no use to it then.
        let _ = self.fd.kvmclock_ctrl();
    }

    /// Lets [`Kick`]s of this thread interrupt [`Vcpu::run`]. Called once, by the thread that will run the vCPU.
    pub(crate) fn adopt_thread(&mut self) -> Result<Kick, Error> {
        install_handler()?;
        // The mask is inherited, and a program that embeds machines may wait for signals on a thread of its own.
        unblock_signal(SIGRTMIN()).map_err(|error| Error::Host {
            what: "unblock the signal that interrupts vCPUs".to_owned(),
            source: io::Error::other(error.to_string()),
        })?;
        let flag = std::ptr::from_mut(&mut self.fd.get_kvm_run().immediate_exit);
        IMMEDIATE_EXIT.with(|cell| cell.set(flag));
        // SAFETY: always succeeds.
        Ok(Kick { thread: unsafe { libc::pthread_self() } })
    }

    /// Ends what [`Vcpu::adopt_thread`] began, before the vCPU goes away.
    pub(crate) fn release_thread() {
        IMMEDIATE_EXIT.with(|cell| cell.set(std::ptr::null_mut()));
    }

    /// Forgets a kick that was taken.
    pub(crate) fn clear_kick(&mut self) {
        self.fd.set_kvm_immediate_exit(0);
    }
}

/// Whether the calling thread, when it is woken, lets others of its CPU go on (`SCHED_BATCH`). A host that refuses leaves
/// it as it was.
pub(crate) fn make_thread_patient(is_patient: bool) {
    let policy = if is_patient { libc::SCHED_BATCH } else { libc::SCHED_OTHER };
    let parameters = libc::sched_param { sched_priority: 0 };
    // The call itself: one C library has only a stub of it, as it is not what POSIX says of the function.
    // SAFETY: it reads the parameters, and 0 is the calling thread.
    let _ = unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, policy, &raw const parameters) };
}

thread_local! {
    /// The run page's `immediate_exit` of the vCPU that this thread runs.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(std::ptr::null_mut()) };
}

fn install_handler() -> Result<(), Error> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    INSTALLED
        .get_or_init(|| register_signal_handler(SIGRTMIN(), on_kick).map_err(|error| error.errno()))
        .map_err(|errno| Error::Host {
            what: "install the signal handler that interrupts vCPUs".to_owned(),
            source: io::Error::from_raw_os_error(errno),
        })
}

/// A signal that comes just before `KVM_RUN` would be lost; the flag makes that entry return at once.
extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    IMMEDIATE_EXIT.with(|cell| {
        let flag = cell.get();
        if !flag.is_null() {
            // SAFETY: the pointer is into the run page of the vCPU that this very thread runs, set by `adopt_thread` and
            // cleared by `release_thread` before the page is unmapped; the handler interrupts only this thread.
            unsafe { flag.write_volatile(1) };
        }
    });
}

/// Interrupts one vCPU thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kick {
    thread: libc::pthread_t,
}

impl Kick {
    /// Makes the thread's current or next [`Vcpu::run`] return. The caller makes sure that the thread still lives.
    pub(crate) fn kick(self) {
        // SAFETY: pthread_kill has no memory effects of its own, and the thread lives: a vCPU thread takes itself off
        // the list of kicks, under that list's lock, before it ends.
        let _ = unsafe { libc::pthread_kill(self.thread, SIGRTMIN()) };
    }
}
