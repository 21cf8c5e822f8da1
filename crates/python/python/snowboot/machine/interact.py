"""A person at a machine: the terminal on its serial console, or on its shell."""

from __future__ import annotations

import codecs
import os
import select
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import MachineError
from .core import Core

if TYPE_CHECKING:
    import socket

CTRL_D = b"\x04"
CHUNK = 4096
PAUSE = 0.05
"""Seconds between two looks at what was typed, and at the end of the run."""


@contextmanager
def _raw_terminal(fd: int) -> Iterator[None]:
    """Gives every key to us as it is typed. Output stays as it is, for the driver's own lines."""
    saved = termios.tcgetattr(fd)
    raw = termios.tcgetattr(fd)
    raw[0] &= ~(termios.BRKINT | termios.ICRNL | termios.INPCK | termios.ISTRIP | termios.IXON)
    raw[3] &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN | termios.ISIG)
    try:
        termios.tcsetattr(fd, termios.TCSADRAIN, raw)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSAFLUSH, saved)


def _typed(fd: int) -> bytes | None:
    """What was typed, without waiting; nothing at the end of input, None when nothing came."""
    return os.read(fd, CHUNK) if select.select([fd], [], [], 0)[0] else None


def _show(data: bytes) -> None:
    """Writes to the terminal at once; a prompt has no end of line."""
    while data:
        data = data[os.write(sys.stdout.fileno(), data) :]


class Interact(Core):
    """Lets a person at the terminal into a machine."""

    def console_interact(self) -> None:
        """Joins the terminal and the machine's serial console until ctrl-d is typed.

        Every other key goes to the guest, ctrl-c too. MachineError without a terminal.
        """
        fd = self._terminal("console_interact")
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        native = self._native
        self.log("the terminal is on the serial console (there may be no prompt); ctrl-d leaves")

        def receive() -> bytes | None:
            data = native.read_raw_console(PAUSE)
            return data if data or native.booted else None

        lines = native.keep_raw_console(True, False)
        try:
            with _raw_terminal(fd):
                self._join(fd, lambda data: native.send_console(decode(data)), receive)
        finally:
            native.keep_raw_console(False, lines)

    def shell_interact(self, address: str | None = None) -> None:
        """Joins the terminal and the machine's root shell, which has no prompt, until ctrl-d is typed.

        With an address the shell is joined to that socket until the other side closes it: `tcp-listen:PORT` or
        `unix-listen:PATH` wait for one connection, `tcp:HOST:PORT` and `unix-connect:PATH` or a plain path make one.
        Deprecated upstream. Lines are sent as they are typed; without a terminal or address MachineError.
        """
        self._native.connect()
        native = self._native

        def receive() -> bytes | None:
            data = native.shell_receive(CHUNK, PAUSE)
            return b"" if data is None else data or None

        if address is None:
            fd = self._terminal("shell_interact")
            self.log("the terminal is on the root shell (there is no prompt); ctrl-d on a new line leaves")
            # The terminal edits and echoes lines, for the shell does not. Its ctrl-d is an end of input.
            self._join(fd, native.shell_send, receive)
            return
        with self._socket(address) as peer:
            self._join(peer.fileno(), native.shell_send, receive, peer.sendall)

    def _terminal(self, what: str) -> int:
        """The terminal's descriptor."""
        try:
            fd = sys.stdin.fileno()
        except (AttributeError, OSError, ValueError):
            fd = -1
        if fd < 0 or not os.isatty(fd):
            raise MachineError(
                f"{self.name}: {what}() joins the machine with the terminal on the standard input, and that is no "
                "terminal; run the test from a terminal, or with --interactive"
            )
        return fd

    def _join(
        self,
        fd: int,
        send: Callable[[bytes], None],
        receive: Callable[[], bytes | None],
        show: Callable[[bytes], object] | None = None,
    ) -> None:
        """Carries bytes both ways until either side ends or, at a terminal, ctrl-d is typed."""
        if show is None:
            sys.stdout.flush()
            show = _show
        while True:
            data = _typed(fd)
            if data == b"":
                return
            if data is not None:
                if os.isatty(fd) and CTRL_D in data:
                    send(data.partition(CTRL_D)[0])
                    return
                send(data)
            answer = receive()
            if answer is None:
                self.log("the machine has ended")
                return
            if answer:
                show(answer)

    def _socket(self, address: str) -> socket.socket:
        """The socket that an address as socat's names."""
        import socket

        kind, _, rest = address.partition(":")
        kind = kind.lower()
        try:
            if kind in ("tcp-listen", "tcp4-listen"):
                return self._accept(socket.AF_INET, ("127.0.0.1", int(rest)))
            if kind in ("unix-listen", "unix-l"):
                return self._accept(socket.AF_UNIX, rest)
            if kind in ("tcp", "tcp4", "tcp-connect"):
                host, _, port = rest.rpartition(":")
                return socket.create_connection((host, int(port)))
            if kind in ("unix", "unix-connect") or address.startswith(("/", ".")):
                peer = socket.socket(socket.AF_UNIX)
                peer.connect(rest if kind.startswith("unix") else str(Path(address)))
                return peer
        except (OSError, ValueError) as error:
            raise MachineError(f"{self.name}: shell_interact({address!r}): {error}") from error
        raise MachineError(
            f"{self.name}: shell_interact({address!r}): no such kind of address is known here; use tcp-listen:PORT, "
            "unix-listen:PATH, tcp:HOST:PORT, unix-connect:PATH or a path"
        )

    def _accept(self, family: socket.AddressFamily, at: tuple[str, int] | str) -> socket.socket:
        """Waits for one connection."""
        import socket

        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(at)
            listener.listen(1)
            self.log(f"the root shell waits for a connection at {at}")
            listener.settimeout(None)
            return listener.accept()[0]
