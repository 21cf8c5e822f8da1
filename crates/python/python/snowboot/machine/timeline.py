"""How a machine's boot went."""

from __future__ import annotations

from types import MappingProxyType

from ..timeline import BootMark, BootTimeline, Initcall
from .core import Core


class Timeline(Core):
    """Tells where a boot spent its time."""

    def boot_timeline(self) -> BootTimeline:
        """How the boot of its last start went, or of its last reset that it came back from.

        Does not start the machine, nor wait for its shell: when that is there and was connected to, as the first command
        does, the guest is asked for what only it knows (systemd, initcalls). A machine that was never started is an error.

            machine.wait_for_unit("multi-user.target")
            assert machine.boot_timeline().shell_ready < 5
        """
        phases, marks, dropped, clock, systemd, initcalls = self._native.boot_timeline()
        return BootTimeline(
            **phases,
            marks=tuple(BootMark(number, at) for number, at in marks),
            marks_dropped=dropped,
            guest_clock=clock,
            systemd=MappingProxyType(systemd),
            initcalls=tuple(Initcall(name, took) for name, took in initcalls),
        )
