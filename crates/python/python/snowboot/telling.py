"""What is said of errors: the script's lines that led to them, and nothing of what is inside the driver."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

from .errors import TestScriptError

if TYPE_CHECKING:
    import traceback

IsScript = Callable[[str], bool]
"""Whether a file of a traceback is the test's own."""


def say(*lines: str) -> None:
    """To the standard error; one that nobody reads any more is no reason to fail."""
    try:
        print(*lines, sep="\n", file=sys.stderr, flush=True)
    except OSError:
        pass


def exit_status(error: SystemExit) -> int:
    """What the process ends with after the script's `sys.exit`. A text is shown, as Python does."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        # The system keeps eight bits; what is not 0 must not become it.
        return error.code & 0xFF or int(error.code != 0)
    say(str(error.code))
    return 1


def leave_fork(error: BaseException | None) -> NoReturn:
    """Ends a process that the script forked: neither the machines nor the report are its own."""
    status = 1
    try:
        if isinstance(error, SystemExit):
            status = exit_status(error)
        elif error is None:
            status = 0
        else:
            import traceback

            say("".join(traceback.format_exception(error)).rstrip())
        sys.stdout.flush()
    finally:
        os._exit(status)


def script_frames(error: BaseException | None, is_script: IsScript) -> list[traceback.FrameSummary]:
    """The script's own frames of the traceback."""
    if error is None:
        return []
    import traceback

    return [frame for frame in traceback.extract_tb(error.__traceback__) if is_script(frame.filename)]


def traceback_lines(frames: list[traceback.FrameSummary]) -> list[str]:
    """These frames as Python shows them."""
    lines = ["Traceback (most recent call last):"] if frames else []
    for frame in frames:
        lines += [f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}', f"    {frame.line}"]
    return lines


def error_lines(error: BaseException, is_script: IsScript) -> list[str]:
    """All that is to be said of an error that a script did not expect.

    Of the driver's own errors the script's frames are shown, and of others everything from the script's first frame on.
    """
    frames = script_frames(error, is_script)
    if isinstance(error, TestScriptError) and frames:
        return [*traceback_lines(frames), "", f"!!! {type(error).__name__}: {error}"]
    import traceback

    error = error.with_traceback(script_trace(error, is_script))
    return "".join(traceback.format_exception(error)).rstrip().split("\n")


def script_trace(error: BaseException, is_script: IsScript) -> TracebackType | None:
    """The error's traceback from the script's first frame on."""
    trace = error.__traceback__
    while trace is not None and not is_script(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return trace
