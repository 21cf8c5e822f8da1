"""Sessions: `snowboot test -I` at a terminal and from a pipe."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import termios
import time
import unittest
from collections.abc import Callable
from pathlib import Path

from support import Scratch, manifest

SCRIPT = "machine.succeed('true')\nfound = 'by the script'\nmachine.succeed('echo output; exit 3')\n"


class Session(Scratch):
    def command(self, script: str = SCRIPT, timeout: int = 120) -> list[str]:
        path = self.write(manifest(script, {"machine": "", "other-one": ""}, timeout))
        return self.runner(path, "-I", "-o", self.folder, "--json-report", self.folder / "report.json")


class Piped(Session):
    def feed(self, commands: str, script: str = SCRIPT, timeout: int = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(script, timeout), input=commands, env=self.environment(), cwd=self.folder, capture_output=True,
            text=True, timeout=60, check=False)

    def test_commands_run_and_machines_are_released(self) -> None:
        run = self.feed("machine.succeed('echo hi')\nfor m in machines:\n    m.start()\n\nother_one.booted")
        self.assertEqual((run.returncode, run.stdout), (0, "'hi\\n'\nTrue\n"), run.stderr)
        self.assertIn("other-one: the machine was stopped by the driver", run.stderr)
        self.assertFalse((self.folder / ".nixos-test-history").exists())

    def test_nothing_starts_by_itself(self) -> None:
        run = self.feed("print([m.booted for m in machines])\n", script="machine.succeed('true')\n")
        self.assertEqual((run.returncode, run.stdout), (0, "[False, False]\n"), run.stderr)

    def test_a_block_at_the_end_needs_no_empty_line(self) -> None:
        run = self.feed("if True:\n    print('here')")
        self.assertEqual((run.returncode, run.stdout), (0, "here\n"), run.stderr)

    def test_the_first_error_ends_it_with_the_lines_that_led_there(self) -> None:
        run = self.feed("test_script()\nprint('not reached')\n")
        self.assertEqual((run.returncode, run.stdout), (1, ""))
        self.assertIn(
            'File "<input 1>", line 1, in <module>\n    test_script()\n'
            '  File "<test script>", line 3, in <module>\n    machine.succeed(', run.stderr)
        self.assertIn("!!! RequestedAssertionFailed: machine: command `echo output; exit 3` failed", run.stderr)
        self.assertNotIn("snowboot/", run.stderr)

    def test_what_is_no_python_ends_it(self) -> None:
        for commands in ("if x\nprint(1)\n", "print((1,\n"):
            run = self.feed(commands)
            self.assertEqual((run.returncode, run.stdout), (1, ""))
            self.assertIn("SyntaxError", run.stderr)

    def test_statuses_of_sys_exit_are_kept(self) -> None:
        self.assertEqual(self.feed("import sys\nsys.exit(7)\n").returncode, 7)
        self.assertEqual(self.feed("exit()\nprint(1)\n").stdout, "")
        self.assertEqual(self.feed("test_script()\nprint(1)\n", script="import sys\nsys.exit(5)\n").returncode, 5)

    def test_deprecation_warnings_are_on(self) -> None:
        run = self.feed("import warnings\ndef f(): warnings.warn('old', DeprecationWarning, 2)\n\nf()\n")
        self.assertIn("DeprecationWarning: old", run.stderr)

    def test_the_time_limit_counts_in_run_tests_only(self) -> None:
        wait = "import time\ntime.sleep(1.5)\n"
        run = self.feed(wait + "run_tests()\n" + wait + "machine.succeed('echo up')\n", script="1\n", timeout=1)
        self.assertEqual((run.returncode, run.stdout), (0, "'up\\n'\n"), run.stderr)
        run = self.feed("run_tests()\n", script="machine.succeed('sleep 60')\n", timeout=1)
        self.assertEqual(run.returncode, 143, run.stderr)
        self.assertIn("!!! the test ran into its global time limit of 1 s", run.stderr)


class Terminal(Session):
    """With Python's own prompt: there is no IPython for these."""

    def setUp(self) -> None:
        super().setUp()
        (self.folder / "hidden").mkdir()
        self.write("raise ImportError('not for this test')\n", "hidden/IPython.py")
        self.text = ""

    def start(self, script: str = SCRIPT, timeout: int = 120) -> None:
        master, slave = pty.openpty()
        self.master = master
        self.addCleanup(os.close, master)
        self.slave = slave
        self.addCleanup(os.close, slave)
        # Wide enough for every command: a line editor moves long ones to and fro.
        termios.tcsetwinsize(slave, (50, 300))
        self.mode = termios.tcgetattr(slave)
        path = os.pathsep.join([str(self.folder / "hidden"), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            self.command(script, timeout), stdin=slave, stdout=slave, stderr=slave, cwd=self.folder,
            env={**self.environment(), "PYTHONPATH": path, "TERM": "dumb"}, preexec_fn=_own_terminal)
        self.addCleanup(self.process.wait)
        self.addCleanup(self.process.kill)
        self.expect(">>> ")

    def expect(self, pattern: str, again: Callable[[], object] = lambda: None) -> str:
        """Waits for output that matches, and takes it. `again` is called every two seconds without any: Python misses a
        signal that comes just before it waits for a key, until there is another."""
        deadline = time.monotonic() + 60
        while (found := re.search(pattern, self.text)) is None:
            left = deadline - time.monotonic()
            if left > 0 and not select.select([self.master], [], [], min(left, 2))[0]:
                again()
                continue
            if left <= 0 or not select.select([self.master], [], [], left)[0]:
                self.fail(f"no {pattern!r} in {self.text!r}")
            try:
                self.text += os.read(self.master, 4096).decode(errors="replace").replace("\r", "")
            except OSError:
                self.fail(f"no {pattern!r} before the end: {self.text!r}")
        seen, self.text = self.text[: found.end()], self.text[found.end():]
        return seen

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def enter(self, command: str) -> str:
        """Types a command and waits for the next prompt."""
        self.type(command + "\n")
        self.expect(re.escape(command))
        return self.expect(r"\n>>> ")

    def end(self, keys: str = "\x04") -> str:
        self.type(keys)
        text = self.text
        deadline = time.monotonic() + 60
        with contextlib.suppress(OSError):
            while self.process.poll() is None or select.select([self.master], [], [], 0.1)[0]:
                self.assertLess(time.monotonic(), deadline, text)
                if select.select([self.master], [], [], 0.1)[0]:
                    text += os.read(self.master, 4096).decode(errors="replace").replace("\r", "")
        self.assertEqual(termios.tcgetattr(self.slave), self.mode)
        return text

    def test_the_banner_names_machines_and_what_to_type(self) -> None:
        self.text = ""
        master_text = self.start_text()
        for word in ("machine, other_one", "start_all()", "test_script()", "run_tests()", "Ctrl-C"):
            self.assertIn(word, master_text)
        self.assertIn("other-one: the machine was stopped", self.enter("other_one.start()") + self.end())
        self.assertEqual(self.process.returncode, 0)

    def start_text(self) -> str:
        seen: list[str] = []
        expect = self.expect
        self.expect = lambda pattern: seen.append(expect(pattern)) or seen[-1]  # type: ignore[method-assign,func-returns-value]
        self.start()
        self.expect = expect  # type: ignore[method-assign]
        return "".join(seen)

    def test_errors_are_shown_and_the_session_goes_on_with_the_names_of_the_script(self) -> None:
        self.start()
        shown = self.enter("test_script()")
        self.assertIn('File "<test script>", line 3, in <module>\n    machine.succeed(', shown)
        self.assertIn("!!! RequestedAssertionFailed: machine: command `echo output; exit 3` failed", shown)
        self.assertNotIn("snowboot/", shown)
        self.assertIn("'by the script'", self.enter("found"))
        shown = self.enter("1 / 0")
        self.assertIn('Traceback (most recent call last):\n  File "<input 3>", line 1, in <module>\n    1 / 0', shown)
        self.assertIn("SyntaxError", self.enter("if"))
        self.assertIn("!!! odd", self.enter("log.error('odd')"))
        self.assertIn("'still here\\n'", self.enter("machine.succeed('echo still here')"))
        self.end("exit()\n")
        self.assertEqual(self.process.returncode, 0)

    def test_ctrl_c_ends_a_wait_and_no_machine(self) -> None:
        self.start()
        # A signal of the terminal's would hit the shell in the guest's place before it is a group of its own.
        self.enter("machine.connect()")
        for command in ("machine.wait_for_file('/nonexistent')", "machine.succeed('sleep 1')"):
            for _ in range(2):
                self.type(command + "\n")
                self.expect(r"machine: (waiting for|must succeed)")
                self.type("\x03")
                self.expect("interrupted; the machines go on[^\n]*\n>>> ")
        self.type("half a command\x03")
        self.expect("KeyboardInterrupt\n>>> ", lambda: self.type("\x03"))
        self.assertIn("'hi\\n'", self.enter("machine.succeed('echo hi')"))
        self.end()
        report = json.loads((self.folder / "report.json").read_text())
        self.assertEqual([machine["starts"] for machine in report["machines"]], [1, 0])
        self.assertEqual(self.process.returncode, 0)

    def test_ctrl_c_in_the_script_shows_where_it_was(self) -> None:
        self.start("\nmachine.wait_for_file('/nonexistent')\n")
        self.enter("machine.connect()")
        self.type("test_script()\n")
        self.expect(r"machine: waiting for file")
        self.type("\x03")
        self.assertIn('File "<test script>", line 2, in <module>\n    machine.wait_for_file', self.expect(r"\n>>> "))
        self.end()

    def test_console_lines_show_while_a_command_runs_and_never_at_the_prompt(self) -> None:
        self.start()
        self.enter("machine.start()")
        shown = self.enter("machine.send_console('during\\n'); machine.wait_for_console_text('during')")
        self.assertIn("machine # during\n", shown)
        self.enter("import threading")
        self.enter("threading.Timer(0.5, machine.send_console, ['after\\n']).start()")
        time.sleep(1)
        shown = self.enter("machine.wait_for_console_text('after')")
        self.assertNotIn("# after", shown)
        self.assertIn("'during\\nafter'", self.enter("machine.get_console_log()"))
        self.enter("serial_stdout_off()")
        shown = self.enter("machine.send_console('silent\\n'); machine.wait_for_console_text('silent')")
        self.assertNotIn("# silent", shown)

    def test_commands_are_kept_and_completed(self) -> None:
        self.write("\n# 2026-01-01 00:00:00\n+if True:\n+    print('old')\n", ".nixos-test-history")
        self.start()
        self.enter("machine.booted")
        text = (self.folder / ".nixos-test-history").read_text()
        self.assertRegex(text, r"print\('old'\)\n\n# [^\n]+\n\+machine.booted\n$")
        if _has_readline():
            self.type("machine.wait_until_s\t'exit 0')\n")
            self.expect(r"must|wait")
            self.expect(r"\n>>> ")
            self.assertIn("+machine.wait_until_succeeds('exit 0')\n",
                          (self.folder / ".nixos-test-history").read_text())

    def test_an_exit_of_the_script_is_not_the_session_s(self) -> None:
        self.start("import sys\nsys.exit(5)\n")
        self.assertIn("the script has ended itself: sys.exit(5)", self.enter("test_script()"))
        self.end("import sys; sys.exit(6)\n")
        self.assertEqual(self.process.returncode, 6)

    def test_the_time_limit_ends_the_session(self) -> None:
        self.start("machine.succeed('sleep 60')\n", timeout=1)
        self.assertIn("global time limit of 1 s", self.end("run_tests()\n"))
        self.assertEqual(self.process.returncode, 143)

    def test_sigterm_ends_it_at_the_prompt_and_in_a_command(self) -> None:
        for command in ("", "machine.succeed('sleep 60')\n"):
            self.start()
            self.type(command)
            if command:
                self.expect(r"machine: must succeed")
            def end() -> None:
                self.process.send_signal(signal.SIGTERM)

            end()
            self.expect("terminated by SIGTERM", end)
            self.end("")
            self.assertEqual(self.process.returncode, 143)


def _own_terminal() -> None:
    import fcntl

    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _has_readline() -> bool:
    try:
        import readline  # noqa: F401
    except ImportError:
        return False
    return True


class OldCommands(unittest.TestCase):
    def test_are_read_in_the_form_of_prompt_toolkit(self) -> None:
        import tempfile

        from snowboot.history import History

        with tempfile.TemporaryDirectory() as folder:
            history = History(Path(folder) / "h")
            self.assertEqual(history.read(), [])
            history.add("a")
            history.add("if b:\n    c")
            self.assertEqual(history.read(), ["a", "if b:\n    c"])
            for number in range(1100):
                history.add(str(number))
            self.assertEqual((len(history.read()), history.read()[-1]), (1000, "1099"))
            History(Path("/nonexistent/h")).add("a")


if __name__ == "__main__":
    unittest.main()
