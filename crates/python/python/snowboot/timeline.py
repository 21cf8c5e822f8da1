"""How a machine's boot went, as `Machine.boot_timeline` tells it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class BootMark(NamedTuple):
    """A mark that a guest made of its own, by writing a byte to I/O port 0x610."""

    number: int
    """16 to 255."""
    at: float
    """Seconds since the machine's start."""


class Initcall(NamedTuple):
    """One of the kernel's functions that set up a driver or subsystem."""

    name: str
    """The function's name, with its module's in brackets if it is of one."""
    seconds: float
    """How long it took."""


class BootTimeline(NamedTuple):
    """How a machine's boot went: seconds since the machine's start, by the host's clock.

    None is what was not reached, or not told. A phase keeps its first time.
    """

    memory_ready: float | None
    """KVM was open, and guest memory there."""
    kernel_loaded: float | None
    """Kernel, initrd and tables were in it."""
    guest_entered: float | None
    """A vCPU entered the guest for the first time."""
    console_output: float | None
    """The guest's first byte came, on ttyS0 or a virtio console."""
    init_started: float | None
    """The guest's first program ran. Only a guest that marks it tells."""
    target_reached: float | None
    """Its userland was up: as it marked, otherwise when its systemd had reached the default target."""
    shell_ready: float | None
    """Its shell was there. Known once it was connected to, as the first command does."""
    first_answer: float | None
    """The first command was answered."""
    marks: tuple[BootMark, ...]
    """The guest's own marks in their order, 1024 at most."""
    marks_dropped: int
    """How many more of them there were."""
    guest_clock: float | None
    """Where the guest's monotonic clock has its zero, to within half of a command's round trip; `systemd` counts from there."""
    systemd: Mapping[str, float]
    """When the guest's systemd reached what, in seconds on the guest's monotonic clock. `kernel` is 0, `initrd` the start
    of a systemd in the initrd, `userspace` of that in the root, `finish` when it had reached the default target; between
    those `security_start`, `security_finish`, `generators_start`, `generators_finish`, `units_load_start` and
    `units_load_finish`. What was not reached is not there."""
    initcalls: tuple[Initcall, ...]
    """The ten slowest, the slowest first. Empty unless the kernel's command line has `initcall_debug`."""
