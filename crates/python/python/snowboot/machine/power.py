"""A machine's life: start, end, power."""

from __future__ import annotations

from ..duration import Duration, optional_seconds
from ..errors import MachineError
from .core import Core


class Power(Core):
    """Starts a machine and ends it."""

    def start(self, allow_reboot: bool = False) -> None:
        """Starts it and returns while it boots. Nothing happens when it runs.

        A guest's reset ends its machine. `allow_reboot`, which would have it go on, is refused with MachineError.
        """
        if allow_reboot:
            raise MachineError(
                f"{self.name}: start(allow_reboot=True): machines that survive a reset of their guest are not "
                "supported yet; start it without, and after the reset use wait_for_shutdown() and start() again"
            )
        self._native.start()

    def connect(self) -> None:
        """Starts it if need be, and waits for its shell."""
        self._native.connect()

    def is_up(self) -> bool:
        """Whether it runs and its shell answers."""
        return self._native.is_up()

    def shutdown(self) -> None:
        """Asks the guest to power off, and waits until it has."""
        self._native.shutdown()

    def crash(self) -> None:
        """Cuts the power. What the guest had flushed is on its disks; nothing else is promised."""
        self._native.crash()

    def wait_for_shutdown(self, timeout: Duration | None = None) -> None:
        """Waits for its end, however that comes; does not ask for it."""
        self._native.wait_for_shutdown(optional_seconds(timeout))
