"""Runs one test: `python3 -m snowboot.runner MANIFEST`; `snowboot test` is this with checks before it.

Exit status: 0 when the script ran to its end, 1 when a check failed or a machine or the script is in trouble, 2 for a
wrong command line, 130 after Ctrl-C, 143 after SIGTERM or when the global time limit was over.
"""

from __future__ import annotations

import argparse
import ast
import json
import linecache
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from . import __version__
from .driver import Driver
from .errors import ManifestError, TestScriptError

MIB = 1 << 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the test that the command line names; gives the exit status."""
    options = _parser().parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)
    run = _Run(options)
    try:
        return run.run()
    except ManifestError as error:
        print(f"snowboot: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="snowboot.runner", description="Run the test of a manifest.")
    parser.add_argument("manifest", type=Path, help="the test's description, TOML or JSON")
    parser.add_argument("-o", "--output-directory", "--output_directory", type=Path, default=Path("."),
                        metavar="DIR", help="where the script's files go (default: here)")
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing unless something fails")
    parser.add_argument("--json-report", type=Path, metavar="FILE", help="write the result as JSON")
    return parser


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    """A signal ends the script the way an exception does, so that everything is taken down in order."""
    sys.exit(128 + number)


class _Run:
    """One run and what came of it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.timed_out = False
        self.error: dict[str, Any] | None = None

    def run(self) -> int:
        if not self.options.output_directory.is_dir():
            print(f"snowboot: error: The output folder {self.options.output_directory} is not a folder: "
                  "make it, or name another one with -o", file=sys.stderr)
            return 1
        began = time.monotonic()
        with Driver(
            self.options.manifest,
            out_dir=self.options.output_directory.resolve(),
            kvm_device=os.environ.get("SNOWBOOT_KVM_DEVICE", "/dev/kvm"),
            log_level="warning" if self.options.quiet else self.options.log_level,
            on_global_timeout=self._on_global_timeout,
        ) as driver:
            if self.options.quiet:
                driver.set_serial(False)
            status = self._run_script(driver)
            memory = driver.report().get("memory")
            self._log_memory(driver, memory)
            driver.finish()
            report = driver.report()
        report["memory"] = memory
        report["seconds"] = time.monotonic() - began
        self._write_report(report, status)
        if status == 0 and not self.options.quiet:
            print(f"test {driver.name} passed in {report['seconds']:.2f} s", file=sys.stderr)
        return status

    def _on_global_timeout(self) -> None:
        self.timed_out = True
        os.kill(os.getpid(), signal.SIGTERM)

    def _run_script(self, driver: Driver) -> int:
        try:
            text, name = driver.script()
        except (OSError, UnicodeDecodeError) as error:
            print(f"snowboot: error: Cannot read the test script: {error}", file=sys.stderr)
            return 1
        # Tracebacks show the lines that ran, whatever becomes of the file.
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        driver.logger.info(f"running test {driver.name}: it ends after {driver.global_timeout} s at the latest")
        try:
            tree = ast.parse(text, name)
            if not _starts_machines(tree):
                driver.start_together()
            exec(compile(tree, name, "exec"), driver.namespace())
        except SystemExit as exit:
            return self._exit_status(driver, exit)
        except KeyboardInterrupt:
            driver.flush()
            print("\nsnowboot: interrupted", file=sys.stderr)
            self.error = {"type": "KeyboardInterrupt", "message": "interrupted"}
            return 128 + signal.SIGINT
        except Exception as error:
            driver.flush()
            self._tell(error, name)
            return 1
        driver.logger.info("the test script is finished")
        return 0

    def _exit_status(self, driver: Driver, exit: SystemExit) -> int:
        driver.flush()
        if self.timed_out:
            message = f"the test ran into its global time limit of {driver.global_timeout} s"
            print(f"!!! {message}", file=sys.stderr)
            self.error = {"type": "GlobalTimeout", "message": message}
            return 128 + signal.SIGTERM
        if exit.code is None or isinstance(exit.code, int):
            status = exit.code or 0
        else:
            print(exit.code, file=sys.stderr)
            status = 1
        if status:
            self.error = {"type": "SystemExit", "message": f"the script ended with status {status}"}
        return status

    def _tell(self, error: Exception, script: str) -> None:
        """Shows what failed: the script's lines that led there, and all that the error knows."""
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == script]
        kind = type(error).__name__
        if isinstance(error, TestScriptError) and frames:
            lines = ["Traceback (most recent call last):"]
            for frame in frames:
                lines.append(f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}')
                lines.append(f"    {frame.line}")
            lines += ["", f"!!! {kind}: {error}"]
            print("\n".join(lines), file=sys.stderr)
        else:
            traceback.print_exception(_without_our_frames(error, script))
        self.error = {
            "type": kind,
            "message": str(error),
            "file": script,
            "line": frames[-1].lineno if frames else getattr(error, "lineno", None),
            "source": frames[-1].line if frames else getattr(error, "text", None),
        }
        if isinstance(error, TestScriptError):
            parts = ("machine", "command", "status", "output", "console")
            self.error.update({part: getattr(error, part) for part in parts})

    def _log_memory(self, driver: Driver, memory: dict[str, int] | None) -> None:
        if memory and memory["machines"]:
            driver.logger.info(
                "memory: the VMM adds {:.1f} MiB to each of {} running machines "
                "(process {:.1f} MiB, of it guest memory {:.1f} MiB, before the machines {:.1f} MiB)".format(
                    memory["overhead_per_machine"] / MIB, memory["machines"],
                    memory["resident"] / MIB, memory["guest"] / MIB, memory["base"] / MIB))

    def _write_report(self, report: dict[str, Any], status: int) -> None:
        path: Path | None = self.options.json_report
        if path is None:
            return
        report |= {"passed": status == 0, "exit_status": status, "error": self.error, "version": __version__}
        _write_whole(path, json.dumps(report, indent=2) + "\n")


def _starts_machines(script: ast.AST) -> bool:
    """Whether a script says itself when machines start. One that does not wants them all, and soon."""
    names = {"start", "start_all", "create_machine"}
    return any(
        (isinstance(node, ast.Name) and node.id in names)
        or (isinstance(node, ast.Attribute) and node.attr in names)
        for node in ast.walk(script)
    )


def _without_our_frames(error: Exception, script: str) -> Exception:
    """The error from the script's first frame on."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != script:
        trace = trace.tb_next
    return error.with_traceback(trace)


def _write_whole(path: Path, text: str) -> None:
    """Writes a file that is there whole or not at all."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(text)
            file.close()
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


if __name__ == "__main__":
    sys.exit(main())
