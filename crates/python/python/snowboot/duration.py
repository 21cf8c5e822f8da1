"""Spans of time, as scripts write them."""

from __future__ import annotations

from datetime import timedelta

Duration = timedelta | int | float
"""A span of time; numbers are seconds."""

DEFAULT_TIMEOUT = timedelta(minutes=15)
"""How long waits take when the script does not say."""


def seconds(value: Duration) -> float:
    """The span in seconds.

    A truth value is refused with TypeError: it is the sign of a misplaced argument.
    """
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"expected a timedelta or a number of seconds, got {value!r}")
    return float(value)


def optional_seconds(value: Duration | None) -> float | None:
    """The span in seconds; None is no limit."""
    return None if value is None else seconds(value)


def one_of(old: Duration | None, new: Duration | None, old_name: str, new_name: str) -> Duration | None:
    """The one that was given, of an argument that has two names."""
    if old is not None and new is not None:
        raise TypeError(f"give {old_name} or {new_name}, not both")
    return old if new is None else new
