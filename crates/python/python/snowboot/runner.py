"""Runs one test: `python3 -m snowboot.runner MANIFEST`; `snowboot test` is this with checks before it.

Exit status: 0 when the script ran to its end, 1 when a check failed or a machine or the script is in trouble, 2 for a
wrong command line, 129 after SIGHUP, 130 after Ctrl-C, 143 after SIGTERM or when the global time limit was over, and
what the script gives to `sys.exit`.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from . import __version__, check
from .driver import Driver
from .ending import Ending, Watchdog, briefly
from .errors import GlobalTimeout, MachineError, ManifestError, TestScriptError
from .report import ReportError, ReportFile
from .reports import Reports, add_options
from .script import starts_machines
from .source import NotStarted, Script
from .telling import error_lines, exit_status, leave_fork, say, script_frames, script_trace, traceback_lines

if TYPE_CHECKING:
    import traceback

    from .interactive import Session

MIB = 1 << 20
# Seconds that a run may take to end in order once it was told to end.
GRACE = 10.0
# The same after the script's own end, when nobody is in a hurry: on a busy host many machines take their time.
TEARDOWN = 60.0
# How long after the global time limit the driver itself may take to say so.
SLACK = 1.0
# Seconds that checks may take without a word.
SILENCE = 2.0
# File descriptors that a run may have. A machine takes about 50, and the usual limit is 1024.
FILES = 65536


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the test that the command line names; gives the exit status."""
    return start(_parser().parse_args(arguments))


def start(options: argparse.Namespace) -> int:
    """Runs the test that the options describe; gives the exit status."""
    _allow_files()
    if hasattr(sys.stdout, "reconfigure"):
        # What a script prints is to be seen when it is printed, through a pipe too.
        sys.stdout.reconfigure(line_buffering=True)
    try:
        report = None if options.json_report is None else ReportFile(options.json_report)
        reports = Reports(options)
    except ReportError as error:
        say(f"snowboot: error: {error}")
        return 1
    return Run(options, report, reports).run()


def _allow_files() -> None:
    """Raises the limit of open files as far as it may be raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _parser() -> argparse.ArgumentParser:
    # Of a certain width: to ask the terminal for its own, argparse loads much that no other part of a run needs.
    shape = partial(argparse.HelpFormatter, width=100)
    parser = argparse.ArgumentParser(
        prog="snowboot.runner", description="Run the test of a manifest.", formatter_class=shape)
    parser.add_argument("manifest", type=Path, help="the test's description, TOML or JSON")
    parser.add_argument("-o", "--output-directory", "--output_directory", type=Path, default=Path("."),
                        metavar="DIR", help="the script's `driver.out_dir` (default: here)")
    parser.add_argument("-I", "--interactive", action="store_true",
                        help="take commands from the terminal or a pipe in the place of the script")
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing unless something fails")
    parser.add_argument("--json-report", type=Path, metavar="FILE", help="write the result as JSON")
    parser.add_argument("--seed", type=int, metavar="N",
                        help="draw the chance of faults from this number, as in a run that had it")
    check.add_options(parser)
    parser.add_argument("--debug-hook-attach", metavar="CMD", help=argparse.SUPPRESS)
    add_options(parser)
    return parser


class Run:
    """One run and what comes of it.

    It has three phases. While the script runs, a signal raises there. While machines are taken down (`closing`), one
    only sets a limit to that. Then there is a report (`finished`), and only the interpreter is left to end. A run that
    was told to end and does not, whatever its script or a machine does, is ended by the watchdog.
    """

    def __init__(self, options: argparse.Namespace, report: ReportFile | None, reports: Reports) -> None:
        self.options = options
        self.report = report
        self.reports = reports
        self.publishing = threading.Lock()
        self.published = False
        self.pid = os.getpid()
        self.began = time.monotonic()
        self.driver: Driver | None = None
        self.script = ""
        self.session: Session | None = None
        self.ending: Ending | None = None
        self.closing = False
        self.finished = False
        self.interrupts = 0
        self.status: int | None = None
        self.error: dict[str, Any] | None = None
        self.facts: dict[str, Any] | None = None
        self.watchdog = Watchdog(self._expired)

    def run(self) -> int:
        self._catch_signals()
        error: BaseException | None = None
        try:
            self._run_script()
        except BaseException as caught:
            error = caught
        finally:
            # No call stands before this one, so no signal can come between: they are handled at calls.
            self.closing = True
        if os.getpid() != self.pid:
            leave_fork(error)
        if self.ending is None:
            self.watchdog.set(TEARDOWN)
        try:
            self._judge(error)
            self._take_down()
        finally:
            self._publish()
        self._say_result()
        # Python waits for the script's threads now; nobody has to.
        self.finished = True
        self.watchdog.set(GRACE)
        return 1 if self.status is None else self.status

    # The script

    def _run_script(self) -> None:
        driver = self.driver = self.make_driver()
        if self.options.interactive:
            from .interactive import Session

            # The time of those who type is not the test's.
            driver.stop_timer()
            self.session = Session(driver, self._time_limit)
            self.session.run()
            return
        script = Script.of(driver)
        self.script = script.name
        self.check(driver, script)
        self.watchdog.set(driver.global_timeout + SLACK)
        driver.start_timer()
        driver.logger.info(f"running test {driver.name}: it ends after {driver.global_timeout} s at the latest")
        script.show_lines_of_this()
        if self.options.pcap is not None:
            driver.capture_all(driver.out_dir / self.options.pcap)
        if not starts_machines(script.parse(), driver.variables):
            driver.start_together()
        try:
            script.run(driver.namespace())
        except Exception as error:
            if os.getpid() == self.pid:
                driver.debug.failed(error.with_traceback(script_trace(error, self._is_script)))
            raise
        driver.logger.info("the test script is finished")

    def check(self, driver: Driver, script: Script) -> None:
        """Checks the script before anything starts. It is not the test's time that this takes."""
        driver.stop_timer()
        note = threading.Timer(SILENCE, lambda: driver.logger.info("checking the test script"))
        note.daemon = True
        note.start()
        try:
            outcomes = check.check_script(driver, script, self.options)
        finally:
            note.cancel()
        # What is no Python says so itself, as it runs.
        found = [outcome for outcome in outcomes if outcome.name != "syntax"]
        for outcome in found:
            if outcome.trouble:
                driver.logger.warning(f"the check of {outcome.name} could not be made: {outcome.trouble}")
        if lines := check.refused(found):
            say(*lines[:-1])
            raise NotStarted(lines[-1])

    @contextmanager
    def _time_limit(self) -> Iterator[None]:
        """The global time limit, for a part of a session."""
        assert self.driver is not None
        self.driver.start_timer()
        self.watchdog.set(self.driver.global_timeout + SLACK)
        try:
            yield
        finally:
            if os.getpid() == self.pid:
                self.driver.stop_timer()
                if self.ending is None:
                    self.watchdog.set(math.inf)

    def make_driver(self) -> Driver:
        folder = self.options.output_directory
        if not folder.is_dir():
            raise NotStarted(f"The output folder {folder} is not a folder: make it, or name another one with -o")
        try:
            return Driver(
                self.options.manifest,
                out_dir=folder.resolve(),
                kvm_device=os.environ.get("SNOWBOOT_KVM_DEVICE") or "/dev/kvm",
                log_level=self.options.log_level,
                log_times=self.options.log_times,
                quiet=self.options.quiet,
                reports=self.reports.native,
                on_global_timeout=self._on_global_timeout,
                debug_attach=self.options.debug_hook_attach,
                seed=getattr(self.options, "seed", None),
            )
        except (MachineError, ManifestError) as error:
            raise NotStarted(str(error)) from error

    # Ends from outside

    def _catch_signals(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # Those that whoever started us wants ignored (nohup) stay so.
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self.pid:
            # In a process that the script forked signals do what they always do.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if number == signal.SIGINT and self.session and self.session.is_terminal and not self.closing:
            # That ends a command and nothing else.
            raise KeyboardInterrupt
        self.interrupts += number == signal.SIGINT
        if self.finished or self.interrupts > 1:
            self.watchdog.shorten(0)
        self._end(Ending.by_signal(number))
        if self.closing or self.ending is None:
            return
        # Again and again, where the script goes on.
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.ending.kind == "GlobalTimeout":
            raise GlobalTimeout(self.ending.message)
        sys.exit(128 + number)

    def _on_global_timeout(self) -> None:
        """On a thread of the driver's or the watchdog's."""
        if self.driver is not None:
            self._end(Ending.by_time(self.driver.global_timeout))
        main = threading.main_thread().ident
        # A handler of the script's own, or none, is not to be called: the watchdog ends such a script.
        if not self.closing and main is not None and signal.getsignal(signal.SIGTERM) == self._on_signal:
            signal.pthread_kill(main, signal.SIGTERM)

    def _end(self, ending: Ending) -> None:
        """Notes the first reason to end, and that the end must be near."""
        if self.ending is None and not self.closing:
            self.ending = ending
        self.watchdog.shorten(GRACE)

    def _expired(self) -> None:
        """The watchdog's limit is over."""
        if self.ending is not None or self.closing:
            self._abandon()
        elif self.driver is not None and self.driver.is_limited:
            # The driver has not said so itself: stopping a machine takes long.
            self._on_global_timeout()

    def _abandon(self) -> NoReturn:
        """Ends the process whatever its threads do. The machines are in it and end with it."""
        status = self.status or (self.ending.status if self.ending else 1)
        message = "the test did not end in order, so everything was ended"
        if self.finished:
            status = self.status or 0
            message = "threads of the script still ran after its end and were ended"
        try:
            if self.error is None and status:
                ending = self.ending or Ending(status, "Abandoned", message)
                self.error = {"type": ending.kind, "message": ending.message}
                briefly(lambda: say(ending.told))
            self.status = status
            if self.session is not None:
                briefly(self.session.restore_terminal)
            briefly(lambda: say(f"snowboot: {message}"))
            briefly(self._publish, 3.0)
            briefly(sys.stdout.flush)
        finally:
            os._exit(status)

    # What came of it

    def _judge(self, error: BaseException | None) -> None:
        """Says how the script ended, and notes status and error."""
        if self.driver is not None:
            self.driver.flush()
            # Also where the script caught what told it so.
            if self.driver.timed_out and self.ending is None:
                self.ending = Ending.by_time(self.driver.global_timeout)
                self.watchdog.shorten(GRACE)
        if self.ending is None and isinstance(error, KeyboardInterrupt):
            self.ending = Ending.by_signal(signal.SIGINT)
        if self.ending is not None:
            self._tell_ending(self.ending, error)
        elif error is None:
            self.status = 0
            self.reports.script_ended(self.driver, None)
        elif isinstance(error, NotStarted):
            self.status, self.error = 1, {"type": "NotStarted", "message": str(error)}
            say(f"snowboot: error: {error}")
        elif isinstance(error, SystemExit):
            self.status = exit_status(error)
            if self.status:
                message = f"the script ended with status {self.status}"
                self.error = {"type": "SystemExit", "message": message}
            self.reports.script_ended(self.driver, self.error)
        else:
            self._tell(error)

    def _tell_ending(self, ending: Ending, error: BaseException | None) -> None:
        frames = script_frames(error, self._is_script)
        self.status = ending.status
        self.error = {"type": ending.kind, "message": ending.message, **self._place(frames, error)}
        self.reports.script_ended(self.driver, self.error)
        # After the terminal's `^C`.
        blank = [""] if ending.status == 128 + signal.SIGINT and sys.stderr.isatty() else []
        say(*blank, *traceback_lines(frames), ending.told)

    def _tell(self, error: BaseException) -> None:
        """Shows what failed: the script's lines that led there, and all that the error knows."""
        frames = script_frames(error, self._is_script)
        self.status = 1
        self.error = {"type": type(error).__name__, "message": str(error), **self._place(frames, error)}
        if isinstance(error, TestScriptError):
            parts = ("machine", "command", "status", "output", "console")
            self.error.update({part: getattr(error, part) for part in parts})
        self.reports.script_ended(self.driver, self.error)
        say(*error_lines(error, self._is_script))

    def _is_script(self, file: str) -> bool:
        """Whether a file of a traceback is the test's own."""
        return self.session.is_script(file) if self.session else file == self.script

    def _place(self, frames: list[traceback.FrameSummary], error: BaseException | None) -> dict[str, Any]:
        """Where it was, for the report. An error of syntax has no frame, but knows its line."""
        return {
            "file": self.script,
            "line": frames[-1].lineno if frames else getattr(error, "lineno", None),
            "source": frames[-1].line if frames else getattr(error, "text", None),
        }

    # The end

    def _take_down(self) -> None:
        if self.driver is None:
            return
        if self.status and self.options.pcap is None and (self.ending is None or self.ending.kind == "GlobalTimeout"):
            self._save_last_frames(self.driver)
        # While the machines are there: afterwards there is no memory of theirs to be told of.
        memory = self.driver.report().get("memory")
        self._log_memory(self.driver, memory)
        self.driver.finish()
        self.facts = self.driver.report() | {"memory": memory}

    def _save_last_frames(self, driver: Driver) -> None:
        try:
            for path in driver.save_last_frames():
                driver.logger.info(f"the last frames are in {path}")
        except TestScriptError as error:
            # What made the test fail is what matters.
            driver.logger.warning(f"the last frames of the networks are lost: {error}")

    def _log_memory(self, driver: Driver, memory: dict[str, int] | None) -> None:
        if memory and memory["machines"]:
            driver.logger.info(
                "memory: the VMM adds {:.1f} MiB to each of {} running machines "
                "(process {:.1f} MiB, of it guest memory {:.1f} MiB, before the machines {:.1f} MiB)".format(
                    memory["overhead_per_machine"] / MIB, memory["machines"],
                    memory["resident"] / MIB, memory["guest"] / MIB, memory["base"] / MIB))

    def _publish(self) -> None:
        """Writes the reports, once; the main thread and the watchdog may both want to."""
        if not self.publishing.acquire(timeout=2.0):
            return
        try:
            if not self.published:
                self.published = True
                status = 1 if self.status is None else self.status
                for trouble in self.reports.run_ended(self.driver, status, self.error):
                    say(f"snowboot: error: {trouble}")
                    self.status = self.status or 1
                if self.report is not None:
                    self.report.write(self._whole_report())
        except ReportError as error:
            say(f"snowboot: error: {error}")
            self.status = self.status or 1
        finally:
            self.publishing.release()

    def _whole_report(self) -> dict[str, Any]:
        driver = self.driver
        # A driver that is stuck cannot tell anything.
        facts = self.facts or (driver and briefly(driver.report)) or {"machines": [], "memory": None, "topology": None, "seed": None}
        status = 1 if self.status is None else self.status
        return {"name": driver and driver.name} | facts | {
            "seconds": time.monotonic() - self.began,
            "passed": status == 0,
            "exit_status": status,
            "error": self.error,
            "version": __version__,
        }

    def _say_result(self) -> None:
        """The last line: what failed stands above everything about the machines' end."""
        # Without a script there was no test: the error says so.
        if self.status and self.driver is not None and self.driver.is_seed_used:
            seed = self.driver.seed
            say(f"snowboot: its faults were drawn from the seed {seed}: run it with --seed {seed} to have the same ones again")
        if self.driver is not None and self.script and not self.options.quiet:
            by_signal = self.ending is not None and self.ending.kind != "GlobalTimeout"
            result = "passed in" if self.status == 0 else "ended after" if by_signal else "failed after"
            say(f"test {self.driver.name} {result} {time.monotonic() - self.began:.2f} s")


if __name__ == "__main__":
    sys.exit(main())
