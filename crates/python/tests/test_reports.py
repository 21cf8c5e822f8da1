"""The reports of whole runs, read back."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
import unittest
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from support import Scratch, manifest

# All that can be had.
ALL = ("--junit-xml", "j.xml", "--html", "r.html", "--json-log", "log.jsonl", "--xml-log", "log.xml", "--console-logs")
FILES = ["j.xml", "log.jsonl", "log.xml", "r.html"]


class Reports(Scratch):
    def run_all(
        self, script: str, *options: str, timeout: int = 120, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs a script with reports in the test's folder."""
        out = self.folder / "out"
        out.mkdir(exist_ok=True)
        path = self.write(manifest(script, {"a": "", "b": ""}, timeout))
        command = self.runner(path, "-o", out, *(options or ALL))
        return subprocess.run(
            command, env=self.environment() | (environment or {}), cwd=out, capture_output=True, text=True, timeout=120)

    def text(self, name: str) -> str:
        return (self.folder / "out" / name).read_text()

    def names(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "out").iterdir())

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text("log.jsonl").splitlines()]

    def page(self) -> list[dict[str, Any]]:
        found = re.search(r'<script type="application/json" id="data">(.*?)</script', self.text("r.html"), re.DOTALL)
        assert found
        rows: list[dict[str, Any]] = json.loads(found[1])["rows"]
        return rows

    def cases(self) -> dict[str, str | None]:
        """Names of the cases with the text of their failures."""
        root = ElementTree.fromstring(self.text("j.xml"))
        cases = root.findall("./testsuite[@name='NixOS integration test']/testcase")
        return {case.attrib["name"]: case.findtext("failure") for case in cases}

    def check_end(self, status: int, kind: str | None) -> dict[str, Any]:
        """Every report tells this end; gives the event."""
        end = self.events()[-1]
        self.assertEqual((end["event"], end["status"], end["passed"]), ("run-end", status, status == 0))
        self.assertEqual(end["error"] and end["error"]["type"], kind)
        last = self.page()[-1]
        self.assertEqual((last["event"], last["error"]), ("run-end", end["error"]))
        self.assertEqual(any(self.cases().values()), status != 0)
        self.assertEqual(ElementTree.fromstring(self.text("log.xml")).tag, "logfile")
        return end


class Whole(Reports):
    def test_a_run_that_passes(self) -> None:
        script = (
            "start_all()\na.send_console('[ 0.0] boot\\nhostile </script> \\x1b[31m\\x00 ]]>\\n')\n"
            "with subtest('outer'):\n    a.succeed('true')\n    with subtest('inner'):\n        b.succeed('echo \"<&\"')\n"
            "a.crash()\na.succeed('true')\n"
        )
        run = self.run_all(script)
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertEqual(self.names(), ["a-console.log", "b-console.log", *FILES])
        self.check_end(0, None)
        self.assertEqual(self.cases(), {"main": None, "outer": None, "outer/inner": None})
        events = self.events()
        begin = events[0]
        self.assertEqual((begin["event"], begin["name"], begin["machines"]), ("run-begin", "example", ["a", "b"]))
        lives = [(it["event"], it.get("start"), it.get("outcome")) for it in events if it.get("machine") == "a"
                 and it["event"].startswith("machine-")]
        stopped = ("machine-end", None, "was stopped by the driver")
        shell = [("machine-shell", None, None), ("machine-timeline", None, None)]
        self.assertEqual(
            lives, [("machine-start", 1, None), *shell, stopped, ("machine-start", 2, None), *shell, stopped])
        boots = [it for it in events if it["event"] == "machine-timeline" and it["machine"] == "a"]
        for boot in boots:
            phases = boot["phases"]
            self.assertLess(phases["guest_entered"], phases["shell_ready"])
            self.assertLessEqual(phases["shell_ready"], boot["seconds"])
            self.assertIsNone(phases["first_answer"])
        blocks = {it["id"]: it for it in events if it["event"] == "block-begin"}
        inner = next(it for it in blocks.values() if it["text"] == "inner")
        self.assertEqual((inner["subtest"], blocks[inner["parent"]]["text"]), (True, "outer"))
        self.assertEqual(sorted(blocks), sorted(it["id"] for it in events if it["event"] == "block-end"))
        self.assertEqual(len(self.page()), len(events))
        console = self.text("a-console.log").splitlines()
        self.assertEqual(console[1:3], ["[ 0.0] boot", "hostile </script>  ]]>"])
        self.assertRegex(console[3], r"^\[snowboot: start 2 of a, ")
        serial = ElementTree.fromstring(self.text("log.xml")).findall("line[@type='serial'][@machine='a']")
        self.assertEqual([line.text for line in serial], console[1:3])
        heads = [head.text for head in ElementTree.fromstring(self.text("log.xml")).iter("head")]
        self.assertIn('must succeed: echo "<&"', heads)

    def test_a_run_that_fails_in_a_subtest(self) -> None:
        run = self.run_all(
            "with subtest('good'):\n    pass\nwith subtest('bad'):\n    a.succeed('echo words; exit 7')\n")
        self.assertEqual(run.returncode, 1)
        error = self.check_end(1, "RequestedAssertionFailed")["error"]
        self.assertEqual(
            (error["line"], error["source"], error["machine"], error["command"], error["status"]),
            (4, "a.succeed('echo words; exit 7')", "a", "echo words; exit 7", 7))
        cases = self.cases()
        self.assertEqual((cases["main"], cases["good"]), (None, None))
        self.assertRegex(cases["bad"] or "", r"^test case failed\na: command `.*` failed \(exit code 7\)\noutput:\n")
        kinds = [it["event"] for it in self.events()]
        self.assertLess(kinds.index("script-end"), len(kinds) - 2)

    def test_a_run_that_fails_outside_of_subtests(self) -> None:
        for script, kind in (("with subtest('good'):\n    pass\n1 / 0\n", "ZeroDivisionError"),
                             ("import sys\nwith subtest('good'):\n    pass\nsys.exit(1)\n", "SystemExit")):
            self.assertEqual(self.run_all(script).returncode, 1)
            self.check_end(1, kind)
            self.assertEqual(list(self.cases()), ["main", "good"])
            self.assertIsNone(self.cases()["good"])

    def test_errors_with_attributes_and_texts_of_any_kind(self) -> None:
        for script in ("import json\njson.loads('{')\n", "raise ValueError('\\udcff\\x00')\n",
                       "class E(Exception):\n    lineno = 'x'\n    text = 5\ndef f(): raise E()\nf()\n"):
            self.assertEqual(self.run_all(script).returncode, 1)
            self.assertEqual(self.events()[-1]["event"], "run-end")
            self.assertTrue(self.cases()["main"])

    def test_a_test_that_does_not_start(self) -> None:
        (self.folder / "out").mkdir()
        path = self.write("name = 'x'\nscrpt = 'y'\n")
        run = subprocess.run(self.runner(path, "-o", self.folder / "out", *ALL), env=self.environment(),
                             cwd=self.folder / "out", capture_output=True, text=True, timeout=60)
        self.assertEqual(run.returncode, 1)
        self.assertEqual(self.names(), FILES)
        end = self.check_end(1, "NotStarted")
        self.assertIn("unknown key `scrpt`", end["error"]["message"])
        self.assertIn("unknown key `scrpt`", self.cases()["main"] or "")

    def test_a_machine_that_cannot_be_started(self) -> None:
        out = self.folder / "out"
        out.mkdir()
        path = self.write(manifest("a.start()\n", {"a": "refuse"}))
        run = subprocess.run(self.runner(path, "-o", out, *ALL), env=self.environment(), cwd=out, timeout=60,
                             capture_output=True)
        self.assertEqual(run.returncode, 1)
        self.check_end(1, "MachineError")
        lives = [it.get("outcome") for it in self.events() if it["event"].startswith("machine-")]
        self.assertEqual(lives, [None, "could not be started"])

    def test_a_run_whose_time_is_over(self) -> None:
        run = self.run_all("with subtest('slow'):\n    a.succeed('sleep 100')\n", timeout=2)
        self.assertEqual(run.returncode, 143)
        self.check_end(143, "GlobalTimeout")
        self.assertIn("time limit", self.cases()["slow"] or "")

    def test_a_fork_has_no_part_in_them(self) -> None:
        script = (
            "import sys\nwith subtest('one'):\n    pid = os.fork()\n    if pid == 0:\n        sys.exit(3)\n"
            "    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3\na.succeed('true')\n"
        )
        run = self.run_all(script)
        self.assertEqual(run.returncode, 0, run.stderr)
        self.check_end(0, None)
        self.assertEqual([it["event"] for it in self.events()].count("run-end"), 1)


class Ended(Reports):
    """Runs that are ended from outside."""

    def interrupt(self, script: str, *signals: int, grace: float | None = None) -> int:
        out = self.folder / "out"
        out.mkdir()
        mark = self.folder / "mark"
        path = self.write(manifest(f"with subtest('one'):\n    a.succeed('touch {mark}')\n{script}", {"a": ""}))
        process = subprocess.Popen(self.runner(path, "-o", out, *ALL, grace=grace), env=self.environment(), cwd=out,
                                   stderr=subprocess.DEVNULL)
        self.addCleanup(process.kill)
        deadline = time.monotonic() + 60
        while not mark.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        for number in signals:
            process.send_signal(number)
        return process.wait(60)

    def test_by_ctrl_c(self) -> None:
        self.assertEqual(self.interrupt("    a.succeed('sleep 100')\n", signal.SIGINT), 130)
        self.check_end(130, "KeyboardInterrupt")
        self.assertTrue(self.cases()["one"])

    def test_not_in_order(self) -> None:
        script = "    while True:\n        try:\n            a.succeed('sleep 100')\n        except BaseException:\n" \
            "            pass\n"
        self.assertEqual(self.interrupt(script, signal.SIGTERM, grace=0.5), 143)
        self.check_end(143, "Terminated")
        self.assertIn("terminated by SIGTERM", self.cases()["one"] or "")

    def test_by_a_kill_that_leaves_whole_lines_and_no_partial_file(self) -> None:
        self.assertEqual(self.interrupt("    a.succeed('sleep 100')\n", signal.SIGKILL), -signal.SIGKILL)
        self.assertEqual(self.names(), ["a-console.log", "log.jsonl", "log.xml"])
        self.assertEqual(self.events()[-1]["text"], "must succeed: sleep 100")
        self.assertTrue(self.text("log.xml").endswith("<head machine=\"a\">must succeed: sleep 100</head>\n"))


class Places(Reports):
    def test_names_count_from_where_they_should(self) -> None:
        elsewhere = self.folder / "elsewhere"
        elsewhere.mkdir()
        self.folder.joinpath("out").mkdir()
        path = self.write(manifest("os.chdir('/')\n"))
        # As the NixOS test driver's self-test has it, and with the variable of its builds.
        run = subprocess.run(
            self.runner(path, "-o", "../out", "--junit=j.xml", "--html", "r.html"), cwd=elsewhere, timeout=60,
            env=self.environment() | {"LOGFILE": "log.xml"}, capture_output=True, text=True)
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertEqual(self.names(), ["j.xml"])
        self.assertEqual(sorted(path.name for path in elsewhere.iterdir()), ["log.xml", "r.html"])

    def test_nobody_gets_files_who_did_not_ask(self) -> None:
        run = self.run_all("a.succeed('true')\n", "--log-level", "info", environment={"LOGFILE": "/dev/null"})
        self.assertEqual((run.returncode, self.names()), (0, []))

    def test_what_cannot_be_written_is_told_before_anything_runs(self) -> None:
        for options, words in (
            (("--junit-xml", "none/j.xml"), "Cannot write the JUnit report "),
            (("--html", "."), "Cannot write the HTML report "),
            (("--json-log", "."), "Cannot write the JSON log "),
            (("--xml-log", "none/x"), "Cannot write the XML log "),
            (("--html", "x", "--json-log", "x"), "Two reports are to be written to "),
        ):
            run = self.run_all("print('ran')\n", *options)
            self.assertEqual((run.returncode, run.stdout), (1, ""), run.stderr)
            self.assertRegex(run.stderr, f"^snowboot: error: {words}[^\n]*\n$")

    def test_what_cannot_be_written_later_fails_the_run(self) -> None:
        run = self.run_all("pass\n", "--json-log", "/dev/full")
        self.assertEqual(run.returncode, 1)
        self.assertRegex(run.stderr, "snowboot: error: Cannot write the JSON log /dev/full: No space left")


class Terminal(Reports):
    def test_a_quiet_run_that_fails_shows_what_led_there(self) -> None:
        script = (
            "with subtest('good'):\n    a.succeed('echo before')\nwith subtest('bad'):\n"
            "    a.send_console('from the guest\\n')\n    a.succeed('exit 7')\n"
        )
        run = self.run_all(script, "--quiet")
        self.assertEqual(run.returncode, 1)
        self.assertTrue(run.stderr.startswith("subtest: bad\na # from the guest\n  a: must succeed: exit 7\n"), run.stderr)
        self.assertIn("!!! RequestedAssertionFailed: ", run.stderr)
        for word in ("before", "cleanup", "was stopped"):
            self.assertNotIn(word, run.stderr)

    def test_a_quiet_run_that_passes_is_quiet_about_its_warnings_too(self) -> None:
        run = self.run_all("a.start()\na.send_console('x\\n')\nlog.warning('odd')\na.succeed('true')\n", "--quiet")
        self.assertEqual((run.returncode, run.stderr), (0, ""))

    def test_levels_times_and_colours(self) -> None:
        script = "a.start()\na.send_console('console\\n')\nlog.info('info')\nlog.warning('warning')\n"
        run = self.run_all(script, "--log-level", "warning")
        self.assertRegex(run.stderr, r"^\?\?\? warning\ntest example passed in [\d.]+ s\n$")
        run = self.run_all(script, "--log-times", environment={"NO_COLOR": "", "CLICOLOR_FORCE": "1"})
        self.assertRegex(run.stderr, "\n\x1b\\[2m\\[    \\d\\.\\d\\d\\] \x1b\\[0m\x1b\\[2ma # console\x1b\\[0m\n")


if __name__ == "__main__":
    unittest.main()
