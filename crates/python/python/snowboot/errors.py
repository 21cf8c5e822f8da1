"""What a test script can run into."""

from __future__ import annotations


class TestScriptError(Exception):
    """Base of everything that a test script raises through the driver.

    Where the error is about one machine, the attributes tell its parts: `machine` (its name), `command`, `status`
    (exit status), `output` (standard output), and `console` (the machine's last console lines).
    """

    __test__ = False  # The name must not make pytest collect it.

    machine: str | None = None
    command: str | None = None
    status: int | None = None
    output: str | None = None
    console: list[str] | None = None


class MachineError(TestScriptError):
    """The driver, the VMM or a machine is in trouble."""


class RequestedAssertionFailed(TestScriptError):
    """A check that the script asked for failed."""


class ManifestError(Exception):
    """The manifest cannot be used; the text names file, line and what to write instead."""
