"""Machines."""

from snowboot.machine import BaseMachine, Machine, NspawnMachine, QemuMachine
from snowboot.retrying import retry

__all__ = ["BaseMachine", "Machine", "NspawnMachine", "QemuMachine", "retry"]
