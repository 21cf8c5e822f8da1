"""Waits for facts in a guest."""

from __future__ import annotations

from ..duration import DEFAULT_TIMEOUT, Duration, seconds
from ..text import Text, text
from .core import Core


class Waits(Core):
    """Waits for commands, files and ports."""

    def wait_until_succeeds(self, command: Text, timeout: Duration = DEFAULT_TIMEOUT) -> str:
        """Repeats a command until it ends with status 0; gives its output."""
        return self._native.wait_until_succeeds(text(command), seconds(timeout))

    def wait_until_fails(self, command: Text, timeout: Duration = DEFAULT_TIMEOUT) -> str:
        """Repeats a command until it ends with another status than 0; gives its output."""
        return self._native.wait_until_fails(text(command), seconds(timeout))

    def wait_for_file(self, filename: Text, timeout: Duration = DEFAULT_TIMEOUT) -> None:
        """Waits until a file is there; shell patterns work."""
        self._native.wait_for_file(text(filename), seconds(timeout))

    def wait_for_open_port(
        self, port: int | str, addr: Text = "localhost", timeout: Duration = DEFAULT_TIMEOUT
    ) -> None:
        """Waits until something listens on a TCP port, as seen from inside the guest."""
        self._native.wait_for_open_port(int(port), text(addr), seconds(timeout))

    def wait_for_closed_port(
        self, port: int | str, addr: Text = "localhost", timeout: Duration = DEFAULT_TIMEOUT
    ) -> None:
        """Waits until nothing listens on a TCP port, as seen from inside the guest."""
        self._native.wait_for_closed_port(int(port), text(addr), seconds(timeout))

    def wait_for_open_unix_socket(
        self, addr: Text, is_datagram: bool = False, timeout: Duration = DEFAULT_TIMEOUT
    ) -> None:
        """Waits until something listens on a Unix socket, or has bound it when it is one for datagrams."""
        self._native.wait_for_open_unix_socket(text(addr), is_datagram, seconds(timeout))
