"""The run's log, as scripts see it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from . import _native


class Logger:
    """Writes to the run's log. The global `log` of a script is one."""

    def __init__(self, native: _native.Driver) -> None:
        self._native = native
        self.ends_on_error = True
        """Whether `error` ends the test; in a session at a terminal it does not."""

    def log(self, message: str, attributes: Mapping[str, str] = {}) -> None:
        """A line, as it is."""
        self._native.log("info", str(message), attributes.get("machine"))

    def info(self, *args: object) -> None:
        """What the test does."""
        self._native.log("info", _text(args))

    def debug(self, *args: object) -> None:
        """For those who look for a fault."""
        self._native.log("debug", _text(args))

    def warning(self, *args: object) -> None:
        """Something is odd."""
        self._native.log("warning", _text(args))

    def error(self, *args: object) -> None:
        """Something is wrong: logs it and ends the test with exit status 1."""
        self._native.log("error", _text(args))
        if self.ends_on_error:
            sys.exit(1)

    def log_test_error(self, *args: object) -> None:
        """An error of the test, without ending it."""
        self._native.log("error", _text(args))

    def log_serial(self, message: str, machine: str) -> None:
        """A line as if a machine's console had said it."""
        self._native.log_serial(machine, str(message))

    def print_serial_logs(self, enable: bool) -> None:
        """Shows console lines on the terminal, or not."""
        self._native.set_serial(enable)

    @contextmanager
    def nested(self, message: str, attributes: Mapping[str, str] = {}) -> Iterator[None]:
        """A block of the log: a header, what happens inside, and how long it took."""
        with self._block(message, attributes.get("machine"), subtest=False):
            yield

    @contextmanager
    def subtest(self, name: str) -> Iterator[None]:
        """A part of the test, a case of its own in reports. What it raises is logged and raised on."""
        try:
            with self._block(name, None, subtest=True):
                yield
        except Exception as error:
            # What comes after the first line is told once, at the end, and not by every subtest around.
            first, *_ = str(error).splitlines() or [type(error).__name__]
            self.log_test_error(f'Test "{name}" failed with error: "{first}"')
            raise

    @contextmanager
    def _block(self, message: str, machine: str | None, *, subtest: bool) -> Iterator[None]:
        block = self._native.block(message, machine, subtest)
        failure: str | None = None
        try:
            yield
        except BaseException as error:
            failure = str(error) or type(error).__name__
            raise
        finally:
            block.end(failure)


def _text(args: tuple[object, ...]) -> str:
    return " ".join(str(arg) for arg in args)
