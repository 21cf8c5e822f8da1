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


class MalformedAnswer(MachineError, AssertionError):
    """A guest's answer has not the form that it should have.

    Scripts for the NixOS test driver expect an AssertionError here.
    """


class NoShell(MachineError, RuntimeError):
    """A machine's shell did not come up, or went away under a command.

    Scripts for the NixOS test driver expect a RuntimeError here.
    """


class RequestedAssertionFailed(TestScriptError):
    """A check that the script asked for failed."""


class GlobalTimeout(BaseException):
    """The run's time is over and its machines are stopped.

    Like KeyboardInterrupt it is no Exception: there is nothing left that a script could do about it, and one that
    tries a command again on every Exception has to end too.
    """


class ManifestError(Exception):
    """The manifest cannot be used; the text names file, line and what to write instead."""


class PollingConditionError(TestScriptError):
    """A polling condition does not hold while it should."""
