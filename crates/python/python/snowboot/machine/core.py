"""What every part of a machine builds on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from .. import _native
from ..logger import Logger
from ..text import Text, text


class Core:
    """A machine's name, state and log."""

    def __init__(self, native: _native.Machine, log: Logger, out_dir: Path) -> None:
        self._native = native
        self._log = log
        self.out_dir = out_dir
        """Where files of guests go."""
        self.callbacks: list[Callable[[], None]] = []
        """What `run_callbacks` calls."""
        self.start_command: object = None
        """What a script made it of with `create_machine`; None for a machine of the manifest."""
        self.keep_machine_state = True
        """Whether what the machine wrote is there at its next start. Its disks are files, so it is."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    @property
    def name(self) -> str:
        """Its name in the manifest."""
        return self._native.name

    @property
    def booted(self) -> bool:
        """Whether it was started and has not ended."""
        return self._native.booted

    @property
    def connected(self) -> bool:
        """Whether its shell answers."""
        return self._native.is_up()

    @connected.setter
    def connected(self, connected: bool) -> None:
        """After False the next command waits for a new greeting, as after a kernel that was started by kexec."""
        self._native.set_connected(connected)

    @property
    def state_dir(self) -> Path:
        """A folder on the host for this machine, made when it is first asked for; it goes away with the run.

        The machine itself keeps nothing there: its disks are where the manifest says.
        """
        return self._native.state_dir()

    @property
    def shared_dir(self) -> Path:
        """A folder on the host for all machines of the run. Guests see it if the manifest shares it: `path = "$SHARED_DIR"`."""
        return self._native.shared_dir()

    def cleanup_statedir(self) -> None:
        """Removes what a script has put into `state_dir`."""
        if self._native.remove_state_dir():
            self.log("the machine's state folder was removed")

    def run_callbacks(self) -> None:
        """Checks the polling conditions that are watched; commands do that by themselves."""
        for callback in self.callbacks:
            callback()

    def log_serial(self, msg: Text) -> None:
        """Logs a line as if the machine's console had said it. It is not among those of `get_console_log`."""
        self._log.log_serial(text(msg), self.name)

    def log(self, msg: Text) -> None:
        """Logs a line under the machine's name."""
        self._log.log(text(msg), {"machine": self.name})

    def nested(self, msg: Text, attrs: Mapping[str, str] = {}) -> AbstractContextManager[None]:
        """A block of the log under the machine's name."""
        return self._log.nested(text(msg), {**attrs, "machine": self.name})
