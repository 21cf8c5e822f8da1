"""Python's debugger over a connection."""

from __future__ import annotations

import contextlib
import pdb
from types import FrameType, TracebackType
from typing import TextIO


class RemotePdb(pdb.Pdb):
    """Stops in the frame that it was made for."""

    def __init__(self, reader: TextIO, writer: TextIO) -> None:
        super().__init__(stdin=reader, stdout=writer, nosigint=True)
        self.use_rawinput = False
        self.prompt = "(snowboot) "

    def run_at(self, frame: FrameType | None, trace: TracebackType | None) -> None:
        """Takes commands until one goes on. Without a trace function: it could not outlive the connection."""
        self.reset()
        self.setup(frame, trace)
        # A debugger that went away lets the script go on.
        with contextlib.suppress(OSError, ValueError):
            self.print_stack_entry(self.stack[self.curindex])
            self.cmdloop()
        self.forget()
