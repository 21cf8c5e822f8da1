"""The names that every test script finds, for type checkers and editors.

A script may also say `from snowboot.script_globals import *` under `typing.TYPE_CHECKING`, for an editor to know them. The
machines of a test come on top: a variable of each one's name, and `machine` when there is one only.
"""

import os as os
import unittest
from collections.abc import Callable
from contextlib import AbstractContextManager

from snowboot import Driver, Logger
from snowboot import Machine as Machine
from snowboot.duration import Duration

driver: Driver
"""The run: its machines, and `out_dir`, the folder for what the test leaves."""

log: Logger
"""The run's log: `log.info`, `log.warning`, `log.error` (which ends the test), `log.nested` and others."""

machines: list[Machine]
"""All machines, sorted by name."""

t: unittest.TestCase
"""Assertions such as `t.assertEqual` and `t.assertIn`; one that fails is a failed check of the test."""

vlans: list[int]
"""The numbers of the VLANs that machines are plugged into."""

def join_all() -> None:
    """Waits for the end of all machines."""

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
