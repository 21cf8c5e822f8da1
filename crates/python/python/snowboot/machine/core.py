"""What every part of a machine builds on."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from .. import _native
from ..logger import Logger
from ..text import Text, text


class Core:
    """A machine's name, state and log."""

    def __init__(self, native: _native.Machine, log: Logger, out_dir: Path) -> None:
        self._native = native
        self._log = log
        self.out_dir = out_dir
        """Where files of guests go."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    @property
    def name(self) -> str:
        """Its name in the manifest."""
        return self._native.name

    @property
    def booted(self) -> bool:
        """Whether it was started and has not ended."""
        return self._native.booted

    @property
    def connected(self) -> bool:
        """Whether its shell answers."""
        return self._native.is_up()

    def log(self, msg: Text) -> None:
        """Logs a line under the machine's name."""
        self._log.log(text(msg), {"machine": self.name})

    def nested(self, msg: Text, attrs: Mapping[str, str] = {}) -> AbstractContextManager[None]:
        """A block of the log under the machine's name."""
        return self._log.nested(text(msg), {**attrs, "machine": self.name})
