"""Commands of earlier sessions, in the form that prompt_toolkit gives such files: `#` and a time, then each line of the
command after a `+`. So every kind of prompt finds the others' commands."""

from __future__ import annotations

import datetime
from pathlib import Path

MOST = 1000
"""Commands that are read back, at most: more than anybody looks through."""


class History:
    """A file of commands. One that cannot be read or written is no reason to fail."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[str]:
        """The last commands, the oldest first."""
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        commands: list[str] = []
        lines: list[str] = []
        # An empty line at the end, for the last command.
        for line in [*text.splitlines(), ""]:
            if line.startswith("+"):
                lines.append(line[1:])
            elif lines:
                commands.append("\n".join(lines))
                lines = []
        return commands[-MOST:]

    def add(self, command: str) -> None:
        """Notes a command."""
        lines = "".join(f"+{line}\n" for line in command.splitlines())
        try:
            with self.path.open("a", encoding="utf-8", errors="replace") as file:
                file.write(f"\n# {datetime.datetime.now()}\n{lines}")
        except OSError:
            pass
