"""Trying again until something holds."""

from __future__ import annotations

import time
from collections.abc import Callable

from .duration import DEFAULT_TIMEOUT, Duration, one_of, seconds
from .errors import RequestedAssertionFailed

# As the driver's own waits: in proportion to what a look costs, within bounds.
FIRST_PAUSE = 0.005
LONGEST_PAUSE = 0.4
SHARE = 4


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
    while (looked := time.monotonic()) < began + limit:
        if fn(False):
            return
        now = time.monotonic()
        cost = now - looked
        time.sleep(max(min(max(pause, cost / SHARE), began + limit - now), 0.0))
        pause = min(max(pause * 1.5, FIRST_PAUSE), max(cost * SHARE, FIRST_PAUSE), LONGEST_PAUSE)
    if not fn(True):
        elapsed = time.monotonic() - began
        raise RequestedAssertionFailed(
            f"action timed out after {elapsed:.2f} s: {what} never became true within {limit:g} s"
        )
