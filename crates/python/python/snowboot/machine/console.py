"""A machine's serial console."""

from __future__ import annotations

import re
from collections.abc import Callable

from ..duration import Duration, optional_seconds
from ..text import Text, text
from .core import Core


class Console(Core):
    """Reads the serial console and types at it."""

    def wait_for_console_text(
        self, regex: str | re.Pattern[str], timeout: Duration | None = None
    ) -> None:
        """Waits until console lines that no such wait has seen yet match a regular expression of Python's `re`.

        A prompt, which is a line without an end, is found as well.
        """
        pattern = re.compile(regex)
        search: Callable[[str], object] = pattern.search
        self._native.wait_for_console(
            pattern.pattern, optional_seconds(timeout), lambda lines: search(lines) is not None
        )

    def get_console_log(self) -> str:
        """All console lines since the last start, joined by newlines."""
        return self._native.get_console_log()

    def send_console(self, chars: Text) -> None:
        """Types at the machine's serial console."""
        self._native.send_console(text(chars))
