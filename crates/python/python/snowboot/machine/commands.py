"""Commands in a guest."""

from __future__ import annotations

from ..duration import DEFAULT_TIMEOUT, Duration, one_of, optional_seconds, seconds
from ..text import Text, text
from .core import Core


class Commands(Core):
    """Runs commands as root, one at a time."""

    def execute(
        self,
        command: Text,
        check_return: bool = True,
        check_output: bool = True,
        timeout: Duration | None = DEFAULT_TIMEOUT,
    ) -> tuple[int, str]:
        """Runs a command; gives its exit status and standard output.

        No exit status raises. The status is 124 when the command took longer than `timeout`, -1 without
        `check_return`, and -2 without `check_output`, which does not wait for the command at all. A background
        process must not keep the standard output: `succeed("daemon >&2 &")`.
        """
        return self._native.execute(text(command), check_return, check_output, optional_seconds(timeout))

    def succeed(self, *commands: Text, timeout: Duration | None = None) -> str:
        """Runs commands that must all end with status 0; gives what they wrote to standard output."""
        return self._native.succeed([text(command) for command in commands], optional_seconds(timeout))

    def fail(self, *commands: Text, timeout: Duration | None = None) -> str:
        """Runs commands none of which may end with status 0; gives what they wrote to standard output."""
        return self._native.fail([text(command) for command in commands], optional_seconds(timeout))

    def sleep(self, secs: float | None = None, duration: Duration | None = None) -> None:
        """Sleeps inside the guest, by the guest's clock."""
        time = one_of(secs, duration, "secs", "duration")
        if time is None:
            raise TypeError("sleep() needs a duration")
        self.succeed(f"sleep {seconds(time)}")
