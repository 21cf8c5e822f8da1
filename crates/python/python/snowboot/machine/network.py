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

    def forward_port(self, host_port: int = 8080, guest_port: int = 80) -> int:
        """Forwards a TCP port of the host's loopback to the guest, and returns it; with `host_port` 0 it is a free one.

        It takes a network card that leads to the host: `user-network` in the manifest. The forward stays until the machine's
        end, also when it is reset.
        """
        for port in (host_port, guest_port):
            if isinstance(port, bool) or not isinstance(port, int):
                raise TypeError(f"forward_port() needs port numbers, got {port!r}")
        if not 0 <= host_port <= 65535 or not 1 <= guest_port <= 65535:
            raise ValueError(
                f"forward_port({host_port}, {guest_port}): there are host ports from 0 (a free one) and guest ports from 1 "
                "to 65535"
            )
        return self._native.forward_port(f"tcp::{host_port}-:{guest_port}")

    def ssh_backdoor_command(self) -> str:
        """Refused with MachineError: there is no vsock device that ssh could go through."""
        raise MachineError(
            f"{self.name}: ssh_backdoor_command(): this machine has no vsock device, so there is no way in for ssh. "
            "Use succeed() and shell_interact() instead"
        )
