"""Machines, with the names that NixOS test scripts use.

What a machine can do is in one class per subject; `Machine` is all of them.
"""

from __future__ import annotations

from .commands import Commands
from .console import Console
from .display import Display
from .files import Files
from .firmware import Firmware
from .interact import Interact
from .monitor import Monitor
from .network import Network
from .power import Power
from .qmp import Qmp
from .terminals import Terminals
from .timeline import Timeline
from .units import Units
from .waits import Waits

__all__ = ["BaseMachine", "Machine", "NspawnMachine", "QemuMachine"]


class Machine(
    Commands,
    Console,
    Display,
    Files,
    Firmware,
    Interact,
    Monitor,
    Network,
    Power,
    Qmp,
    Terminals,
    Timeline,
    Units,
    Waits,
):
    """A virtual machine.

    A machine is off until it is started or given a command. Commands run as root in the guest, one at a time, with
    `set -euo pipefail`; their standard error is among the console lines. Durations are timedeltas or seconds.
    Texts may be paths and numbers too, and ports may be texts.
    """


BaseMachine = Machine
QemuMachine = Machine
"""What scripts of the NixOS test driver call a virtual machine."""


class NspawnMachine(Machine):
    """A container. There are none; scripts name the class in annotations and tests of types."""
