"""Ends of a run that its script has no part in: signals, the global time limit, and what is done when neither helps."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Ending(NamedTuple):
    """Why a run ends although its script would go on."""

    status: int
    """The exit status."""
    kind: str
    """As in reports."""
    message: str
    """For people."""

    @property
    def told(self) -> str:
        """The line that says so."""
        return ("!!! " if self.kind == "GlobalTimeout" else "snowboot: ") + self.message

    @classmethod
    def by_signal(cls, number: int) -> Ending:
        name = signal.Signals(number).name
        if number == signal.SIGINT:
            return cls(128 + number, "KeyboardInterrupt", "interrupted")
        return cls(128 + number, "Terminated", f"terminated by {name}")

    @classmethod
    def by_time(cls, limit: float) -> Ending:
        message = f"the test ran into its global time limit of {limit:g} s"
        return cls(128 + signal.SIGTERM, "GlobalTimeout", message)


class Watchdog:
    """Calls a function, on a thread of its own, when a limit that was set is over.

    The limit may be set from signal handlers, so the lock is one that its owner can take again.
    """

    def __init__(self, expired: Callable[[], None]) -> None:
        self._expired = expired
        self._changed = threading.Condition(threading.RLock())
        self._until = math.inf
        threading.Thread(target=self._watch, name="snowboot-watchdog", daemon=True).start()

    def set(self, seconds: float) -> None:
        """The limit, from now."""
        with self._changed:
            self._until = time.monotonic() + seconds
            self._changed.notify()

    def shorten(self, seconds: float) -> None:
        """The limit, unless it ends sooner."""
        with self._changed:
            self._until = min(self._until, time.monotonic() + seconds)
            self._changed.notify()

    def _watch(self) -> None:
        while True:
            with self._changed:
                while (left := self._until - time.monotonic()) > 0:
                    self._changed.wait(min(left, 3600))
                self._until = math.inf
            self._expired()


def briefly(function: Callable[[], T], seconds: float = 1.0) -> T | None:
    """What the function gives; None when it takes longer, such as for a terminal that is stopped."""
    result: list[T] = []
    thread = threading.Thread(target=lambda: result.append(function()), daemon=True)
    thread.start()
    thread.join(seconds)
    return result[0] if result else None
