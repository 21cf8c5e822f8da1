"""The machine protocol of QEMU, as far as machines here have it."""

from snowboot.machine.qmp import QMPAPIError

__all__ = ["QMPAPIError"]
