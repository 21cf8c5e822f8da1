"""Screens and keyboards. Machines have none yet, and say so."""

from __future__ import annotations

from typing import NoReturn

from ..duration import DEFAULT_TIMEOUT, Duration, optional_seconds, seconds
from ..errors import MachineError
from ..text import Text, text
from .core import Core

_DISPLAY = (
    "this machine has no display. Look at its serial console instead (wait_for_console_text, get_console_log), or at a "
    "virtual terminal (get_tty_text, wait_until_tty_matches)"
)
_KEYBOARD = (
    "this machine has no keyboard. Type at its serial console instead (send_console), or run commands (succeed)"
)


class Display(Core):
    """What needs a display or a keyboard: every call is refused with MachineError, once its arguments are right."""

    def screenshot(self, filename: Text) -> None:
        """Takes a picture of the display."""
        self._no_display(f"screenshot({text(filename)!r})", _DISPLAY)

    def get_screen_text(self) -> str:
        """What can be read on the display."""
        self._no_display("get_screen_text()", _DISPLAY)

    def get_screen_text_variants(self) -> list[str]:
        """What can be read on the display, in several readings."""
        self._no_display("get_screen_text_variants()", _DISPLAY)

    def wait_for_text(self, regex: Text, timeout: Duration = DEFAULT_TIMEOUT) -> None:
        """Waits until a text can be read on the display."""
        seconds(timeout)
        self._no_display(f"wait_for_text({text(regex)!r})", _DISPLAY)

    def send_key(self, key: Text, delay: Duration | None = 0.01, log: bool | None = True) -> None:
        """Presses a key, or several at the same time (`ctrl-alt-delete`)."""
        optional_seconds(delay)
        self._no_display(f"send_key({text(key)!r})", _KEYBOARD)

    def send_chars(self, chars: Text, delay: Duration | None = 0.01) -> None:
        """Types a text at the keyboard."""
        optional_seconds(delay)
        self._no_display(f"send_chars({text(chars)!r})", _KEYBOARD)

    def _no_display(self, call: str, why: str) -> NoReturn:
        raise MachineError(f"{self.name}: {call}: {why}")
