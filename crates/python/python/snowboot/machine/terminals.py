"""What a guest shows: its virtual terminals and its windows."""

from __future__ import annotations

import re
from collections.abc import Callable

from ..duration import DEFAULT_TIMEOUT, Duration, seconds
from ..text import Text, text
from .core import Core


class Terminals(Core):
    """Reads virtual terminals and the names of windows, and waits for them.

    All of it is asked for in the guest; it works whatever the machine's display is. Regular expressions are those of
    Python's `re`.
    """

    def get_tty_text(self, tty: Text | int) -> str:
        """The text on a virtual terminal, in lines as wide as it is."""
        return self._native.get_tty_text(text(tty))

    def wait_until_tty_matches(
        self, tty: Text | int, regexp: str | re.Pattern[str], timeout: Duration = DEFAULT_TIMEOUT
    ) -> None:
        """Waits until the text on a virtual terminal matches a regular expression."""
        pattern = re.compile(regexp)
        self._native.wait_until_tty(pattern.pattern, text(tty), seconds(timeout), _search(pattern))

    def dump_tty_contents(self, tty: Text | int) -> None:
        """Writes the text on a virtual terminal into the guest's journal, and so onto the console."""
        self._native.dump_tty_contents(text(tty))

    def wait_for_x(self, timeout: Duration = DEFAULT_TIMEOUT) -> None:
        """Waits until a graphical session has begun and the X server's socket is there."""
        self._native.wait_for_x(seconds(timeout))

    def get_window_names(self) -> list[str]:
        """The names of the windows on the X server's display 0; the guest needs `xwininfo`."""
        return self._native.get_window_names()

    def wait_for_window(
        self, regexp: str | re.Pattern[str], timeout: Duration = DEFAULT_TIMEOUT
    ) -> None:
        """Waits until the name of a window matches a regular expression."""
        pattern = re.compile(regexp)
        self._native.wait_for_window(pattern.pattern, seconds(timeout), _search(pattern))


def _search(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda shown: pattern.search(shown) is not None
