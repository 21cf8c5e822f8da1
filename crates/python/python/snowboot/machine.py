"""Machines, with the names that NixOS test scripts use."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from . import _native
from .duration import DEFAULT_TIMEOUT, Duration, one_of, optional_seconds, seconds
from .errors import MachineError
from .logger import Logger
from .text import Text, optional_text, text


class Machine:
    """A virtual machine.

    A machine is off until it is started or given a command. Commands run as root in the guest, one at a time, with
    `set -euo pipefail`; their standard error is among the console lines. Durations are timedeltas or seconds.
    Texts may be paths and numbers too, and ports may be texts.
    """

    def __init__(self, native: _native.Machine, log: Logger) -> None:
        self._native = native
        self._log = log

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

    # Power

    def start(self, allow_reboot: bool = False) -> None:
        """Starts it and returns while it boots. Nothing happens when it runs.

        A guest's reset ends its machine. `allow_reboot`, which would have it go on, is refused with MachineError.
        """
        if allow_reboot:
            raise MachineError(
                f"{self.name}: start(allow_reboot=True): machines that survive a reset of their guest are not "
                "supported yet; start it without, and after the reset use wait_for_shutdown() and start() again"
            )
        self._native.start()

    def connect(self) -> None:
        """Starts it if need be, and waits for its shell."""
        self._native.connect()

    def is_up(self) -> bool:
        """Whether it runs and its shell answers."""
        return self._native.is_up()

    def shutdown(self) -> None:
        """Asks the guest to power off, and waits until it has."""
        self._native.shutdown()

    def crash(self) -> None:
        """Cuts the power. What the guest had flushed is on its disks; nothing else is promised."""
        self._native.crash()

    def wait_for_shutdown(self, timeout: Duration | None = None) -> None:
        """Waits for its end, however that comes; does not ask for it."""
        self._native.wait_for_shutdown(optional_seconds(timeout))

    # Commands

    def execute(
        self,
        command: Text,
        check_return: bool = True,
        check_output: bool = True,
        timeout: Duration | None = DEFAULT_TIMEOUT,
    ) -> tuple[int, str]:
        """Runs a command; gives its exit status and standard output.

        No exit status raises. The status is 124 when the command took longer than `timeout`, -1 without
        `check_return`, and -2 without `check_output`, which does not wait for the command at all. A background
        process must not keep the standard output: `succeed("daemon >&2 &")`.
        """
        return self._native.execute(text(command), check_return, check_output, optional_seconds(timeout))

    def succeed(self, *commands: Text, timeout: Duration | None = None) -> str:
        """Runs commands that must all end with status 0; gives what they wrote to standard output."""
        return self._native.succeed([text(command) for command in commands], optional_seconds(timeout))

    def fail(self, *commands: Text, timeout: Duration | None = None) -> str:
        """Runs commands none of which may end with status 0; gives what they wrote to standard output."""
        return self._native.fail([text(command) for command in commands], optional_seconds(timeout))

    def wait_until_succeeds(self, command: Text, timeout: Duration = DEFAULT_TIMEOUT) -> str:
        """Repeats a command until it ends with status 0; gives its output."""
        return self._native.wait_until_succeeds(text(command), seconds(timeout))

    def wait_until_fails(self, command: Text, timeout: Duration = DEFAULT_TIMEOUT) -> str:
        """Repeats a command until it ends with another status than 0; gives its output."""
        return self._native.wait_until_fails(text(command), seconds(timeout))

    def sleep(self, secs: float | None = None, duration: Duration | None = None) -> None:
        """Sleeps inside the guest, by the guest's clock."""
        time = one_of(secs, duration, "secs", "duration")
        if time is None:
            raise TypeError("sleep() needs a duration")
        self.succeed(f"sleep {seconds(time)}")

    # Units

    def systemctl(self, q: Text, user: Text | None = None) -> tuple[int, str]:
        """Runs `systemctl`, for the system or for a user's own manager."""
        return self._native.systemctl(text(q), optional_text(user))

    def start_job(self, jobname: Text, user: Text | None = None) -> tuple[int, str]:
        """Starts a unit; its status is given, not checked."""
        return self.systemctl(f"start {text(jobname)}", user)

    def stop_job(self, jobname: Text, user: Text | None = None) -> tuple[int, str]:
        """Stops a unit; its status is given, not checked."""
        return self.systemctl(f"stop {text(jobname)}", user)

    def wait_for_unit(
        self, unit: Text, user: Text | None = None, timeout: Duration = DEFAULT_TIMEOUT
    ) -> None:
        """Waits until a unit is active; fails at once when it cannot become so."""
        self._native.wait_for_unit(text(unit), optional_text(user), seconds(timeout))

    def get_unit_info(self, unit: Text, user: Text | None = None) -> dict[str, str]:
        """All properties of a unit."""
        return self._native.get_unit_info(text(unit), optional_text(user))

    def get_unit_property(self, unit: Text, property: Text, user: Text | None = None) -> str:
        """One property of a unit."""
        return self._native.get_unit_property(text(unit), text(property), optional_text(user))

    def require_unit_state(self, unit: Text, require_state: Text = "active") -> None:
        """Fails unless a unit is in this state now."""
        self._native.require_unit_state(text(unit), text(require_state))

    # Files, ports, console

    def wait_for_file(self, filename: Text, timeout: Duration = DEFAULT_TIMEOUT) -> None:
        """Waits until a file is there; shell patterns work."""
        self._native.wait_for_file(text(filename), seconds(timeout))

    def wait_for_open_port(
        self, port: int | str, addr: Text = "localhost", timeout: Duration = DEFAULT_TIMEOUT
    ) -> None:
        """Waits until something listens on a TCP port, as seen from inside the guest."""
        self._native.wait_for_open_port(int(port), text(addr), seconds(timeout))

    def wait_for_closed_port(
        self, port: int | str, addr: Text = "localhost", timeout: Duration = DEFAULT_TIMEOUT
    ) -> None:
        """Waits until nothing listens on a TCP port, as seen from inside the guest."""
        self._native.wait_for_closed_port(int(port), text(addr), seconds(timeout))

    def wait_for_console_text(
        self, regex: str | re.Pattern[str], timeout: Duration | None = None
    ) -> None:
        """Waits until console lines that no such wait has seen yet match a regular expression of Python's `re`."""
        pattern = re.compile(regex)
        search: Callable[[str], object] = pattern.search
        self._native.wait_for_console(
            pattern.pattern, optional_seconds(timeout), lambda lines: search(lines) is not None
        )

    def get_console_log(self) -> str:
        """All console lines since the last start, joined by newlines."""
        return self._native.get_console_log()

    def send_console(self, chars: Text) -> None:
        """Types at the machine's serial console."""
        self._native.send_console(text(chars))

    # Network

    def block(self) -> None:
        """Unplugs the cable of the machine's first VLAN."""
        self._native.set_link(False)

    def unblock(self) -> None:
        """Plugs that cable back in."""
        self._native.set_link(True)

    # Log

    def log(self, msg: Text) -> None:
        """Logs a line under the machine's name."""
        self._log.log(text(msg), {"machine": self.name})

    def nested(self, msg: Text, attrs: Mapping[str, str] = {}) -> AbstractContextManager[None]:
        """A block of the log under the machine's name."""
        return self._log.nested(text(msg), {**attrs, "machine": self.name})
