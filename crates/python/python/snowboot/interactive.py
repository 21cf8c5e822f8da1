"""`snowboot test -I`: commands from a terminal or a pipe, with the names that the test's script has.

Nothing is started before a command does so, and machines go on between commands. The global time limit counts inside
`run_tests()` only. At a terminal Ctrl-C ends what runs and no machine, and an error ends its command only. From a pipe
commands are taken as from a script: the first error ends them, and so does Ctrl-C.
"""

from __future__ import annotations

import code
import sys
import termios
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import CodeType
from typing import Any

from .driver import Driver
from .errors import GlobalTimeout
from .history import History
from .source import Script, show_lines_of
from .telling import error_lines, say, script_frames, traceback_lines

HISTORY = ".nixos-test-history"
"""The file of earlier commands, in the current folder; the NixOS test driver's has the same name and form."""


class Session:
    """Commands, one after the other.

    Console lines are shown while a command runs. At the prompt they would be written over what is being typed, so
    they are left out there; the machines' `get_console_log()` has all of them.
    """

    def __init__(self, driver: Driver, time_limit: Callable[[], AbstractContextManager[None]]) -> None:
        self.driver = driver
        self.is_terminal = sys.stdin.isatty()
        self.history = History(Path.cwd() / HISTORY)
        self._time_limit = time_limit
        self._shows_serial = True
        self._script_name: str | None = None
        self.ended: BaseException | None = None
        """What has ended the session from inside a prompt that keeps it to itself."""
        self.names = driver.namespace()
        self.names.update(
            run_tests=self._run_tests,
            serial_stdout_off=lambda: self._show_serial(False),
            serial_stdout_on=lambda: self._show_serial(True),
            test_script=self._test_script,
            __name__="__main__",
        )

    def run(self) -> None:
        """Takes commands to their end: Ctrl-D, `exit()`, or the end of the pipe."""
        warnings.simplefilter("default", DeprecationWarning)
        if not self.is_terminal:
            _Console(self).read()
            return
        # A `log.error` is to be seen, not to end everything.
        self.driver.logger.ends_on_error = False
        self.driver.set_serial(False)
        with kept_terminal():
            if sys.stdout.isatty():
                from .ipython import ipython

                if (shell := ipython(self)) is not None:
                    shell()
                    if self.ended is not None:
                        raise self.ended
                    return
            _Console(self).interact(self.banner(), "")

    def banner(self) -> str:
        """What is said first."""
        machines = ", ".join(self.driver.variables)
        return "\n".join([
            f"Snowboot: test {self.driver.name}, machines: {machines}",
            "  start_all()     start the machines; each also starts with its first command",
            "  test_script()   run the test's script here",
            "  run_tests()     the same within the test's time limit",
            "Every name of a test script is there; Tab completes, and help(machine.wait_for_unit) explains.".replace(
                "machine.", f"{next(iter(self.driver.variables), 'machine')}."),
            "Console lines show while a command runs. Ctrl-C ends a wait, Ctrl-D ends the session and its machines.",
        ])

    @contextmanager
    def command(self) -> Iterator[None]:
        """What a command runs in."""
        if not self.is_terminal:
            yield
            return
        self.driver.set_serial(self._shows_serial)
        try:
            yield
        finally:
            # First what the command has led to; then nothing more may come.
            self.driver.flush()
            self.driver.set_serial(False)
            self.driver.flush()

    def failed(self, error: BaseException) -> None:
        """Shows how a command failed. What ends the session is raised again."""
        if isinstance(error, (SystemExit, GlobalTimeout)) or not self.is_terminal:
            raise error
        # For `pdb.pm()`.
        sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
        if isinstance(error, KeyboardInterrupt):
            frames = script_frames(error, self.is_script)
            # The one that was just typed needs not be shown.
            say("", *traceback_lines(frames if len(frames) > 1 else []),
                "interrupted; the machines go on, and so may a command in its guest: the next one there waits for it")
        else:
            say(*error_lines(error, self.is_script))

    def is_script(self, file: str) -> bool:
        """Whether a file of a traceback is the script, or what was typed."""
        return file == self._script_name or file.startswith(("<input ", "<ipython-input"))

    def restore_terminal(self) -> None:
        """Gives the terminal back the mode that it had before the session."""
        restore_terminal()

    def _test_script(self) -> None:
        """Runs the test's script, as its file is now, with the names of this session."""
        script = Script.of(self.driver)
        self._script_name = script.name
        try:
            script.run(self.names)
        except SystemExit as end:
            # The end of the script is not the session's.
            if not self.is_terminal:
                raise
            self.driver.logger.warning(f"the script has ended itself: sys.exit({end.code!r})")

    def _run_tests(self) -> None:
        """Runs the test's script within the global time limit, and has machines write to their disks what they hold."""
        with self._time_limit():
            self._test_script()
            for machine in self.driver.machines:
                if machine.is_up():
                    machine.execute("sync")

    def _show_serial(self, on: bool) -> None:
        self._shows_serial = on
        self.driver.set_serial(on)


class _Console(code.InteractiveConsole):
    """Python's own prompt, and the reader of pipes."""

    def __init__(self, session: Session) -> None:
        super().__init__(session.names)
        self._session = session
        self._count = 0

    def interact(self, banner: str | None = None, exitmsg: str | None = None) -> None:
        self._prepare_line_editor()
        super().interact(banner, exitmsg)

    def read(self) -> None:
        """Takes commands from the standard input, until it ends or one fails."""
        for line in sys.stdin:
            self.push(line.removesuffix("\n"))
        # A block ends with an empty line, and with the input.
        if self.buffer:
            self.push("")
        if self.buffer:
            raise SyntaxError("the last command is not complete")

    def runsource(self, source: str, filename: str | None = None, symbol: str = "single") -> bool:
        """Runs a command, if it is complete; tells whether there must be more."""
        # A name for each, so that tracebacks show the right lines.
        name = f"<input {self._count + 1}>"
        try:
            compiled = self.compile(source, name, symbol)
        except (OverflowError, SyntaxError, ValueError) as error:
            self._session.failed(error)
            return False
        if compiled is None:
            return True
        if source.strip():
            self._count += 1
            show_lines_of(source, name)
            if self._session.is_terminal:
                self._session.history.add(source)
            self.runcode(compiled)
        return False

    def runcode(self, code: CodeType) -> None:
        try:
            with self._session.command():
                exec(code, self.locals)
        except BaseException as error:
            self._session.failed(error)

    def _prepare_line_editor(self) -> None:
        try:
            import readline
            import rlcompleter
        except ImportError:
            # A Python without the library has a plain prompt.
            return
        readline.set_completer(rlcompleter.Completer(self.locals).complete)
        is_libedit = "libedit" in (readline.__doc__ or "")
        readline.parse_and_bind("bind ^I rl_complete" if is_libedit else "tab: complete")
        for command in self._session.history.read():
            for line in command.splitlines():
                readline.add_history(line)


_modes: list[Any] = []


@contextmanager
def kept_terminal() -> Iterator[None]:
    """Gives the terminal its mode back, whatever happens inside."""
    try:
        _modes.append(termios.tcgetattr(0))
    except termios.error:
        yield
        return
    try:
        yield
    finally:
        restore_terminal()
        _modes.pop()


def restore_terminal() -> None:
    """Gives the terminal back the mode that it had before the session."""
    for mode in _modes[:1]:
        try:
            termios.tcsetattr(0, termios.TCSANOW, mode)
        except termios.error:
            # It is gone.
            pass
