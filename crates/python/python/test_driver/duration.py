"""Spans of time."""

from snowboot.duration import Duration

__all__ = ["Duration"]
