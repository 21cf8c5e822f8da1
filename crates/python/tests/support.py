"""What the tests of the package share.

They use the build with the feature `testing`, in which the KVM device "fake" puts a shell of this host in the place of
every guest: everything but the kernel is real.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import snowboot


def manifest(script: str, machines: dict[str, str] | None = None, timeout: int = 120) -> str:
    """A manifest's text. Machines are given as name: command line of their kernel, which steers the fake."""
    parts = [f"name = 'example'\ntest-script = '''\n{script}'''\nglobal-timeout = {timeout}\n"]
    for name, cmdline in (machines or {"machine": ""}).items():
        parts.append(f"[machines.{name}]\nkernel = 'k'\ncmdline = '{cmdline}'\n")
    return "".join(parts)


class Scratch(unittest.TestCase):
    """A test with a folder of its own."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def write(self, text: str, name: str = "test.toml") -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def driver(self, **machines: str) -> snowboot.Driver:
        path = self.write(manifest("", machines or None))
        driver = snowboot.Driver(path, kvm_device="fake", log_level="error")
        driver.set_serial(False)
        self.addCleanup(driver.finish)
        return driver

    def runner(self, *arguments: str | Path, grace: float | None = None) -> list[str]:
        """The runner's command line; with `grace`, that many seconds in the place of those for an end in order."""
        module = ["-m", "snowboot.runner"]
        if grace is not None:
            module = ["-c", f"import sys; from snowboot import runner; runner.GRACE = {grace}; sys.exit(runner.main())"]
        return [sys.executable, *module, *map(str, arguments)]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "SNOWBOOT_KVM_DEVICE": "fake", "NO_COLOR": "1"}

    def run_script(
        self, script: str, *options: str | Path, machines: dict[str, str] | None = None, timeout: int = 120
    ) -> subprocess.CompletedProcess[str]:
        """Runs a script as `snowboot test` does."""
        path = self.write(manifest(script, machines, timeout))
        command = self.runner(path, "-o", self.folder, *options)
        return subprocess.run(
            command, env=self.environment(), capture_output=True, text=True, timeout=120, check=False
        )
