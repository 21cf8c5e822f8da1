"""Texts, as scripts write them."""

from __future__ import annotations

import os

Text = str | os.PathLike[str] | int | float
"""What stands for a text: scripts for the NixOS test driver give paths and numbers, since it puts all into one line."""


def text(value: Text) -> str:
    """The text.

    What can only be a mistake is refused with TypeError: None, and the list whose star was forgotten.
    """
    if value is None or isinstance(value, (bytes, dict, list, set, tuple)):
        raise TypeError(f"expected a text, got {value!r}")
    return str(value)


def optional_text(value: Text | None) -> str | None:
    """The text, if there is one."""
    return None if value is None else text(value)
