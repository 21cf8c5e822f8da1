"""Whole runs, as `snowboot test` makes them: output, exit status, report, and what is left behind."""

from __future__ import annotations

import json
import os
import resource
import select
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

    def test_a_script_that_starts_nothing_finds_all_machines_started(self) -> None:
        script = "a.succeed('true')\nassert b.booted\n"
        run = self.run_script(script, machines={"a": "", "b": ""})
        self.assertEqual(run.returncode, 0, run.stderr)

    def test_a_script_that_starts_machines_decides_itself(self) -> None:
        script = "a.start()\na.succeed('true')\nassert not b.booted\nb.start()\nassert b.booted\n"
        run = self.run_script(script, machines={"a": "", "b": ""})
        self.assertEqual(run.returncode, 0, run.stderr)

    def test_what_a_script_prints_is_seen_when_it_is_printed(self) -> None:
        path = self.write(manifest("import time\nprint('here')\ntime.sleep(1000)\n"))
        process = subprocess.Popen(
            self.runner(path), env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        assert process.stdout is not None
        self.assertTrue(select.select([process.stdout], [], [], 60)[0])
        self.assertEqual(process.stdout.readline(), b"here\n")

    def test_as_many_files_may_be_open_as_this_user_may_allow(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        ran = self.run_script("import resource\nprint(resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n")
        most = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
        self.assertEqual((ran.returncode, ran.stdout), (0, f"{most}\n"), ran.stderr)

    def test_a_script_has_its_own_future(self) -> None:
        run = self.run_script("def f(x: int) -> None: ...\nassert f.__annotations__['x'] is int\n")
        self.assertEqual(run.returncode, 0, run.stderr)

    def test_a_report_is_where_it_was_asked_for_wherever_the_script_goes(self) -> None:
        path = self.write(manifest("os.chdir('/')\n"))
        command = self.runner(path, "--json-report", "report.json")
        subprocess.run(command, env=self.environment(), cwd=self.folder, timeout=60, check=True, capture_output=True)
        self.assertTrue(json.loads((self.folder / "report.json").read_text())["passed"])

    def test_an_uplink_that_cannot_be_opened_is_told_with_the_reason(self) -> None:
        path = self.write(manifest("start_all()\n") + "[[uplinks]]\nvde = 'refuse'\n")
        run = subprocess.run(
            self.runner(path), env=self.environment(), timeout=60, check=False, capture_output=True, text=True)
        self.assertEqual(run.returncode, 1)
        self.assertEqual(
            run.stderr,
            "snowboot: error: an uplink of the networks cannot be opened\ncaused by: the fake switch refuses\n")

    def test_a_forked_process_ends_alone(self) -> None:
        script = (
            "import signal, sys\n"
            "def status(work):\n"
            "    pid = os.fork()\n"
            "    if pid == 0:\n"
            "        with subtest('forked'):\n"
            "            work()\n"
            "            sys.exit(3)\n"
            "    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\n"
            "machine.succeed('true')\n"
            "assert status(lambda: None) == 3\n"
            "assert status(lambda: driver.finish()) == 3\n"
            "assert status(lambda: os.kill(os.getpid(), signal.SIGTERM)) == -signal.SIGTERM\n"
            "assert status(lambda: machine.succeed('true')) == 1\n"
            "if (pid := os.fork()) != 0:\n"
            "    assert os.waitpid(pid, 0)[1] == 0\n"
            "    machine.succeed('true')\n"
        )
        report = self.folder / "report.json"
        run = self.run_script(script, "--json-report", report)
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn("use a thread instead of os.fork()", run.stderr)
        self.assertEqual(run.stderr.count("test example passed"), 1, run.stderr)
        self.assertTrue(json.loads(report.read_text())["passed"])

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
        self.assertRegex(run.stderr, r"\ntest example failed after \d+\.\d\d s\n$")
        self.assertNotIn("snowboot/", run.stderr.split("Traceback")[1])
        error = json.loads(report.read_text())["error"]
        self.assertEqual((error["line"], error["status"], error["machine"]), (4, 7, "machine"))
        self.assertEqual(error["source"], "machine.succeed('echo some output; exit 7')")

    def test_the_last_console_lines_are_shown(self) -> None:
        run = self.run_script("machine.start()\nmachine.send_console('kernel: boom\\n')\nmachine.fail('true')\n")
        self.assertEqual(run.returncode, 1)
        self.assertRegex(run.stderr, r"last console lines .*:\n    kernel: boom\n")

    def test_plain_python_errors_have_a_plain_traceback(self) -> None:
        run = self.run_script("x = 1\ndel x; print(x)\n")
        self.assertEqual(run.returncode, 1)
        self.assertIn('File "<test script>", line 2', run.stderr)
        self.assertIn("NameError: name 'x' is not defined", run.stderr)
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
        report = self.folder / "report.json"
        for argument, status in (("5", 5), ("", 0), ("256", 1), ("-1", 255), ("True", 1), ("'a reason'", 1)):
            run = self.run_script(f"import sys\nsys.exit({argument})\n", "--json-report", report)
            self.assertEqual(run.returncode, status, argument)
            self.assertEqual(json.loads(report.read_text())["exit_status"], status)
        self.assertIn("a reason\n", run.stderr)

    def test_subtests_tell_the_first_line_of_what_failed_in_them(self) -> None:
        script = "with subtest('a'):\n    with subtest('b'):\n        raise ValueError('first\\nsecond')\n"
        run = self.run_script(script)
        for name in "ab":
            self.assertIn(f'!!! Test "{name}" failed with error: "first"\n', run.stderr)
        self.assertEqual(run.stderr.count("\nsecond\n"), 1, run.stderr)

    def test_what_could_not_be_run_is_reported_in_the_place_of_an_older_report(self) -> None:
        report = self.write("old", "report.json")
        path = self.write("name = 'x'\nscrpt = 'y'\n")
        for manifest, folder, message in (
            (path, ".", "unknown key `scrpt`"), (self.folder / "none", ".", "Cannot read the manifest"),
            (path, "none", "is not a folder"),
        ):
            report.write_text("old")
            command = self.runner(manifest, "-o", folder, "--json-report", report)
            run = subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=60)
            self.assertEqual(run.returncode, 1)
            found = json.loads(report.read_text())
            self.assertIn(message, found["error"]["message"])
            self.assertEqual((found["exit_status"], found["passed"]), (1, False))

    def test_a_report_that_cannot_be_written_is_an_error_before_anything_runs(self) -> None:
        for place in (self.folder / "none" / "report.json", self.folder):
            run = self.run_script("print('ran')\n", "--json-report", place)
            self.assertEqual((run.returncode, run.stdout), (1, ""))
            self.assertRegex(run.stderr, "^snowboot: error: Cannot write the report [^\n]*name another one\n$")

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

    def start(
        self, script: str, timeout: int = 120, grace: float | None = None
    ) -> tuple[subprocess.Popen[str], Path]:
        mark = self.folder / "mark"
        temporary = self.folder / "tmp"
        temporary.mkdir()
        path = self.write(manifest(f"machine.succeed('touch {mark}')\n{script}", timeout=timeout))
        process = subprocess.Popen(
            self.runner(path, "-o", self.folder, "--json-report", self.folder / "report.json", grace=grace),
            env={**self.environment(), "TMPDIR": str(temporary)}, stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.kill)
        self.wait_for(mark)
        return process, temporary

    def wait_for(self, mark: Path) -> None:
        deadline = time.monotonic() + 60
        while not mark.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        self.assertTrue(mark.exists())

    def check_ended(self, process: subprocess.Popen[str], temporary: Path, status: int) -> str:
        _, stderr = process.communicate(timeout=60)
        self.assertEqual(process.returncode, status, stderr)
        self.assertEqual(list(temporary.iterdir()), [])
        self.assertEqual(_shells_of(self.folder), [])
        report = json.loads((self.folder / "report.json").read_text())
        self.assertEqual((report["exit_status"], report["passed"]), (status, status == 0))
        self.error = report["error"]
        return stderr

    def test_by_ctrl_c(self) -> None:
        process, temporary = self.start(f"machine.succeed('cd {self.folder}; sleep 100')\n")
        process.send_signal(signal.SIGINT)
        self.assertIn("interrupted", self.check_ended(process, temporary, 130))

    def test_by_sigterm(self) -> None:
        process, temporary = self.start(f"machine.succeed('cd {self.folder}; sleep 100')\n")
        process.send_signal(signal.SIGTERM)
        self.assertIn("\nsnowboot: terminated by SIGTERM\n", self.check_ended(process, temporary, 143))
        self.assertEqual(self.error["type"], "Terminated")
        # The file is there a moment before the first line is done.
        self.assertIn(self.error["line"], (1, 2))

    def test_by_sighup(self) -> None:
        process, temporary = self.start("import time\ntime.sleep(100)\n")
        process.send_signal(signal.SIGHUP)
        self.assertIn("terminated by SIGHUP", self.check_ended(process, temporary, 129))

    def test_by_sigterm_in_plain_python(self) -> None:
        process, temporary = self.start("import time\ntime.sleep(100)\n")
        process.send_signal(signal.SIGTERM)
        self.check_ended(process, temporary, 143)

    def test_by_the_global_time_limit(self) -> None:
        process, temporary = self.start("import time\ntime.sleep(100)\n", timeout=2)
        stderr = self.check_ended(process, temporary, 143)
        self.assertIn("!!! the test ran into its global time limit of 2 s", stderr)

    def test_by_the_global_time_limit_in_a_call_to_a_machine(self) -> None:
        wait = f"machine.succeed('cd {self.folder}; sleep 100')\n"
        for script in (wait, f"while True:\n    try:\n        {wait}    except Exception:\n        pass\n",
                       f"try:\n    {wait}except:\n    pass\n"):
            process, temporary = self.start(script, timeout=2)
            stderr = self.check_ended(process, temporary, 143)
            self.assertEqual(stderr.count("!!! the test ran into its global time limit of 2 s\n"), 1, stderr)
            self.assertEqual(self.error["type"], "GlobalTimeout")
            (self.folder / "mark").unlink()
            temporary.rmdir()

    STUBBORN = "import time\nwhile True:\n    try:\n        time.sleep(100)\n    except:\n        pass\n"

    def test_although_the_script_goes_on_after_its_time(self) -> None:
        process, temporary = self.start(self.STUBBORN, timeout=2, grace=0.5)
        stderr = self.check_ended(process, temporary, 143)
        self.assertIn("!!! the test ran into its global time limit of 2 s\n", stderr)
        self.assertIn("did not end in order", stderr)

    def test_although_the_script_goes_on_after_a_signal(self) -> None:
        process, temporary = self.start(self.STUBBORN, grace=0.5)
        process.send_signal(signal.SIGTERM)
        self.assertIn("terminated by SIGTERM", self.check_ended(process, temporary, 143))

    def test_by_ctrl_c_twice(self) -> None:
        inside = self.folder / "inside"
        catching = f"open({str(inside)!r}, 'w').close(); time.sleep"
        process, temporary = self.start(self.STUBBORN.replace("time.sleep", catching))
        # Before it is there, a Ctrl-C ends the script as it does any other.
        self.wait_for(inside)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        self.assertIsNone(process.poll())
        process.send_signal(signal.SIGINT)
        self.check_ended(process, temporary, 130)
        self.assertLess(time.monotonic() - began, 8)

    def test_although_a_machine_does_not_stop(self) -> None:
        script = "import time\ndriver.finish = lambda: time.sleep(100)\ntime.sleep(100)\n"
        process, temporary = self.start(script, timeout=2, grace=0.5)
        self.assertIn("did not end in order", self.check_ended(process, temporary, 143))

    def test_although_threads_of_the_script_go_on(self) -> None:
        threads = "import threading, time\nthreading.Thread(target=lambda: time.sleep(100)).start()\n"
        process, temporary = self.start(threads, grace=0.5)
        self.assertIn("threads of the script still ran", self.check_ended(process, temporary, 0))
        (self.folder / "mark").unlink()
        temporary.rmdir()
        process, temporary = self.start(threads + "time.sleep(100)\n", timeout=2, grace=0.5)
        self.check_ended(process, temporary, 143)

    def test_a_signal_while_machines_are_taken_down_changes_nothing(self) -> None:
        script = (
            "import signal, time\nfinish = driver.finish\n"
            "def slowly():\n"
            "    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(0.5)\n    finish()\n"
            "driver.finish = slowly\n"
        )
        process, temporary = self.start(script)
        self.assertIn("test example passed", self.check_ended(process, temporary, 0))

    def test_but_not_by_a_limit_that_join_all_has_lifted(self) -> None:
        script = "import time\nmachine.shutdown()\njoin_all()\ntime.sleep(4)\n"
        process, temporary = self.start(script, timeout=2, grace=0.5)
        self.check_ended(process, temporary, 0)

    def test_in_order_also_when_nobody_reads_what_it_says(self) -> None:
        process, temporary = self.start(f"machine.succeed('cd {self.folder}; sleep 100')\n")
        assert process.stderr is not None
        process.stderr.close()
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(60), 143)
        self.assertEqual(_shells_of(self.folder), [])
        report = json.loads((self.folder / "report.json").read_text())
        self.assertEqual((report["exit_status"], len(report["machines"])), (143, 1))


class Starts(unittest.TestCase):
    """Whether a script starts its machines itself."""

    def check(self, expected: bool, *scripts: str) -> None:
        import ast

        from snowboot.script import starts_machines

        for script in scripts:
            with self.subTest(script):
                self.assertEqual(starts_machines(ast.parse(script), ["web", "db_1"]), expected)

    def test_it_does(self) -> None:
        self.check(
            True, "start_all()", "driver.start_all()", "create_machine('x').start()", "web.start()", "machine.start()",
            "machines[0].start()", "for m in machines: m.start()", "for m in driver.machines: m.start()",
            "for i, m in enumerate(machines): m.start()", "[m.start() for m in sorted(machines[1:])]",
            "for m in [web, db_1]: m.start()", "m = web\nm.start()", "a, b = machines\nb.start()",
            "def f():\n    boot.start()\nboot = machines[0]", "import threading\nthreading.Thread(target=web.start)",
            "driver.machine('web').start()", "nodes = [web]\nfor node in nodes: node.start()",
            "map(Machine.start, machines)",
        )

    def test_it_does_not(self) -> None:
        self.check(
            False, "web.succeed('true')", "import threading\nthreading.Thread(target=print).start()",
            "import re\nmatch = re.search('x', web.succeed('y'))\nmatch.start()",
            "for match in re.finditer('x', machines[0].succeed('y')): match.start()",
            "thread.start()", "start = 1", "web.start_job('x')", "self.start()",
        )


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
