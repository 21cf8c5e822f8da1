"""The run: its machines, and the names that a test script finds."""

from __future__ import annotations

import json
import os
import time
import unittest
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from . import _native
from .driver_config import DriverConfig
from .duration import DEFAULT_TIMEOUT, Duration, one_of, seconds
from .errors import RequestedAssertionFailed
from .logger import Logger
from .machine import Machine

FIRST_PAUSE = 0.005
LONGEST_PAUSE = 0.4


class Driver:
    """All machines of a manifest. As a context manager it ends them on the way out.

    Other programs use it like a script does:

        with Driver("test.toml") as driver:
            driver.start_all()
            driver.machine("server").wait_for_unit("multi-user.target")
    """

    def __init__(
        self,
        manifest: str | os.PathLike[str] | DriverConfig,
        *,
        out_dir: str | os.PathLike[str] = ".",
        kvm_device: str = "/dev/kvm",
        log_level: str = "info",
        log_times: bool = False,
        quiet: bool = False,
        reports: _native.Reports | None = None,
        on_global_timeout: Callable[[], None] | None = None,
    ) -> None:
        self._native = _native.Driver(
            manifest if isinstance(manifest, DriverConfig) else Path(manifest),
            kvm_device=kvm_device,
            log_level=log_level,
            log_times=log_times,
            quiet=quiet,
            reports=reports,
            on_global_timeout=on_global_timeout,
        )
        # Absolute: a script may change the current folder.
        self.out_dir = Path(out_dir).absolute()
        self.logger = Logger(self._native)
        natives = self._native.machines()
        self.machines: list[Machine] = [Machine(native, self.logger, self.out_dir) for native in natives]
        self.variables = {native.variable: m for native, m in zip(natives, self.machines)}
        """The machines by the names that scripts have for them."""
        self.is_limited = True
        """Whether the global time limit counts; it does until `join_all` is done."""

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    @property
    def name(self) -> str:
        """The test's name."""
        return self._native.name

    @property
    def global_timeout(self) -> int:
        """Seconds after which all machines are ended."""
        return self._native.global_timeout

    @property
    def timed_out(self) -> bool:
        """Whether a call to a machine has ended because the global time limit was over."""
        return self._native.timed_out

    @property
    def vlans(self) -> list[int]:
        """The VLAN numbers that machines are plugged into."""
        return self._native.vlans()

    def machine(self, name: str) -> Machine:
        """A machine by its name; KeyError when there is none."""
        for machine in self.machines:
            if machine.name == name:
                return machine
        raise KeyError(name)

    def start_all(self) -> None:
        """Starts all machines at the same time; they boot while the script goes on."""
        self._native.start_all()

    def start_together(self) -> None:
        """Lets the first use of any machine start all of them.

        Without effect once something was started. The runner asks for it when a script starts nothing itself.
        """
        self._native.start_together()

    def start_timer(self) -> None:
        """Lets the global time limit count, from now on."""
        self._native.start_timer()
        self.is_limited = True

    def stop_timer(self) -> None:
        """Lets the global time limit count no longer."""
        self._native.stop_timer()
        self.is_limited = False

    def join_all(self) -> None:
        """Waits for the end of all machines."""
        self._native.join_all()
        self.is_limited = False

    def subtest(self, name: str) -> AbstractContextManager[None]:
        """A part of the test, a case of its own in reports."""
        return self.logger.subtest(name)

    def retry(
        self,
        fn: Callable[[bool], object],
        timeout_seconds: Duration | None = None,
        timeout: Duration | None = None,
    ) -> None:
        """Calls `fn(False)` until it is true; when the time is up once more with True."""
        given = one_of(timeout_seconds, timeout, "timeout_seconds", "timeout")
        # No time at all is a limit too: one look.
        limit = seconds(DEFAULT_TIMEOUT if given is None else given)
        deadline = time.monotonic() + limit
        pause = FIRST_PAUSE
        while (left := deadline - time.monotonic()) > 0:
            if fn(False):
                return
            time.sleep(min(pause, max(left, 0.0)))
            pause = min(pause * 1.5, LONGEST_PAUSE)
        if not fn(True):
            raise RequestedAssertionFailed(f"the retried condition never became true within {limit:g} s")

    def script(self) -> tuple[str, str]:
        """The test script's text and the name to show in tracebacks."""
        text = self._native.script_text
        if text is not None:
            return text, "<test script>"
        path = Path(self._native.script_file or "")
        return path.read_text(encoding="utf-8"), str(path)

    def namespace(self) -> dict[str, Any]:
        """The names that a test script finds."""
        names: dict[str, Any] = {
            "Machine": Machine,
            "driver": self,
            "join_all": self.join_all,
            "log": self.logger,
            "machines": self.machines,
            "os": os,
            "retry": self.retry,
            "serial_stdout_off": lambda: self.set_serial(False),
            "serial_stdout_on": lambda: self.set_serial(True),
            "start_all": self.start_all,
            "subtest": self.subtest,
            "t": _TestCase(),
            "vlans": self.vlans,
        }
        names.update(self.variables)
        if len(self.machines) == 1:
            names.setdefault("machine", self.machines[0])
        return names

    def report(self) -> dict[str, Any]:
        """The run so far: seconds, machines with the times of their boots, memory."""
        report: dict[str, Any] = json.loads(self._native.report())
        return report

    def set_serial(self, on: bool) -> None:
        """Shows console lines on the terminal, or not."""
        self._native.set_serial(on)

    def flush(self) -> None:
        """Returns when all that was logged is written."""
        self._native.flush()

    def script_ended(self, error: str | None) -> None:
        """Tells reports how the script ended: JSON of the error, or None."""
        self._native.script_ended(error)

    def run_ended(self, status: int, error: str | None) -> None:
        """Tells reports how the run ended. Nothing may be logged after this."""
        self._native.run_ended(status, error)

    def finish(self) -> None:
        """Ends all machines. Every call to one fails after this."""
        self._native.finish()


class _TestCase(unittest.TestCase):
    """The script's `t`: its assertions fail as checks of the test."""

    failureException = RequestedAssertionFailed
