"""Amounts with units, as scripts write them: `"20ms"`, `"10Mbit"`, `"64KiB"`, `"5%"`."""

from __future__ import annotations

import math
import re

from .duration import Duration
from .duration import seconds as plain_seconds

Span = Duration | str
"""A span of time: a timedelta, a number of seconds, or a text such as "20ms"."""

_TIMES = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}
_RATES = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_SIZES = {"b": 1, "kb": 10**3, "mb": 10**6, "kib": 2**10, "mib": 2**20}


def seconds(value: Span) -> float:
    """A span of time in seconds."""
    if isinstance(value, str):
        return _amount(value, _TIMES, "a time", "20ms")
    return plain_seconds(value)


def bits_per_second(value: int | float | str) -> int:
    """A rate; numbers are bits per second."""
    return _whole(value, _RATES, "a rate", "10Mbit")


def bytes_of(value: int | str) -> int:
    """A size; numbers are bytes."""
    return _whole(value, _SIZES, "a size", "64KiB")


def probability(value: int | float | str) -> float:
    """A probability: a number from 0 to 1, or a text such as "5%"."""
    if isinstance(value, str):
        return _amount(value, {"%": 0.01}, "a probability", "5%")
    return _number(value, "a probability", "5%")


def _whole(value: int | float | str, units: dict[str, int], what: str, example: str) -> int:
    number = _amount(value, units, what, example) if isinstance(value, str) else _number(value, what, example)
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"{value!r} is not {what}: it is not negative, and finite")
    return round(number)


def _number(value: object, what: str, example: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"expected {what}, a number or a text such as {example!r}, got {value!r}")
    return float(value)


def _amount(text: str, units: dict[str, int] | dict[str, float], what: str, example: str) -> float:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z%]*)\s*", text)
    unit = found and units.get(found[2].lower())
    if not found or not unit:
        raise ValueError(f"{text!r} is not {what}: write a number and one of {', '.join(units)}, as in {example!r}")
    return float(found[1]) * unit
