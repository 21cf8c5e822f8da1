"""Files between host and guest."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import snowboot
from snowboot import RequestedAssertionFailed
from support import Scratch, manifest


class Copies(Scratch):
    def machine_with_out(self, out: Path) -> snowboot.Machine:
        driver = snowboot.Driver(self.write(manifest("")), kvm_device="fake", log_level="error", out_dir=out)
        driver.set_serial(False)
        self.addCleanup(driver.finish)
        return driver.machine("machine")

    def test_go_both_ways(self) -> None:
        out = self.folder / "out"
        machine = self.machine_with_out(out)
        self.assertEqual(machine.out_dir, out)
        source = self.write("content", "source file")
        source.chmod(0o755)
        guest = self.folder / "guest"
        machine.copy_from_host(str(source), f"{guest}/a/b")
        machine.copy_from_host_via_shell(source=source, target=guest / "c")
        machine.succeed(f"cmp {guest}/a/b {guest}/c", f"test -x {guest}/a/b")
        machine.copy_from_host(guest, self.folder / "again")
        machine.copy_from_machine(f"{guest}/a/b")
        self.assertEqual((out / "b").read_text(), "content")
        self.assertTrue(os.access(out / "b", os.X_OK))
        machine.copy_from_machine(self.folder / "again", target_dir="sub/folder")
        self.assertEqual((out / "sub/folder/again/a/b").read_text(), "content")
        machine.copy_from_machine(source=f"{guest}/c", target_dir=str(self.folder / "elsewhere"))
        self.assertEqual((self.folder / "elsewhere/c").read_text(), "content")

    def test_have_an_old_name(self) -> None:
        machine = self.machine_with_out(self.folder / "out")
        self.write("content", "file")
        with self.assertWarnsRegex(DeprecationWarning, "use copy_from_machine"):
            machine.copy_from_vm(str(self.folder / "file"), "old")
        self.assertEqual((self.folder / "out/old/file").read_text(), "content")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            machine.copy_from_machine(str(self.folder / "file"), "new")

    def test_that_fail_say_on_which_side(self) -> None:
        machine = self.machine_with_out(self.folder / "out")
        with self.assertRaisesRegex(FileNotFoundError, "machine: cannot read the host's file .*none") as missing:
            machine.copy_from_host("none", "/tmp/none")
        self.assertEqual(missing.exception.errno, 2)
        with self.assertRaises(IsADirectoryError):
            machine.copy_from_host_via_shell(self.folder, "/tmp/none")
        with self.assertRaisesRegex(RequestedAssertionFailed, "machine: copy_from_machine.*exit code 1") as failed:
            machine.copy_from_machine(f"{self.folder}/none")
        self.assertEqual((failed.exception.machine, failed.exception.status), ("machine", 1))
        machine.copy_from_machine(self.folder / "test.toml")
        (self.folder / "tree").mkdir()
        machine.copy_from_machine(self.folder / "tree")
        with self.assertRaises(FileExistsError):
            machine.copy_from_machine(self.folder / "tree")

    def test_have_names_that_are_no_text(self) -> None:
        machine = self.machine_with_out(self.folder / "out")
        name = os.fsdecode(b"not \xff text")
        (self.folder / name).write_text("content")
        machine.copy_from_host(self.folder / name, self.folder / "guest" / name)
        machine.copy_from_machine(self.folder / "guest" / name)
        self.assertEqual((self.folder / "out" / name).read_text(), "content")

    def test_show_in_a_script(self) -> None:
        self.write("content", "file")
        script = f"machine.copy_from_host('{self.folder}/file', '{self.folder}/guest')\nmachine.copy_from_vm('{self.folder}/guest')\n"
        ended = self.run_script(script)
        self.assertEqual(ended.returncode, 0, ended.stderr)
        self.assertEqual((self.folder / "guest").read_text(), "content")
