"""The names that every test script finds, for type checkers and editors.

A script may also say `from snowboot.script_globals import *` under `typing.TYPE_CHECKING`, for an editor to know them. The
machines of a test come on top: a variable of each one's name, and `machine` when there is one only.
"""

import os as os
import unittest
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import overload

from snowboot import Driver, Logger
from snowboot.debug import Debug
from snowboot.duration import Duration
from snowboot.machine import BaseMachine as BaseMachine
from snowboot.machine import Machine as Machine
from snowboot.machine import NspawnMachine as NspawnMachine
from snowboot.machine import QemuMachine as QemuMachine
from snowboot.polling import Poll
from snowboot.vlan import Network, VLan

debug: Debug
"""`debug.breakpoint()` stops the script for a debugger, where the run was told to allow that."""

driver: Driver
"""The run: its machines, and `out_dir`, the folder for what the test leaves."""

log: Logger
"""The run's log: `log.info`, `log.warning`, `log.error` (which ends the test), `log.nested` and others."""

machines: list[Machine]
"""All machines, sorted by name."""

t: unittest.TestCase
"""Assertions such as `t.assertEqual` and `t.assertIn`; one that fails is a failed check of the test."""

machines_qemu: list[Machine]
"""The same machines, by the name of the NixOS test driver."""

machines_nspawn: list[NspawnMachine]
"""Containers: there are none."""

vlans: list[VLan]
"""The VLANs that machines are plugged into; each is also a variable: `vlan1`, and the name that the manifest gives it."""

network: Network
"""All VLANs together: `network.partition([a, b], [c])`, `network.heal()`. A machine of this name takes its place."""

def create_machine(
    start_command: str | os.PathLike[str] | Mapping[str, object],
    *,
    name: str | None = None,
    keep_machine_state: bool = False,
    keep_vm_state: bool = False,
) -> Machine:
    """Makes one more machine, described as in a `[machines.NAME]` table: a mapping, or the path of a TOML or JSON file."""

def dump_machine_ssh(offset: int | None = None) -> None:
    """Refused with MachineError: there is no way in for ssh."""

def join_all() -> None:
    """Waits for the end of all machines."""

@overload
def polling_condition(
    fun: None = None,
    *,
    seconds_interval: Duration | None = None,
    interval: Duration | None = None,
    description: str | None = None,
) -> Callable[[Callable[[], bool | None]], Poll]:
    """With arguments: gives the decorator."""

@overload
def polling_condition(fun: Callable[[], bool | None]) -> Poll:
    """Makes a condition of a function: `with condition:` has it checked before every command of the test's machines."""

def retry(
    fn: Callable[[bool], object],
    timeout_seconds: Duration | None = None,
    timeout: Duration | None = None,
) -> None:
    """Calls `fn(False)` until it is true; when the time is up once more with True. The time is 15 minutes by default."""

def run_tests() -> None:
    """In a session (`snowboot test -I`): runs the test's script within the global time limit."""

def serial_stdout_off() -> None:
    """Shows no console lines of machines from now on."""

def serial_stdout_on() -> None:
    """Shows console lines of machines, as at the beginning."""

def start_all() -> None:
    """Starts all machines at the same time; they boot while the script goes on."""

def subtest(name: str) -> AbstractContextManager[None]:
    """A part of the test, a case of its own in reports: `with subtest("it answers"):`."""

def test_script() -> None:
    """In a session (`snowboot test -I`): runs the test's script."""
