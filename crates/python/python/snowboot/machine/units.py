"""systemd units of a guest."""

from __future__ import annotations

from ..duration import DEFAULT_TIMEOUT, Duration, seconds
from ..text import Text, optional_text, text
from .core import Core


class Units(Core):
    """Asks systemd, and waits for it."""

    def systemctl(self, q: Text, user: Text | None = None) -> tuple[int, str]:
        """Runs `systemctl`, for the system or for a user's own manager."""
        return self._native.systemctl(text(q), optional_text(user))

    def start_job(self, jobname: Text, user: Text | None = None) -> tuple[int, str]:
        """Starts a unit; its status is given, not checked."""
        return self.systemctl(f"start {text(jobname)}", user)

    def stop_job(self, jobname: Text, user: Text | None = None) -> tuple[int, str]:
        """Stops a unit; its status is given, not checked."""
        return self.systemctl(f"stop {text(jobname)}", user)

    def wait_for_unit(
        self, unit: Text, user: Text | None = None, timeout: Duration = DEFAULT_TIMEOUT
    ) -> None:
        """Waits until a unit is active; fails at once when it cannot become so."""
        self._native.wait_for_unit(text(unit), optional_text(user), seconds(timeout))

    def get_unit_info(self, unit: Text, user: Text | None = None) -> dict[str, str]:
        """All properties of a unit."""
        return self._native.get_unit_info(text(unit), optional_text(user))

    def get_unit_property(self, unit: Text, property: Text, user: Text | None = None) -> str:
        """One property of a unit."""
        return self._native.get_unit_property(text(unit), text(property), optional_text(user))

    def require_unit_state(self, unit: Text, require_state: Text = "active") -> None:
        """Fails unless a unit is in this state now."""
        self._native.require_unit_state(text(unit), text(require_state))
