//! What each test of whole guests consists of.

use super::{LIMIT, MakeFiles, disks, nixpkgs, shared_root, store};
use crate::guest::{Backdoor, Kernel};

/// One run of `snowboot test`.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) script: &'static str,
    pub(super) kernel: Kernel,
    /// More Debian packages in the guests. Cases with the same ones share a root image.
    pub(super) with: &'static [&'static str],
    pub(super) machines: &'static [&'static str],
    /// The VLANs of machines that are not on VLAN 1 alone.
    pub(super) vlans: &'static [(&'static str, &'static [u8])],
    /// The VLANs that have a name.
    pub(super) networks: &'static [(&'static str, u8)],
    pub(super) vcpus: u8,
    pub(super) memory: &'static str,
    /// Whether each machine has a data disk besides its root, and how large it is in MiB.
    pub(super) data_disk: bool,
    pub(super) data_mib: u32,
    /// Whether the root is a disk; otherwise the machines' own keys say what it is.
    pub(super) root_disk: bool,
    /// Whether what a machine writes to its root is there again after its next start, as on a NixOS test machine.
    pub(super) keeps_root: bool,
    /// Whether each machine has its own kernel and initrd on disks, too, for a guest that starts them by itself.
    pub(super) boot_disks: bool,
    /// More of the description of machines: keys of their own, and disks behind those above.
    pub(super) disks: &'static [(&'static str, &'static str, &'static str)],
    /// Makes the files of such disks in the test's folder, anew for each try.
    pub(super) images: Option<MakeFiles>,
    /// Folders of the test's own folder that each machine can mount.
    pub(super) shares: &'static [Share],
    pub(super) backdoor: Backdoor,
    /// How long it may take in the lab, in seconds.
    pub(super) limit: u32,
    /// The time limit of the test itself, in seconds, where the lab's is not to be it.
    pub(super) own_limit: Option<u32>,
    pub(super) status: i32,
    /// What must be on the standard error.
    pub(super) said: &'static [&'static str],
}

/// A folder that machines can mount by its name.
pub(super) struct Share {
    pub(super) tag: &'static str,
    pub(super) writable: bool,
    pub(super) cache: &'static str,
    pub(super) protocol: &'static str,
    /// Its folder; the one of its tag beside the manifest where there is none.
    pub(super) path: Option<&'static str>,
}

/// One that is served as most are.
const SHARE: Share = Share { tag: "", writable: true, cache: "always", protocol: "virtiofs", path: None };

/// What tests of shares have in their guests.
const FOR_FILES: &[&str] = &["attr", "e2fsprogs", "python3"];

/// The same guests, for tests that need no more of them than a language for odd packets.
const WITH_PYTHON: &[&str] = FOR_FILES;

/// What most cases have.
pub(super) const CASE: Case = Case {
    name: "",
    script: "",
    kernel: Kernel::Cloud,
    with: &[],
    machines: &["machine"],
    vlans: &[],
    networks: &[],
    vcpus: 1,
    memory: "256M",
    data_disk: false,
    data_mib: 64,
    root_disk: true,
    keeps_root: false,
    boot_disks: false,
    disks: &[],
    images: None,
    shares: &[],
    backdoor: Backdoor::InRoot,
    limit: LIMIT,
    own_limit: None,
    status: 0,
    said: &[],
};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "ping-small",
        script: "examples/ping.py",
        kernel: Kernel::Generic,
        machines: &["machine1", "machine2"],
        vcpus: 1,
        memory: "256M",
        data_disk: false,
        status: 0,
        said: &["test ping-small passed in", "the VMM adds"],
        ..CASE
    },
    Case {
        name: "power",
        script: "tests/guests/power.py",
        keeps_root: true,
        limit: 1800,
        said: &["the guest was reset: the machine starts again", "subtest: a power cut, and a start by hand"],
        ..CASE
    },
    Case {
        name: "kexec",
        script: "tests/guests/kexec.py",
        with: nixpkgs::PACKAGES,
        memory: "512M",
        boot_disks: true,
        said: &["kexec_core: Starting new kernel", "machine: the machine powered off"],
        ..CASE
    },
    Case {
        name: "conformance",
        script: "tests/guests/conformance.py",
        // The cloud kernel has no virtual terminals.
        kernel: Kernel::Generic,
        machines: &["machine", "peer-node"],
        memory: "384M",
        limit: 2400,
        said: &["subtest: join_all"],
        ..CASE
    },
    Case {
        name: "switch-root",
        script: "tests/guests/switch-root.py",
        memory: "512M",
        backdoor: Backdoor::InInitrdToo,
        said: &["Switching root", "machine: the machine powered off"],
        ..CASE
    },
    Case {
        name: "gateway",
        script: "tests/guests/gateway.py",
        machines: &["alone", "machine"],
        disks: &[
            (
                "machine",
                "user-network = { dns = \"127.0.0.1:5353\", forward-ports = [{ host-port = 2080, guest-port = 80 }] }\n",
                "",
            ),
            ("alone", "user-network = { restrict = true }\n", ""),
        ],
        said: &["subtest: a restricted guest", "subtest: a reset"],
        ..CASE
    },
    Case {
        name: "restrict",
        script: "tests/guests/restrict.py",
        with: WITH_PYTHON,
        machines: &["confined", "free"],
        disks: &[
            (
                "confined",
                "user-network = { restrict = true, dns = \"127.0.0.1:5353\", forward-ports = [{ host-port = 2080, guest-port = 80 }] }\n",
                "",
            ),
            ("free", "user-network = { dns = \"127.0.0.1:5353\" }\n", ""),
        ],
        said: &[": 0 were heard, 0 bytes of them", "subtest: what no network carries is not carried either"],
        ..CASE
    },
    Case {
        name: "vlan-features",
        script: "tests/guests/vlan-features.py",
        with: WITH_PYTHON,
        machines: &["left", "middle", "right"],
        vlans: &[("left", &[1, 0]), ("middle", &[1, 2]), ("right", &[2, 2, 0])],
        limit: 1800,
        said: &["subtest: a group across the bridge", "right: the machine was stopped by the driver"],
        ..CASE
    },
    Case {
        name: "shared-gateway",
        script: "tests/guests/shared_gateway.py",
        machines: &["one", "two"],
        disks: &[(
            "two",
            "",
            "[[uplinks]]\nuser-network = { forward-ports = [{ host-port = 2081, guest = \"two\", guest-port = 80 }] }\n",
        )],
        said: &[
            "subtest: both read from a server of the host's",
            "subtest: each reaches the other by its lease",
        ],
        ..CASE
    },
    Case {
        name: "basics",
        script: "tests/guests/basics.py",
        kernel: Kernel::Generic,
        machines: &["machine"],
        vcpus: 2,
        memory: "512M",
        data_disk: true,
        status: 0,
        said: &["subtest: a power cut keeps what was flushed", "machine: the machine powered off"],
        ..CASE
    },
    Case {
        name: "store",
        script: "tests/guests/store.py",
        kernel: Kernel::Generic,
        machines: &["machine1", "machine2", "machine3"],
        memory: "384M",
        disks: store::STORES,
        images: Some(store::make_content),
        limit: 2400,
        said: &["subtest: the other process dies", "machine2: the machine powered off"],
        ..CASE
    },
    Case {
        name: "disks",
        script: "tests/guests/disks.py",
        machines: &["machine1", "machine2"],
        vcpus: 2,
        memory: "384M",
        disks: disks::DISKS,
        images: Some(disks::make_images),
        limit: 2400,
        said: &[
            "full.img: writing failed, and its guest sees an I/O error: No space left on device",
            "full.img: reading failed, and its guest sees an I/O error",
            "subtest: qemu-img finds nothing wrong",
        ],
        ..CASE
    },
    Case {
        name: "crashes",
        script: "tests/guests/crashes.py",
        with: nixpkgs::PACKAGES,
        memory: "384M",
        keeps_root: true,
        disks: disks::DATA,
        images: Some(disks::make_data_image),
        limit: 3600,
        said: &["subtest: 50 power cuts in the middle of writes", "machine: the machine powered off"],
        ..CASE
    },
    Case {
        name: "files",
        script: "tests/guests/files.py",
        kernel: Kernel::Generic,
        memory: "512M",
        said: &["subtest: much text", "machine: the machine powered off"],
        ..CASE
    },
    Case {
        name: "shares",
        script: "tests/guests/shares.py",
        kernel: Kernel::Generic,
        with: FOR_FILES,
        memory: "512M",
        shares: &[
            Share { tag: "shared", ..SHARE },
            Share { tag: "fixed", writable: false, ..SHARE },
            Share { tag: "live", cache: "never", ..SHARE },
            Share { tag: "kept", cache: "auto", ..SHARE },
            Share { tag: "gone", cache: "auto", ..SHARE },
        ],
        limit: 1800,
        said: &[
            "writing a file failed, and its guest sees that: No space left on device",
            "the folder was removed on the host",
            "subtest: after mounting it again",
            "machine: the machine powered off",
        ],
        ..CASE
    },
    Case {
        name: "ninep",
        script: "tests/guests/ninep.py",
        kernel: Kernel::Generic,
        with: FOR_FILES,
        memory: "512M",
        shares: &[
            Share { tag: "open", protocol: "9p", ..SHARE },
            Share { tag: "fixed", writable: false, protocol: "9p", ..SHARE },
            Share { tag: "kept", protocol: "9p", ..SHARE },
        ],
        limit: 2400,
        said: &["subtest: what the host changes meanwhile", "machine: the machine powered off"],
        ..CASE
    },
    Case {
        name: "shared-root",
        script: "tests/guests/shared-root.py",
        kernel: Kernel::Generic,
        machines: &["new", "old"],
        memory: "384M",
        root_disk: false,
        disks: shared_root::SHARES,
        images: Some(shared_root::make_root),
        limit: 1800,
        said: &["subtest: what is exchanged", "old: the machine powered off"],
        ..CASE
    },
    Case {
        name: "torture",
        script: "tests/guests/torture.py",
        kernel: Kernel::Generic,
        with: FOR_FILES,
        machines: &["machine1", "machine2"],
        memory: "512M",
        data_disk: true,
        data_mib: 8192,
        shares: &[
            Share { tag: "shared", cache: "auto", path: Some("$SHARED_DIR"), ..SHARE },
            Share { tag: "old", protocol: "9p", path: Some("$SHARED_DIR"), ..SHARE },
        ],
        limit: 2400,
        said: &["subtest: old: many processes on two machines", "machine2: the machine powered off"],
        ..CASE
    },
    Case {
        name: "network-large",
        script: "tests/guests/network.py",
        kernel: Kernel::Cloud,
        machines: &["machine1", "machine2"],
        vcpus: 2,
        memory: "5G",
        data_disk: false,
        status: 0,
        said: &["machine1: the machine powered off", "machine2: the machine was stopped by the driver"],
        ..CASE
    },
    Case {
        name: "faults",
        script: "tests/guests/faults.py",
        kernel: Kernel::Cloud,
        machines: &["machine1", "machine2"],
        networks: &[("wire", 1)],
        vcpus: 1,
        memory: "256M",
        data_disk: false,
        status: 0,
        said: &[
            "network: wire.impair(\"machine1\", \"machine2\", loss=0.3, seed=7)",
            "subtest: a partition",
            "machine2: the machine was stopped by the driver",
        ],
        ..CASE
    },
    Case {
        name: "waits",
        script: "tests/guests/waits.py",
        kernel: Kernel::Generic,
        vcpus: 2,
        memory: "512M",
        said: &["late: file", "subtest: virtual terminals", "machine: the machine powered off"],
        ..CASE
    },
    Case {
        name: "hang",
        script: "tests/guests/hang.py",
        machines: &["machine1", "machine2"],
        // Long enough for a boot on a busy machine.
        own_limit: Some(300),
        status: 143,
        said: &[
            "subtest: the time limit of the test",
            "machine1: the machine was stopped by the driver",
            "machine2: the machine was stopped by the driver",
        ],
        ..CASE
    },
    Case {
        name: "panic",
        script: "tests/guests/panic.py",
        kernel: Kernel::Cloud,
        machines: &["machine"],
        vcpus: 1,
        memory: "256M",
        data_disk: false,
        status: 1,
        said: &[
            "line 3, in <module>",
            "machine.succeed(\"echo c >/proc/sysrq-trigger\")",
            "machine: machine was reset by its guest",
            "last console lines",
            "Kernel panic - not syncing: sysrq triggered crash",
        ],
        ..CASE
    },
];
