"""The networks of a test."""

from __future__ import annotations

from pathlib import Path

from .errors import MachineError


class VLan:
    """A VLAN: the switch that machines of this number are plugged into.

    It lives in this process. Nothing but machines can be plugged into it.
    """

    def __init__(self, nr: int) -> None:
        self.nr = nr
        """Its number."""

    def __repr__(self) -> str:
        return f"<VLan {self.nr}>"

    @property
    def socket_dir(self) -> Path:
        """Refused with MachineError: the NixOS driver's vde_switch has sockets in a folder, a switch in this process none."""
        raise MachineError(
            f"vlan{self.nr} has no socket_dir: its switch is in this process, and no vde_switch that other programs "
            "could be plugged into"
        )
