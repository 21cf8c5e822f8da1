"""Machines as scripts use them."""

from __future__ import annotations

import time
import unittest
from datetime import timedelta

from snowboot import Machine, MachineError, RequestedAssertionFailed, TestScriptError
from support import Scratch


class Commands(Scratch):
    def test_give_status_and_output(self) -> None:
        machine = self.driver().machine("machine")
        self.assertEqual(machine.execute("echo hi; exit 3"), (3, "hi\n"))
        self.assertEqual(machine.execute("echo hi", check_return=False), (-1, "hi\n"))
        self.assertEqual(machine.execute("echo hi", check_output=False), (-2, ""))
        self.assertEqual(machine.execute("sleep 9", timeout=timedelta(milliseconds=100)), (124, ""))
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
        with self.assertRaisesRegex(MachineError, "the machine has ended"):
            machine.succeed("kill $PPID")
        self.assertFalse(machine.booted)
        machine.succeed("true")
        machine.shutdown()
        machine.wait_for_shutdown()
        self.assertFalse(machine.is_up())
        machine.start()
        machine.crash()


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

    def test_for_console_text_use_pythons_expressions(self) -> None:
        machine = self.driver().machine("machine")
        machine.start()
        machine.send_console("hello\nworld\n")
        machine.wait_for_console_text(r"(?P<greeting>hel+o)(?=world|$)", timeout=30)
        self.assertIn("hello\nworld", machine.get_console_log())
        with self.assertRaisesRegex(RequestedAssertionFailed, "did not appear on the console within"):
            machine.wait_for_console_text("hello", timeout=0.1)

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
        self.assertEqual(driver.vlans, [1])

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
        with self.assertRaises(TypeError):
            driver.retry(lambda last: True, timeout_seconds=1, timeout=1)

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
