"""Snowboot's test driver: virtual machines that a Python script starts, commands and waits for."""

from ._native import __version__

# What type checkers take for true. Not typing's own, which is as long to load as all else that this file needs.
TYPE_CHECKING = False
if TYPE_CHECKING:
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
    from .timeline import BootMark, BootTimeline, Initcall
else:
    # Each part is loaded when it is asked for: `snowboot test` only looks whether the package is there and sound, and
    # has another process load all of it.
    _PARTS = ("driver", "errors", "logger", "machine", "timeline")
    _PLACES = {
        "BootMark": "timeline",
        "BootTimeline": "timeline",
        "Driver": "driver",
        "Initcall": "timeline",
        "Logger": "logger",
        "Machine": "machine",
    }

    def __getattr__(name):
        from importlib import import_module

        if name in _PARTS:
            return import_module(f"{__name__}.{name}")
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_PLACES.get(name, 'errors')}"), name)
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__})


__all__ = [
    "BootMark",
    "BootTimeline",
    "Driver",
    "GlobalTimeout",
    "Initcall",
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
