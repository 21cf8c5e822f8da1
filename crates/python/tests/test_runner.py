"""Whole runs, as `snowboot test` makes them: output, exit status, report, and what is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import unittest
from pathlib import Path

from support import Scratch, manifest


class Good(Scratch):
    def test_a_script_passes(self) -> None:
        report = self.folder / "report.json"
        run = self.run_script(
            "with subtest('one'):\n    machine.succeed('echo hi')\nmachine.log('a line')\nt.assertEqual(1, 1)\n",
            "--json-report", report)
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertEqual(run.stdout, "")
        for line in ("subtest: one", "machine: must succeed: echo hi", "machine: a line", "test example passed in"):
            self.assertIn(line, run.stderr)
        result = json.loads(report.read_text())
        self.assertTrue(result["passed"])
        self.assertEqual((result["exit_status"], result["error"]), (0, None))
        self.assertEqual(result["machines"][0]["starts"], 1)
        self.assertIsNotNone(result["machines"][0]["shell_seconds"])

    def test_quiet_says_nothing(self) -> None:
        run = self.run_script("machine.succeed('true')\n", "--quiet")
        self.assertEqual((run.returncode, run.stderr, run.stdout), (0, "", ""))

    def test_a_script_that_starts_nothing_finds_all_machines_up(self) -> None:
        script = "a.succeed('true')\nassert b.is_up()\n"
        run = self.run_script(script, machines={"a": "", "b": ""})
        self.assertEqual(run.returncode, 0, run.stderr)

    def test_a_script_that_starts_machines_decides_itself(self) -> None:
        script = "a.start()\na.succeed('true')\nassert not b.booted\nb.start()\nassert b.booted\n"
        run = self.run_script(script, machines={"a": "", "b": ""})
        self.assertEqual(run.returncode, 0, run.stderr)

    def test_a_script_may_be_a_file_beside_its_manifest(self) -> None:
        self.write("machine.fail('false')\n", "my.py")
        text = manifest("").replace("test-script = '''\n'''", "script = 'my.py'")
        path = self.write(text)
        run = subprocess.run(self.runner(path), env=self.environment(), cwd="/", capture_output=True, timeout=60)
        self.assertEqual(run.returncode, 0, run.stderr)


class Bad(Scratch):
    def test_a_failed_check_shows_line_command_status_and_output(self) -> None:
        report = self.folder / "report.json"
        run = self.run_script(
            "machine.succeed('true')\n\ndef check():\n    machine.succeed('echo some output; exit 7')\n\ncheck()\n",
            "--json-report", report)
        self.assertEqual(run.returncode, 1, run.stderr)
        for text in (
            'File "<test script>", line 6, in <module>\n    check()',
            "line 4, in check\n    machine.succeed('echo some output; exit 7')",
            "!!! RequestedAssertionFailed: machine: command `echo some output; exit 7` failed (exit code 7)",
            "output:\n    some output",
        ):
            self.assertIn(text, run.stderr)
        self.assertNotIn("snowboot/", run.stderr.split("Traceback")[1])
        error = json.loads(report.read_text())["error"]
        self.assertEqual((error["line"], error["status"], error["machine"]), (4, 7, "machine"))
        self.assertEqual(error["source"], "machine.succeed('echo some output; exit 7')")

    def test_the_last_console_lines_are_shown(self) -> None:
        run = self.run_script("machine.start()\nmachine.send_console('kernel: boom\\n')\nmachine.fail('true')\n")
        self.assertEqual(run.returncode, 1)
        self.assertRegex(run.stderr, r"last console lines .*:\n    kernel: boom\n")

    def test_plain_python_errors_have_a_plain_traceback(self) -> None:
        run = self.run_script("x = 1\nprint(y)\n")
        self.assertEqual(run.returncode, 1)
        self.assertIn('File "<test script>", line 2', run.stderr)
        self.assertIn("NameError: name 'y' is not defined", run.stderr)
        self.assertNotIn("runner.py", run.stderr)

    def test_a_syntax_error_names_its_line(self) -> None:
        run = self.run_script("a = 1\nif a\n    b = 2\n")
        self.assertEqual(run.returncode, 1)
        self.assertIn('File "<test script>", line 2', run.stderr)
        self.assertIn("SyntaxError", run.stderr)

    def test_a_failed_assertion_of_t_is_a_failed_check(self) -> None:
        run = self.run_script("t.assertEqual(1, 2)\n")
        self.assertEqual(run.returncode, 1)
        self.assertIn("RequestedAssertionFailed: 1 != 2", run.stderr)

    def test_log_error_ends_the_run(self) -> None:
        run = self.run_script("log.error('enough')\nprint('not reached')\n")
        self.assertEqual((run.returncode, run.stdout), (1, ""))
        self.assertIn("!!! enough", run.stderr)

    def test_exit_statuses_of_scripts_are_kept(self) -> None:
        self.assertEqual(self.run_script("import sys\nsys.exit(5)\n").returncode, 5)
        self.assertEqual(self.run_script("import sys\nsys.exit()\n").returncode, 0)

    def test_bad_input_is_one_line(self) -> None:
        for text, expected in (
            ("name = 'x'\nscrpt = 'y'\n", "test.toml:2:1: unknown key `scrpt`: did you mean `script`?"),
            (manifest("").replace("test-script = '''\n'''", "script = 'gone.py'"), "Cannot read the test script"),
        ):
            run = subprocess.run(
                self.runner(self.write(text)), env=self.environment(), capture_output=True, text=True, timeout=60)
            self.assertEqual(run.returncode, 1)
            self.assertTrue(run.stderr.startswith("snowboot: error: "), run.stderr)
            self.assertIn(expected, run.stderr)
            self.assertEqual(run.stderr.count("\n"), 1, run.stderr)

    def test_a_wrong_output_folder_is_an_error_before_anything_runs(self) -> None:
        path = self.write(manifest(""))
        run = subprocess.run(
            self.runner(path, "-o", self.folder / "no"), env=self.environment(), capture_output=True, timeout=60)
        self.assertEqual(run.returncode, 1)
        self.assertIn(b"is not a folder", run.stderr)


class Ended(Scratch):
    """Runs that are ended from outside."""

    def start(self, script: str, timeout: int = 120) -> tuple[subprocess.Popen[str], Path]:
        mark = self.folder / "mark"
        temporary = self.folder / "tmp"
        temporary.mkdir()
        path = self.write(manifest(f"machine.succeed('touch {mark}')\n{script}", timeout=timeout))
        process = subprocess.Popen(
            self.runner(path, "-o", self.folder, "--json-report", self.folder / "report.json"),
            env={**self.environment(), "TMPDIR": str(temporary)}, stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.kill)
        deadline = time.monotonic() + 60
        while not mark.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        self.assertTrue(mark.exists())
        return process, temporary

    def check_ended(self, process: subprocess.Popen[str], temporary: Path, status: int) -> str:
        _, stderr = process.communicate(timeout=60)
        self.assertEqual(process.returncode, status, stderr)
        self.assertEqual(list(temporary.iterdir()), [])
        self.assertEqual(_shells_of(self.folder), [])
        self.assertEqual(json.loads((self.folder / "report.json").read_text())["exit_status"], status)
        return stderr

    def test_by_ctrl_c(self) -> None:
        process, temporary = self.start(f"machine.succeed('cd {self.folder}; sleep 100')\n")
        process.send_signal(signal.SIGINT)
        self.assertIn("interrupted", self.check_ended(process, temporary, 130))

    def test_by_sigterm(self) -> None:
        process, temporary = self.start(f"machine.succeed('cd {self.folder}; sleep 100')\n")
        process.send_signal(signal.SIGTERM)
        self.check_ended(process, temporary, 143)

    def test_by_sigterm_in_plain_python(self) -> None:
        process, temporary = self.start("import time\ntime.sleep(100)\n")
        process.send_signal(signal.SIGTERM)
        self.check_ended(process, temporary, 143)

    def test_by_the_global_time_limit(self) -> None:
        process, temporary = self.start("import time\ntime.sleep(100)\n", timeout=2)
        stderr = self.check_ended(process, temporary, 143)
        self.assertIn("!!! the test ran into its global time limit of 2 s", stderr)


def _shells_of(folder: Path) -> list[str]:
    """Processes that still work in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(process / "cwd")) == folder:
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found


if __name__ == "__main__":
    unittest.main()
