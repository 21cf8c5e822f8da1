"""The session's prompt where IPython is installed: IPython itself, in ptpython's face where that is there too."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .errors import GlobalTimeout
from .telling import say

if TYPE_CHECKING:
    from .interactive import Session


def ipython(session: Session) -> Callable[[], None] | None:
    """What takes commands to their end; None when IPython is not installed."""
    try:
        from IPython.terminal.interactiveshell import TerminalInteractiveShell
        from traitlets.config import Config
    except ImportError:
        return None
    config = Config()
    # The commands are in the session's own file.
    config.HistoryManager.hist_file = ":memory:"
    shell = _shell(TerminalInteractiveShell, session, config)
    _connect(shell, session)

    def loop() -> None:
        say(session.banner())
        # The class's own: ptpython's expects to be inside some function of the user's.
        mainloop: Any = TerminalInteractiveShell.mainloop
        mainloop(shell)

    return loop


def _shell(plain: Any, session: Session, config: Any) -> Any:
    path = str(session.history.path)
    try:
        from ptpython.ipython import InteractiveShellEmbed
    except ImportError:
        shell = plain.instance(user_ns=session.names, config=config)
        from prompt_toolkit.history import FileHistory

        shell.pt_app.history = shell.pt_app.default_buffer.history = FileHistory(path)
        shell.confirm_exit = False
        return shell
    return InteractiveShellEmbed.instance(
        user_ns=session.names, config=config, history_filename=path, title="Snowboot",
        # Ctrl-D ends the session without a question, as everywhere else.
        configure=lambda face: setattr(face, "confirm_exit", False))


def _connect(shell: Any, session: Session) -> None:
    """Has the session show errors, and console lines only while a command runs."""
    running: list[Any] = []

    def begin(*_: object) -> None:
        running.append(session.command())
        running[-1].__enter__()

    def end(*_: object) -> None:
        while running:
            running.pop().__exit__(None, None, None)

    def failed(shell: Any, _kind: Any, error: BaseException, _trace: Any, **_: Any) -> None:
        if isinstance(error, GlobalTimeout):
            # What is raised here would be shown and go no further.
            session.ended = error
            shell.ask_exit()
            return
        session.failed(error)

    shell.events.register("pre_run_cell", begin)
    shell.events.register("post_run_cell", end)
    shell.set_custom_exc((BaseException,), failed)
