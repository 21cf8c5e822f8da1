"""`debug.breakpoint()`: a look into a test that stands still."""

from __future__ import annotations

import os
import sys
from types import FrameType, TracebackType

from .errors import MachineError
from .logger import Logger


class Debug:
    """Stops a script for a debugger, where the run was told to allow that.

    It is with `--debug-hook-attach COMMAND`; the command is for people to type, with a place to attach to instead of
    `%s` or at its end.
    """

    def __init__(self, logger: Logger, attach: str | None = None) -> None:
        self._logger = logger
        self._attach = attach

    @property
    def is_on(self) -> bool:
        """Whether breakpoints stop."""
        return self._attach is not None

    def breakpoint(self, host: str = "127.0.0.1", port: int = 4444) -> None:
        """Waits for a connection to this address and gives it Python's debugger, at the caller's line.

        Nothing happens where debugging is off. The machines go on, and so does the global time limit.
        """
        if not isinstance(host, str) or isinstance(port, bool) or not isinstance(port, int):
            raise TypeError(f"breakpoint() needs a host name and a port number, got {host!r} and {port!r}")
        if self._attach is not None:
            self._serve(host, port, sys._getframe(1), None)

    def failed(self, error: BaseException) -> None:
        """The same at the line that raised an error, where debugging is on; for runners of scripts."""
        if self._attach is not None and error.__traceback__ is not None:
            self._serve("127.0.0.1", 4444, None, error.__traceback__)

    def _serve(self, host: str, port: int, frame: FrameType | None, trace: TracebackType | None) -> None:
        import socket

        from .remote_pdb import RemotePdb

        try:
            listener = socket.create_server((host, port))
        except (OSError, OverflowError) as error:
            raise MachineError(f"the debugger cannot listen on {host} port {port}: {error}") from error
        with listener:
            where = f"{host} {listener.getsockname()[1]}"
            self._logger.log_test_error("Breakpoint reached, waiting for a debugger.")
            self._logger.log_test_error(f"Attach with: {self._command(where)}")
            connection, _ = listener.accept()
        # A file each: one for both would forget what it has read whenever it writes.
        with connection, connection.makefile("r") as reader, connection.makefile("w") as writer:
            RemotePdb(reader, writer).run_at(frame, trace)

    def _command(self, where: str) -> str:
        attach = (self._attach or "").strip()
        if "%s" in attach:
            return attach.replace("%s", str(os.getpid()))
        return f"{attach} (debugger: nc {where})" if attach else f"nc {where}"
