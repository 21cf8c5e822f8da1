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
    # Cards by their addresses: the user network's is the first, and the others have names of their own.
    "grep 52:54:00:12:34:56 /sys/class/net/eth0/address",
    "grep 52:54:00:12:01:07 /sys/class/net/uplink/address",
    "grep 52:54:00:12:03:07 /sys/class/net/lan0/address",
    # The store of the host, which the guest can write over and not to.
    "grep '^overlay /nix/store overlay rw' /proc/mounts",
    "echo mine >/nix/store/mine",
    "! touch /nix/.ro-store/mine",
    # The shell is on the virtio console, and the serial port is there.
    '[ "$(tty)" = /dev/hvc0 ] && [ -c /dev/ttyS0 ]',
    "grep ' console=ttyS0,115200n8 .* init=/nix/store/' /proc/cmdline",
]


def check(succeed: Callable[[str], str], kind: str) -> None:
    for command in CHECKS:
        succeed(command)
    for tag, folder in [("nix-store", "/nix/.ro-store"), ("shared", "/tmp/shared"), ("xchg", "/tmp/xchg")]:
        succeed(f"grep '^{tag} {folder} {kind} ' /proc/mounts")
