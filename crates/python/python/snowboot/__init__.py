"""Snowboot's test driver: virtual machines that a Python script starts, commands and waits for."""

from ._native import __version__
from .driver import Driver
from .errors import (
    GlobalTimeout,
    MachineError,
    MalformedAnswer,
    ManifestError,
    NoShell,
    PollingConditionError,
    RequestedAssertionFailed,
    TestScriptError,
)
from .logger import Logger
from .machine import Machine

__all__ = [
    "Driver",
    "GlobalTimeout",
    "Logger",
    "Machine",
    "MachineError",
    "MalformedAnswer",
    "ManifestError",
    "NoShell",
    "PollingConditionError",
    "RequestedAssertionFailed",
    "TestScriptError",
    "__version__",
]
