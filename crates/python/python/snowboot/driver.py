"""The run: its machines, and the names that a test script finds."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _native, polling
from .debug import Debug
from .duration import Duration
from .errors import MachineError, ManifestError
from .logger import Logger
from .machine import BaseMachine, Machine, NspawnMachine, QemuMachine
from .polling import Poll, PollingCondition
from .retrying import retry
from .text import optional_text
from .vlan import Network, VLan

if TYPE_CHECKING:
    from .driver_config import DriverConfig


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
        debug_attach: str | None = None,
        seed: int | None = None,
    ) -> None:
        # Where the paths of machines that a script describes count from.
        if isinstance(manifest, (str, os.PathLike)):
            manifest = Path(manifest)
            self._folder = manifest.absolute().parent
        else:
            self._folder = Path.cwd()
        self._native = _native.Driver(
            manifest,
            kvm_device=kvm_device,
            log_level=log_level,
            log_times=log_times,
            quiet=quiet,
            reports=reports,
            on_global_timeout=on_global_timeout,
            seed=seed,
        )
        # Absolute: a script may change the current folder.
        self.out_dir = Path(out_dir).absolute()
        self.logger = Logger(self._native)
        self.debug = Debug(self.logger, debug_attach)
        self.polling_conditions: list[PollingCondition] = []
        """What must hold now, in the order of the `with` blocks."""
        natives = self._native.machines()
        self.machines: list[Machine] = [self._machine(native) for native in natives]
        self._watched = {machine.name for machine in self.machines}
        self.variables = {native.variable: m for native, m in zip(natives, self.machines)}
        """The machines by the names that scripts have for them."""
        self._vlans = [VLan(number, name, self._native, self.out_dir) for number, name in self._native.vlans()]
        self.network = Network(self._vlans, self._native)
        """All VLANs together."""
        for machine in self.machines:
            machine.callbacks.append(_weak(self.check_polling_conditions))
        self.is_limited = True
        """Whether the global time limit counts; it does until `join_all` is done."""

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    @property
    def seed(self) -> int:
        """What faults without a seed of their own draw theirs from, and what a script's own chance may be drawn from, too."""
        return self._native.seed

    @property
    def is_seed_used(self) -> bool:
        """Whether a fault has drawn from `seed`."""
        return self._native.is_seed_used

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

    def _machine(self, native: _native.Machine) -> Machine:
        return Machine(native, self.logger, self.out_dir)

    @property
    def machines_qemu(self) -> list[Machine]:
        """The machines, by the name that the NixOS test driver has for virtual ones."""
        return self.machines

    @property
    def machines_nspawn(self) -> list[NspawnMachine]:
        """Containers: there are none."""
        return []

    @property
    def vlans(self) -> list[VLan]:
        """The VLANs that machines are plugged into and those that the manifest names, by number."""
        return self._vlans

    @property
    def networks(self) -> dict[str, VLan]:
        """The same by the variables that scripts have for them: `vlan1`, and the names of the manifest."""
        return {f"vlan{vlan.nr}": vlan for vlan in self._vlans} | {vlan.name: vlan for vlan in self._vlans}

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
        """Lets the first use of any machine start all of them, and the first command wait for the shells of all.

        For the others' no longer than its own machine's shell took. Without effect once something was started. The
        runner asks for it when a script starts nothing itself.
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

    def capture_all(self, folder: Path) -> None:
        """Writes all frames of every VLAN to `NAME.pcapng` in a folder, from now to the end."""
        for vlan in self.vlans:
            vlan.capture(folder / f"{vlan.name}.pcapng")

    def save_last_frames(self) -> list[Path]:
        """Writes the last frames of every VLAN that had some to `NAME-last.pcapng` in `out_dir`."""
        return self._native.save_last_frames(self.out_dir)

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
        retry(fn, timeout_seconds, timeout)

    def polling_condition(
        self,
        fun: Callable[[], bool | None] | None = None,
        *,
        seconds_interval: Duration | None = None,
        interval: Duration | None = None,
        description: str | None = None,
    ) -> Poll | Callable[[Callable[[], bool | None]], Poll]:
        """Makes a condition of a function, as a decorator with or without arguments.

        Inside `with condition:` it is checked before every command of the test's machines, at most every 2 seconds;
        where it gives False or raises, the command raises PollingConditionError. `condition.wait()` waits for it.
        """
        return polling.make(self, fun, seconds_interval, interval, description)

    def watch(self, condition: PollingCondition) -> None:
        """Has a condition checked from now on."""
        self.polling_conditions.append(condition)
        self._native.set_command_hook(self._before_command)

    def unwatch(self, condition: PollingCondition) -> None:
        """Has it checked no longer."""
        self.polling_conditions.remove(condition)
        if not self.polling_conditions:
            self._native.set_command_hook(None)

    def check_polling_conditions(self) -> None:
        """Raises PollingConditionError when a condition that is watched does not hold."""
        for condition in list(self.polling_conditions):
            condition.maybe_raise()

    def _before_command(self, machine: str) -> None:
        if machine in self._watched:
            self.check_polling_conditions()

    def create_machine(
        self,
        start_command: str | os.PathLike[str] | Mapping[str, object],
        *,
        name: str | None = None,
        keep_machine_state: bool = False,
        keep_vm_state: bool = False,
    ) -> Machine:
        """Makes one more machine, which the script starts itself.

        It is described by a mapping with the keys of a `[machines.NAME]` table of a manifest, whose paths count from
        the manifest's folder, or by the path of a TOML or JSON file with these keys. Command lines of QEMU are refused
        with MachineError, which says what to write instead. Its disks stay as they are, so `keep_machine_state`
        changes nothing. It is not among `machines`, and no polling condition is checked before its commands.
        """
        from .created import description

        given = optional_text(name)
        found = description(start_command, self._folder, given)
        try:
            native = self._native.create_machine(found.name, found.file, found.text)
        except ManifestError as error:
            raise MachineError(f"{found.name}: create_machine(): {found.told(str(error))}") from None
        machine = self._machine(native)
        machine.start_command = start_command
        machine.keep_machine_state = keep_machine_state or keep_vm_state
        return machine

    def test_script(self) -> None:
        """Runs the test's script, in names of its own. Sessions and runs do that themselves."""
        from .source import Script

        with self.logger.nested("run the VM test script"):
            Script.of(self).run(self.namespace())

    def run_tests(self) -> None:
        """Runs the test's script within the global time limit, and has machines write to their disks what they hold."""
        self.start_timer()
        self.test_script()
        self.sync()

    def sync(self) -> None:
        """Has machines whose shell answers write to their disks what they hold."""
        for machine in self.machines:
            if machine.is_up():
                machine.execute("sync")

    def dump_machine_ssh(self, offset: int | None = None) -> None:
        """Refused with MachineError: there is no vsock device that ssh could go through."""
        raise MachineError(
            "dump_machine_ssh(): the machines have no vsock device, so there is no way in for ssh; use succeed() and "
            "shell_interact() instead"
        )

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
            "BaseMachine": BaseMachine,
            "Machine": Machine,
            "NspawnMachine": NspawnMachine,
            "QemuMachine": QemuMachine,
            "create_machine": self.create_machine,
            "debug": self.debug,
            "driver": self,
            "dump_machine_ssh": self.dump_machine_ssh,
            "join_all": self.join_all,
            "log": self.logger,
            "machines": self.machines,
            "machines_nspawn": self.machines_nspawn,
            "machines_qemu": self.machines_qemu,
            "os": os,
            "polling_condition": self.polling_condition,
            "retry": self.retry,
            "run_tests": self.run_tests,
            "serial_stdout_off": lambda: self.set_serial(False),
            "serial_stdout_on": lambda: self.set_serial(True),
            "start_all": self.start_all,
            "subtest": self.subtest,
            "t": _Tester(),
            "test_script": self.test_script,
            "vlans": self.vlans,
        }
        names.update(self.networks)
        names.update(self.variables)
        # Machines may have this name, as they may in tests that know nothing of it.
        names.setdefault("network", self.network)
        if len(self.machines) == 1:
            names.setdefault("machine", self.machines[0])
        return names

    def report(self) -> dict[str, Any]:
        """The run so far: seconds, machines with the times of their boots, memory."""
        import json

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


def _weak(method: Callable[[], None]) -> Callable[[], None]:
    """The method for those that must not keep its object: a run that nobody has any more is to end at once."""
    reference = weakref.WeakMethod(method)

    def call() -> None:
        if (alive := reference()) is not None:
            alive()

    return call


class _Tester:
    """The script's `t`. Asked for the first time, it becomes an AssertionTester: few scripts ask, and what that builds
    on takes longer to load than all of this package."""

    def __getattr__(self, name: str) -> Any:
        _become_tester(self)
        return getattr(self, name)

    def __dir__(self) -> list[str]:
        _become_tester(self)
        return dir(self)


def _become_tester(tester: _Tester) -> None:
    """Several threads may get here at the same time, so it is complete before it changes. What a script has set stays."""
    from .assertions import AssertionTester

    vars(tester).update(vars(AssertionTester()) | vars(tester))
    object.__setattr__(tester, "__class__", AssertionTester)
