"""A machine's network cards."""

from __future__ import annotations

from typing import Literal

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

    def forward_port(
        self,
        host_port: int = 8080,
        guest_port: int = 80,
        *,
        host_address: str = "127.0.0.1",
        guest_address: str = "",
        protocol: Literal["tcp", "udp"] = "tcp",
    ) -> int:
        """Forwards a port of the host's to the guest, and returns it; with `host_port` 0 it is a free one.

        The host listens at `host_address`, which may be of IPv6 ("::1"), too. `guest_address` is what the guest has by DHCP unless
        it is given, or one that the guest has in fec0::/64.

        It takes a network card that leads to the host: `user-network` in the manifest, of the machine or of one of its networks. The
        forward stays until the machine's end, also when it is reset, or until the run's where the network has the gateway.
        """
        for port in (host_port, guest_port):
            if isinstance(port, bool) or not isinstance(port, int):
                raise TypeError(f"forward_port() needs port numbers, got {port!r}")
        if not 0 <= host_port <= 65535 or not 1 <= guest_port <= 65535:
            raise ValueError(
                f"forward_port({host_port}, {guest_port}): there are host ports from 0 (a free one) and guest ports from 1 "
                "to 65535"
            )
        host, guest = _written(host_address), _written(guest_address)
        return self._native.forward_port(f"{protocol}:{host}:{host_port}-{guest}:{guest_port}")

    def ssh_backdoor_command(self) -> str:
        """Refused with MachineError: there is no vsock device that ssh could go through."""
        raise MachineError(
            f"{self.name}: ssh_backdoor_command(): this machine has no vsock device, so there is no way in for ssh. "
            "Use succeed() and shell_interact() instead"
        )


def _written(address: str) -> str:
    """An address as a rule of QEMU's has it, where one of IPv6 is in brackets."""
    if not isinstance(address, str):
        raise TypeError(f"forward_port() needs addresses as texts, got {address!r}")
    return f"[{address}]" if ":" in address else address
