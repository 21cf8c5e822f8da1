"""Machines as scripts use them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import unittest
from datetime import timedelta
from unittest import mock

import snowboot
from snowboot import Machine, MachineError, ManifestError, RequestedAssertionFailed, TestScriptError
from support import Scratch, manifest


class Commands(Scratch):
    def test_give_status_and_output(self) -> None:
        machine = self.driver().machine("machine")
        self.assertEqual(machine.execute("echo hi; exit 3"), (3, "hi\n"))
        self.assertEqual(machine.execute("echo hi", check_return=False), (-1, "hi\n"))
        self.assertEqual(machine.execute("echo hi", check_output=False), (-2, ""))
        self.assertEqual(machine.execute("sleep 9", timeout=timedelta(milliseconds=100)), (124, ""))
        self.assertEqual(machine.execute("sleep 9", timeout=-1), (124, ""))
        self.assertEqual(machine.execute("sleep 0.1; echo hi", timeout=0), (0, "hi\n"))
        self.assertEqual(machine.succeed("echo a", "echo 'ä'"), "a\nä\n")
        self.assertEqual(machine.fail("echo a; false"), "a\n")
        self.assertTrue(machine.booted and machine.connected and machine.is_up())

    def test_that_fail_tell_their_parts(self) -> None:
        machine = self.driver().machine("machine")
        with self.assertRaises(RequestedAssertionFailed) as caught:
            machine.succeed("true", "echo out; exit 9", timeout=10)
        error = caught.exception
        self.assertIsInstance(error, TestScriptError)
        self.assertEqual((error.machine, error.command), ("machine", "echo out; exit 9"))
        self.assertEqual((error.status, error.output), (9, "out\n"))
        self.assertIn("command `echo out; exit 9` failed (exit code 9)", str(error))
        with self.assertRaisesRegex(RequestedAssertionFailed, "unexpectedly succeeded"):
            machine.fail("true")

    def test_after_the_end_of_the_machine_start_it_again(self) -> None:
        machine = self.driver().machine("machine")
        machine.succeed("true")
        for kind in (MachineError, RuntimeError):
            with self.assertRaisesRegex(kind, "the machine has ended"):
                machine.succeed("kill $PPID")
        self.assertFalse(machine.booted)
        machine.succeed("true")
        machine.shutdown()
        machine.wait_for_shutdown()
        self.assertFalse(machine.is_up())
        machine.start()
        machine.crash()

    def test_take_what_the_nixos_driver_puts_into_its_texts(self) -> None:
        machine = self.driver().machine("machine")
        file = self.write("", "file")
        machine.wait_for_file(file, timeout=30)
        self.assertEqual(machine.execute(file)[0], 126)
        (self.folder / "nc").write_text("#!/bin/sh\necho $* >>$0.log\n")
        (self.folder / "nc").chmod(0o755)
        with mock.patch.dict(os.environ, PATH=f"{self.folder}:{os.environ['PATH']}"):
            machine.crash()
            machine.wait_for_open_port("80", timeout=30)
        self.assertEqual((self.folder / "nc.log").read_text(), "-z localhost 80\n")
        for wrong in (["true", "false"], None, b"true"):
            with self.assertRaisesRegex(TypeError, "expected a text"):
                machine.succeed(wrong)  # type: ignore[arg-type]

    def test_a_malformed_answer_is_a_machine_error_and_an_assertion_error(self) -> None:
        (self.folder / "systemctl").write_text("#!/bin/sh\necho nonsense\n")
        (self.folder / "systemctl").chmod(0o755)
        machine = self.driver().machine("machine")
        with mock.patch.dict(os.environ, PATH=f"{self.folder}:{os.environ['PATH']}"):
            machine.start()
        for kind in (MachineError, AssertionError):
            with self.assertRaisesRegex(kind, "it answered `nonsense`"):
                machine.get_unit_property("x.service", "ActiveState")


class Waits(Scratch):
    def test_end_with_the_fact_or_with_the_time(self) -> None:
        machine = self.driver().machine("machine")
        file = self.folder / "x"
        machine.execute(f"(sleep 0.2; touch {file}) >&2 &")
        machine.wait_for_file(str(file), timeout=30)
        self.assertEqual(machine.wait_until_succeeds("echo yes", timeout=timedelta(seconds=30)), "yes\n")
        machine.wait_until_fails("false", 30)
        with self.assertRaisesRegex(RequestedAssertionFailed, "did not appear within 0.1 s"):
            machine.wait_for_file("/nonexistent/x", timeout=0.1)

    def test_for_sockets_terminals_and_windows_say_what_is_missing(self) -> None:
        machine = self.driver().machine("machine")
        with self.assertRaisesRegex(RequestedAssertionFailed, "TCP port 1 on localhost did not open within 0.2 s"):
            machine.wait_for_open_port(1, timeout=0.2)
        with self.assertRaisesRegex(RequestedAssertionFailed, "Unix (stream )?socket `/nonexistent/x`"):
            machine.wait_for_open_unix_socket("/nonexistent/x", timeout=timedelta(seconds=0.2))
        for terminal in (99, "99"):
            with self.assertRaisesRegex(RequestedAssertionFailed, "no text of virtual terminal `99`"):
                machine.get_tty_text(terminal)
        with self.assertRaisesRegex(RequestedAssertionFailed, "no text of virtual terminal `99`"):
            machine.wait_until_tty_matches("99", re.compile("login:"), timeout=5)
        with self.assertRaisesRegex(RequestedAssertionFailed, "no text of virtual terminal `99`"):
            machine.dump_tty_contents("99")
        with self.assertRaisesRegex(RequestedAssertionFailed, "X11 server did not come up within 0.1 s"):
            machine.wait_for_x(timeout=0.1)

    def test_for_windows_use_pythons_expressions(self) -> None:
        (self.folder / "xwininfo").write_text(
            "#!/bin/sh\necho '     0x1 \"Mail (2)\": (\"m\" \"M\")  1x1+0+0'\necho '     0x2 (has no name): ()'\n"
        )
        (self.folder / "xwininfo").chmod(0o755)
        with mock.patch.dict(os.environ, PATH=f"{self.folder}:{os.environ['PATH']}"):
            machine = self.driver().machine("machine")
            self.assertEqual(machine.get_window_names(), ["Mail (2)"])
            machine.wait_for_window(r"(?P<name>mail)(?= \(\d\))".replace("mail", "Mail"), timeout=5)
            with self.assertRaisesRegex(RequestedAssertionFailed, r"(?s)no window named `Web` appeared.*Mail \(2\)"):
                machine.wait_for_window("Web", timeout=0.1)

    def test_for_console_text_use_pythons_expressions(self) -> None:
        machine = self.driver().machine("machine")
        machine.start()
        machine.send_console("hello\nworld\n")
        machine.wait_for_console_text(r"(?P<greeting>hel+o)(?=world|$)", timeout=30)
        self.assertIn("hello\nworld", machine.get_console_log())
        with self.assertRaisesRegex(RequestedAssertionFailed, "did not appear on the console within"):
            machine.wait_for_console_text("hello", timeout=0.1)
        machine.send_console("One\nTwo\n")
        machine.wait_for_console_text(re.compile("one.*two", re.IGNORECASE), timeout=30)

    def test_take_seconds_or_timedeltas_and_nothing_else(self) -> None:
        machine = self.driver().machine("machine")
        machine.sleep(0.01)
        machine.sleep(duration=timedelta(milliseconds=10))
        for wrong in (
            lambda: machine.sleep(),
            lambda: machine.sleep(1, duration=1),
            lambda: machine.wait_for_file("/", timeout=True),
            lambda: machine.wait_for_file("/", timeout="1"),  # type: ignore[arg-type]
        ):
            self.assertRaises(TypeError, wrong)
        self.assertRaises(ValueError, lambda: machine.wait_for_file("/", timeout=float("nan")))


class Runs(Scratch):
    def test_know_their_machines(self) -> None:
        driver = self.driver(**{"web": "", "a-b": ""})
        self.assertEqual([machine.name for machine in driver.machines], ["a-b", "web"])
        self.assertIs(driver.namespace()["a_b"], driver.machines[0])
        self.assertNotIn("machine", driver.namespace())
        self.assertIs(self.driver(only="").namespace()["machine"].__class__, Machine)
        self.assertRaises(KeyError, driver.machine, "nobody")
        self.assertEqual([vlan.nr for vlan in driver.vlans], [1])

    def test_start_all_names_what_fails(self) -> None:
        driver = self.driver(good="", bad="refuse", worse="refuse")
        with self.assertRaises(MachineError) as caught:
            driver.start_all()
        self.assertIn("bad: cannot be started", str(caught.exception))
        self.assertIn("worse: cannot be started", str(caught.exception))
        self.assertTrue(driver.machine("good").booted)

    def test_retry(self) -> None:
        driver = self.driver()
        calls: list[bool] = []
        driver.retry(lambda last: calls.append(last) or len(calls) == 3)
        self.assertEqual(calls, [False] * 3)
        with self.assertRaises(RequestedAssertionFailed):
            driver.retry(lambda last: False, 0.05)
        for nothing in (0, timedelta(0)):
            calls.clear()
            with self.assertRaisesRegex(RequestedAssertionFailed, "within 0 s"):
                driver.retry(lambda last: bool(calls.append(last)), nothing)
            self.assertEqual(calls, [True])
        with self.assertRaises(TypeError):
            driver.retry(lambda last: True, timeout_seconds=1, timeout=1)

    def test_never_give_a_machine_a_name_that_scripts_need(self) -> None:
        names = self.driver(a="", b="").namespace()
        # Scripts that are older than `network` may well have a machine of that name, and keep it.
        for name in names.keys() - {"a", "b", "network"}:
            path = self.write(manifest("", {name: ""}))
            with self.assertRaisesRegex(ManifestError, "choose another name"):
                snowboot.Driver(path, kvm_device="fake")

    def test_keep_their_paths_when_the_current_folder_changes(self) -> None:
        self.write("# here", "my.py")
        self.write(manifest("").replace("test-script = '''\n'''", "script = 'my.py'"))
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)
        with snowboot.Driver("test.toml", kvm_device="fake") as driver:
            os.chdir("/")
            self.assertEqual(driver.script(), ("# here", str(self.folder / "my.py")))
            self.assertEqual(driver.out_dir, self.folder)

    def test_may_be_forgotten_while_their_time_runs_out(self) -> None:
        path = self.write(manifest("", timeout=1))
        program = (
            "import snowboot, time\n"
            f"driver = snowboot.Driver({str(path)!r}, kvm_device='fake', on_global_timeout=lambda: time.sleep(1))\n"
            "time.sleep(1.5)\n"
            "del driver\n"
        )
        subprocess.run([sys.executable, "-c", program], env=self.environment(), timeout=30, check=True)

    def test_end_once_and_for_all(self) -> None:
        driver = self.driver()
        machine = driver.machine("machine")
        machine.succeed("true")
        driver.finish()
        driver.finish()
        with self.assertRaisesRegex(MachineError, "finished"):
            machine.succeed("true")
        self.assertEqual(driver.report()["machines"][0]["starts"], 1)

    def test_other_threads_run_while_one_waits(self) -> None:
        import threading

        machine = self.driver().machine("machine")
        machine.succeed("true")
        ticks: list[float] = []
        thread = threading.Thread(target=lambda: [(time.sleep(0.01), ticks.append(1)) for _ in range(10)])
        thread.start()
        machine.succeed("sleep 0.5")
        self.assertGreater(len(ticks), 5)
        thread.join()


if __name__ == "__main__":
    unittest.main()
