"""A machine's network cards."""

from __future__ import annotations

from .core import Core


class Network(Core):
    """Plugs and unplugs its cables."""

    def block(self) -> None:
        """Unplugs the cable of the machine's first VLAN."""
        self._native.set_link(False)

    def unblock(self) -> None:
        """Plugs that cable back in."""
        self._native.set_link(True)
