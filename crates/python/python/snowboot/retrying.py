"""Trying again until something holds."""

from __future__ import annotations

import time
from collections.abc import Callable

from .duration import DEFAULT_TIMEOUT, Duration, one_of, seconds
from .errors import RequestedAssertionFailed

FIRST_PAUSE = 0.005
LONGEST_PAUSE = 0.4


def retry(
    fn: Callable[[bool], object],
    timeout_seconds: Duration | None = None,
    timeout: Duration | None = None,
) -> None:
    """Calls `fn(False)` until it is true; when the time is up once more with True. The time is 15 minutes by default."""
    given = one_of(timeout_seconds, timeout, "timeout_seconds", "timeout")
    # No time at all is a limit too: one look.
    retry_until(fn, seconds(DEFAULT_TIMEOUT if given is None else given), "the retried condition")


def retry_until(fn: Callable[[bool], object], limit: float, what: str) -> None:
    """The same with a limit in seconds, and a name for what is waited for."""
    if not callable(fn):
        raise TypeError(f"retry() needs a function, got {fn!r}")
    began = time.monotonic()
    pause = FIRST_PAUSE
    while (left := began + limit - time.monotonic()) > 0:
        if fn(False):
            return
        time.sleep(min(pause, max(left, 0.0)))
        pause = min(pause * 1.5, LONGEST_PAUSE)
    if not fn(True):
        elapsed = time.monotonic() - began
        raise RequestedAssertionFailed(
            f"action timed out after {elapsed:.2f} s: {what} never became true within {limit:g} s"
        )
