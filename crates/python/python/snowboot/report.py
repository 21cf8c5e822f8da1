"""The report of a run, for programs: a JSON file that is there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class ReportError(Exception):
    """A report cannot be written; the text says where, why, and what to do."""


class ReportFile:
    """Where a report goes."""

    def __init__(self, path: Path) -> None:
        """Finds out now whether a report can be written at the end.

        What an earlier run left there goes away: whoever finds a report afterwards finds this run's.
        """
        # Absolute, as scripts may change the current folder; and not the link but what is behind it is replaced.
        self._path = Path(os.path.realpath(path))
        if self._path.exists() and not self._path.is_file():
            raise ReportError(f"Cannot write the report {path}: it is not a regular file; name another one")
        try:
            self._scratch().touch()
            self._scratch().unlink()
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise ReportError(
                f"Cannot write the report {path}: its folder cannot be written to ({error.strerror}); name another one"
            ) from error

    def write(self, report: dict[str, Any]) -> None:
        """Writes the report."""
        import json

        scratch = self._scratch()
        try:
            scratch.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
            os.replace(scratch, self._path)
        except OSError as error:
            scratch.unlink(missing_ok=True)
            raise ReportError(f"Cannot write the report {self._path}: {error.strerror}; make room there") from error

    def _scratch(self) -> Path:
        return self._path.with_name(f".snowboot-report-{os.getpid()}")
