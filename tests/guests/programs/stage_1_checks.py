"""What a NixOS stage 1 has to find on a machine, as commands for its shell; see `cargo xtask test`'s guest test `stage-1`."""

from __future__ import annotations

from collections.abc import Callable

CHECKS = [
    # udev has loaded these, each for a device's identity.
    *(f"grep '^{module} ' /proc/modules" for module in ("virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng")),
    # Disks by label and serial number, and in the order that they were given in.
    '[ "$(readlink -f /dev/disk/by-label/nixos)" = /dev/vda ]',
    '[ "$(readlink -f /dev/disk/by-id/virtio-root)" = /dev/vda ]',
    '[ "$(readlink -f /dev/disk/by-id/virtio-the-data)" = /dev/vdb ]',
    "grep '^/dev/[^ ]* / ext4 rw' /proc/mounts",
    # The store of the host, which the guest can write over and not to.
    "grep '^overlay /nix/store overlay rw' /proc/mounts",
    "echo mine >/nix/store/mine",
    "! touch /nix/.ro-store/mine",
    # The shell is on the virtio console, and the serial port is there.
    '[ "$(tty)" = /dev/hvc0 ] && [ -c /dev/ttyS0 ]',
]

# Cards by their addresses: the user network's is the first, and the others have the names that stage 1 gives to their addresses.
FIRST = {"eth0": "52:54:00:12:34:56", "uplink": "52:54:00:12:01:07", "lan0": "52:54:00:12:03:07"}
SECOND = {"eth0": "52:54:00:12:34:56", "eth1": "52:54:00:12:01:08"}

# The kernel parameters of a test machine of NixOS 24.05, and which shares stage 1 is to mount.
OLD_PARAMS = [
    "console=ttyS0",
    "panic=1",
    "boot.panic_on_fail",
    "clocksource=acpi_pm",
    "loglevel=7",
    "net.ifnames=0",
    "test.shares=9p",
]


def check(succeed: Callable[[str], str], kind: str, cards: dict[str, str]) -> None:
    for command in CHECKS:
        succeed(command)
    for name, address in cards.items():
        succeed(f"grep {address} /sys/class/net/{name}/address")
    for tag, folder in [("nix-store", "/nix/.ro-store"), ("shared", "/tmp/shared"), ("xchg", "/tmp/xchg")]:
        succeed(f"grep '^{tag} {folder} {kind} ' /proc/mounts")
