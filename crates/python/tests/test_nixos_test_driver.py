"""The command line of the NixOS test driver."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from xml.etree import ElementTree

from support import Scratch

VARIABLES = ("startScripts", "vlans", "testScript", "globalTimeout", "logLevel", "LOGFILE")


class Entry(Scratch):
    def setUp(self) -> None:
        super().setUp()
        (self.folder / "out").mkdir()
        self.write('kernel = "k"\n', "run-web-vm")
        self.write('{"kernel": "k"}', "db-1.json")
        self.script("web.succeed('echo ran')\nprint(web.name, db_1.name, driver.out_dir.name)\n")
        self.config()

    def script(self, text: str, name: str = "script.py") -> Path:
        return self.write(text, name)

    def config(self, **changes: object) -> Path:
        config = {
            "vms": {"web": {"name": "web", "start_script": str(self.folder / "run-web-vm")},
                    "db-1": {"start_script": "db-1.json"}},
            "containers": {}, "vlans": [1], "global_timeout": 60, "enable_ssh_backdoor": False,
            "test_script": "script.py",
        }
        config.update(changes)
        return self.write(json.dumps(config), "config.json")

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "snowboot.nixos_test_driver", *words]

    def run_entry(
        self, *words: str, status: int = 0, stdin: str | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        base = {name: value for name, value in self.environment().items() if name not in VARIABLES}
        run = subprocess.run(
            self.command(*words), env={**base, **variables}, cwd=self.folder, capture_output=True, text=True,
            input=stdin, timeout=60, check=False)
        self.assertEqual(run.returncode, status, run.stderr)
        return run

    def test_a_configuration_is_run(self) -> None:
        run = self.run_entry("--config", "config.json", "-o", "out")
        self.assertEqual(run.stdout, "web db-1 out\n")
        self.assertIn("it ends after 60 s at the latest", run.stderr)

    def test_options_may_be_shortened_as_argparse_does(self) -> None:
        run = self.run_entry("--conf=config.json", "--out", "out", "--junit=junit.xml", "--log-l", "warning", "--no-i")
        self.assertNotIn("must succeed", run.stderr)
        suites = ElementTree.parse(self.folder / "out" / "junit.xml").getroot()
        self.assertTrue(list(suites.iter("testcase")))
        self.assertIn("ambiguous option", self.run_entry("-c", "config.json", "--keep", status=2).stderr)

    def test_another_script_goes_before_the_configuration_s(self) -> None:
        self.script("print('other')\n", "other.py")
        self.assertEqual(self.run_entry("-c", "config.json", "--test-script", "other.py").stdout, "other\n")
        self.config(test_script="")
        self.assertEqual(self.run_entry("-c", "config.json", "other.py").stdout, "other\n")

    def test_the_variables_count(self) -> None:
        run = self.run_entry("-c", "config.json", logLevel="error", LOGFILE=str(self.folder / "log.xml"))
        self.assertNotIn("must succeed", run.stderr)
        self.assertEqual(ElementTree.parse(self.folder / "log.xml").getroot().tag, "logfile")
        self.assertIn("logLevel", self.run_entry("-c", "config.json", status=2, logLevel="loud").stderr)

    def test_the_older_form_has_start_scripts(self) -> None:
        words = ("--start-scripts", "run-web-vm", "db-1.json", "--vlans", "1", "--global-timeout", "7", "-o", "out")
        run = self.run_entry(*words, "--", "script.py")
        self.assertEqual(run.stdout, "web db-1 out\n")
        self.assertIn("it ends after 7 s at the latest", run.stderr)
        run = self.run_entry(
            startScripts="run-web-vm db-1.json", vlans="1 2", testScript="script.py", globalTimeout="9")
        self.assertIn("it ends after 9 s at the latest", run.stderr)
        run = self.run_entry("-c", "config.json", startScripts="other", globalTimeout="9")
        self.assertIn("it ends after 60 s at the latest", run.stderr)

    def test_what_has_no_effect_is_accepted_and_explained(self) -> None:
        self.config(enable_ssh_backdoor=True)
        for option in ("-K", "--keep-vm-state", "--keep-machine-state"):
            self.assertIn("changes nothing", self.run_entry("-c", "config.json", option).stderr)
        run = self.run_entry("-c", "config.json", "--dump-vsocks", "2")
        self.assertEqual(run.stderr.count("there is no SSH backdoor"), 1)

    def test_an_error_waits_for_a_debugger_where_that_is_asked_for(self) -> None:
        self.config()
        self.script("secret = 'found' + ' it'\nweb.fail('true')\n")
        said: list[str] = []

        def attach() -> None:
            until = time.monotonic() + 60
            while time.monotonic() < until:
                try:
                    connection = socket.create_connection(("127.0.0.1", 4444), timeout=60)
                except ConnectionRefusedError:
                    time.sleep(0.05)
                    continue
                with connection, connection.makefile("rw") as stream:
                    stream.write("up 100\np secret\nc\n")
                    stream.flush()
                    said.append(stream.read())
                return

        thread = threading.Thread(target=attach)
        thread.start()
        run = self.run_entry("-c", "config.json", "--debug-hook-attach", "attach-with", status=1)
        thread.join(60)
        self.assertEqual(run.returncode, 1)
        self.assertIn("attach-with (debugger: nc 127.0.0.1 4444)", run.stderr)
        self.assertIn("found it", "".join(said))

    def test_a_wrong_command_line_is_2(self) -> None:
        self.script("print('ran')\n")
        for words, variables, message in (
            ((), {}, "one of -c/--config and --start-scripts is required"),
            (("--start-scripts", "run-web-vm"), {}, "the test script is missing"),
            (("-c", "config.json", "-o", "none"), {}, "none is not a directory"),
            (("-c", "config.json", "-o", "script.py"), {}, "script.py is not a directory"),
            (("-c", "config.json", "--unknown"), {}, "--unknown"),
            (("-c", "config.json"), {"globalTimeout": "soon"}, "soon"),
            (("--start-scripts", "run-web-vm", "--", "script.py"), {"vlans": "x"}, "VLAN"),
        ):
            with self.subTest(words):
                run = self.run_entry(*words, status=2, **variables)
                self.assertIn(message, run.stderr)
                self.assertEqual(run.stdout, "")

    def test_a_wrong_configuration_is_one_line(self) -> None:
        for changes, message in (
            ({"containers": {"c": {}}}, "containers (c) are not supported"),
            ({"vms": {}}, "0 machines"),
            ({"vms": {"web": "x"}}, "`vms.web` needs a `start_script`"),
            ({"vms": {"web": {"start_script": "none"}}}, "Cannot read the machine description"),
            ({"vms": {"web": {"start_script": "start"}}}, "this is a program"),
            ({"vms": {"web": {"start_script": "wrong.toml"}}}, "wrong.toml:1:1: unknown key `memmory`"),
            ({"global_timeout": "1"}, "`global_timeout` is '1'; expected int"),
            ({"vlans": ["x"]}, "expected a list of numbers"),
            ({"test_script": "none.py"}, "Cannot read the test script"),
        ):
            with self.subTest(changes):
                self.write("#!/bin/sh\nexec qemu\n", "start")
                self.write("memmory = 3\n", "wrong.toml")
                self.config(**changes)
                run = self.run_entry("-c", "config.json", status=1)
                self.assertRegex(run.stderr, "^snowboot: error: [^\n]*\n$")
                self.assertIn(message, run.stderr)
        self.assertIn("not JSON", self.run_entry("-c", "script.py", status=1).stderr)

    def test_the_exit_statuses_are_the_driver_s(self) -> None:
        for script, status in (("web.fail('true')\n", 1), ("log.error('x')\n", 1), ("1 / 0\n", 1), ("db_1.start()\n", 0)):
            self.script(script)
            self.run_entry("-c", "config.json", status=status)
        self.script("web.succeed('sleep 60')\n")
        self.config(global_timeout=1)
        self.assertIn("global time limit of 1 s", self.run_entry("-c", "config.json", status=143).stderr)

    def test_sigterm_releases_machines_too(self) -> None:
        self.script(f"web.succeed('touch {self.folder}/mark; sleep 60')\n")
        process = subprocess.Popen(
            self.command("-c", "config.json"), env=self.environment(), cwd=self.folder, stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.kill)
        deadline = time.monotonic() + 30
        while not (self.folder / "mark").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 128 + signal.SIGTERM, stderr)
        self.assertIn("web: the machine was stopped by the driver", stderr)

    def test_a_script_is_not_checked_again(self) -> None:
        self.script("try:\n    nothing.at_all()\nexcept Exception as error:\n    print(type(error).__name__)\n")
        self.assertEqual(self.run_entry("-c", "config.json").stdout, "NameError\n")

    def test_interactive_starts_nothing_by_itself(self) -> None:
        run = self.run_entry("-c", "config.json", "-I", stdin="print([m.booted for m in machines])\nrun_tests()\n")
        self.assertEqual(run.stdout, "[False, False]\nweb db-1 " + Path(os.path.realpath(self.folder)).name + "\n")


if __name__ == "__main__":
    import unittest

    unittest.main()
