"""A machine's network cards."""

from __future__ import annotations

from ..errors import MachineError
from .core import Core


class Network(Core):
    """Plugs and unplugs its cables."""

    def block(self) -> None:
        """Unplugs the cable of the machine's first VLAN."""
        self._native.set_link(False)

    def unblock(self) -> None:
        """Plugs that cable back in."""
        self._native.set_link(True)

    def forward_port(self, host_port: int = 8080, guest_port: int = 80) -> None:
        """Refused with MachineError: there is no network card that leads to the host."""
        for port in (host_port, guest_port):
            if isinstance(port, bool) or not isinstance(port, int):
                raise TypeError(f"forward_port() needs port numbers, got {port!r}")
        raise MachineError(
            f"{self.name}: forward_port({host_port}, {guest_port}): this machine has no network card that leads to the "
            "host. Ask from inside a machine of the test instead: succeed('curl ...')"
        )

    def ssh_backdoor_command(self) -> str:
        """Refused with MachineError: there is no vsock device that ssh could go through."""
        raise MachineError(
            f"{self.name}: ssh_backdoor_command(): this machine has no vsock device, so there is no way in for ssh. "
            "Use succeed() and shell_interact() instead"
        )
