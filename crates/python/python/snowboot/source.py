"""The test script: its text, and how it is run."""

from __future__ import annotations

import ast
import linecache
from typing import Any, NamedTuple

from .driver import Driver


class NotStarted(Exception):
    """The test cannot be run; one line says why and what to do."""


class Script(NamedTuple):
    """A test script, as it was when it was read."""

    text: str
    name: str
    """In tracebacks: its file, or what stands for that."""

    @classmethod
    def of(cls, driver: Driver) -> Script:
        """Reads the script of a run; NotStarted when that cannot be done."""
        try:
            text, name = driver.script()
        except OSError as error:
            raise NotStarted(f"Cannot read the test script {error.filename}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise NotStarted(f"Cannot read the test script: it is not UTF-8 text ({error})") from error
        return cls(text, name)

    def show_lines_of_this(self) -> None:
        """Lets tracebacks show the lines that ran, whatever becomes of the file."""
        show_lines_of(self.text, self.name)

    def parse(self) -> ast.Module:
        """The script's syntax tree; SyntaxError when it is no Python."""
        return ast.parse(self.text, self.name)

    def run(self, names: dict[str, Any]) -> None:
        """Runs the script with these names."""
        self.show_lines_of_this()
        # What this file imports from the future is not the script's.
        exec(compile(self.parse(), self.name, "exec", dont_inherit=True), names)


def show_lines_of(text: str, name: str) -> None:
    """Lets tracebacks show lines of a text that is in no file of this name, or not for long."""
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
