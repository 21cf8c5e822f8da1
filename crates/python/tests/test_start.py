"""What a run loads before its script's first line, and what is loaded only when it is asked for.

Time is measured nowhere here: a module that is loaded without need costs the same in every run.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import unittest

import snowboot
from support import Scratch, manifest

HEAVY = {
    "IPython", "asyncio", "code", "concurrent", "dataclasses", "difflib", "email", "html", "http", "inspect", "json",
    "logging", "multiprocessing", "pdb", "platform", "pprint", "random", "shlex", "shutil", "socket", "subprocess",
    "tempfile", "traceback", "unittest", "uuid", "xml",
}
"""Modules of Python's that take a millisecond or more, and that few scripts need."""


class Modules(Scratch):
    def loaded(self, *arguments: str) -> set[str]:
        """What an interpreter says. Without a site: that may load anything."""
        ran = subprocess.run(
            [sys.executable, "-S", "-P", *arguments], env=self.environment(), capture_output=True, text=True,
            timeout=60, check=False)
        self.assertEqual(ran.returncode, 0, ran.stderr)
        return set(ran.stdout.split())

    def test_a_run_has_loaded_nothing_heavy_when_its_script_begins(self) -> None:
        path = self.write(manifest("import sys\nprint(*sys.modules)\n"))
        options = ("-o", str(self.folder), "--skip-type-check", "--skip-lint")
        loaded = self.loaded("-m", "snowboot.runner", str(path), *options)
        self.assertEqual(loaded & HEAVY, set())
        self.assertIn("snowboot.machine", loaded)

    def test_who_only_looks_for_the_package_loads_almost_nothing(self) -> None:
        loaded = self.loaded("-c", "import sys\nbefore = set(sys.modules)\nimport snowboot\nprint(*set(sys.modules) - before)")
        self.assertEqual(loaded, {"snowboot", "snowboot._native"})


class Package(unittest.TestCase):
    def test_it_has_all_its_names_and_no_others(self) -> None:
        for name in snowboot.__all__:
            self.assertIn(name, dir(snowboot))
            self.assertIsNotNone(getattr(snowboot, name))
        self.assertIs(snowboot.Machine, snowboot.machine.Machine)
        self.assertIs(snowboot.errors.MachineError, snowboot.MachineError)
        with self.assertRaisesRegex(AttributeError, "^module 'snowboot' has no attribute 'runer'$"):
            snowboot.runer  # type: ignore[attr-defined]


class Assertions(Scratch):
    def test_they_are_there_when_they_are_asked_for(self) -> None:
        names = self.driver().namespace()
        t = names["t"]
        t.maxDiff = 7
        self.assertIn("assertIn", dir(t))
        self.assertTrue(isinstance(t, unittest.TestCase))
        self.assertEqual(t.maxDiff, 7)
        with self.assertRaises(snowboot.RequestedAssertionFailed):
            t.assertEqual({"a": 1}, {"a": 2})
        with t.subTest("a part"), t.assertRaises(ValueError):
            raise ValueError
        with self.assertRaises(AttributeError):
            t.assertNonsense

    def test_threads_may_ask_at_the_same_time(self) -> None:
        driver = self.driver()
        failed: list[BaseException] = []

        def ask(t: unittest.TestCase, barrier: threading.Barrier) -> None:
            try:
                barrier.wait()
                t.assertEqual([1], [1])
            except BaseException as error:
                failed.append(error)

        for _ in range(50):
            t, barrier = driver.namespace()["t"], threading.Barrier(4)
            threads = [threading.Thread(target=ask, args=(t, barrier)) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        self.assertEqual(failed, [])


if __name__ == "__main__":
    unittest.main()
