"""The names that scripts find besides their machines, and the package that scripts of the NixOS test driver import from."""

from __future__ import annotations

import datetime
import importlib
import json
import socket
import stat
import threading
import unittest
from pathlib import Path

from snowboot import Machine, MachineError, PollingConditionError, RequestedAssertionFailed
from snowboot.created import translated
from snowboot.debug import Debug
from support import Scratch, manifest


class Polling(Scratch):
    def setUp(self) -> None:
        super().setUp()
        self.run_ = self.driver(a="", b="")
        self.a = self.run_.machine("a")

    def test_what_holds_is_looked_at_before_commands_and_not_too_often(self) -> None:
        looks: list[str] = []
        condition = self.run_.polling_condition(lambda: looks.append("look"), seconds_interval=600)
        with condition:
            self.a.succeed("true", "true")
            self.run_.machine("b").execute("true")
        self.a.succeed("true")
        self.assertEqual(looks, ["look"])

    def test_what_does_not_hold_ends_the_command_whoever_gives_it(self) -> None:
        @self.run_.polling_condition(interval=0)
        def file_is_there() -> bool:
            """there is a
            file"""
            return self.a.execute(f"test -e {self.folder}/file")[0] == 0

        self.assertEqual(file_is_there.condition.description, "there is a file")
        with self.assertRaisesRegex(PollingConditionError, "^Polling condition failed: there is a file$"):
            with file_is_there:
                self.a.wait_for_file(f"{self.folder}/never", timeout=60)
        (self.folder / "file").touch()
        with file_is_there:
            self.a.succeed("true")
            self.a.run_callbacks()
            self.a.send_monitor_command("info status")
            with self.assertRaises(PollingConditionError):
                self.a.succeed(f"rm {self.folder}/file", "true")
        self.a.succeed("true")

    def test_what_raises_does_not_hold_and_what_says_nothing_does(self) -> None:
        failing = self.run_.polling_condition(lambda: self.a.succeed("false"), description="it succeeds")
        with self.assertRaisesRegex(PollingConditionError, "it succeeds"), failing:
            self.run_.machine("b").succeed("true")
        with self.run_.polling_condition(lambda: self.a.execute("true") and None):
            self.a.succeed("true")

    def test_it_can_be_waited_for(self) -> None:
        looks: list[int] = []
        condition = self.run_.polling_condition(lambda: bool(looks.append(1)) or len(looks) > 3)
        condition.wait()
        with self.assertRaisesRegex(RequestedAssertionFailed, "'never'.*within 0.1 s"):
            self.run_.polling_condition(lambda: False, description="never").wait(datetime.timedelta(seconds=0.1))

    def test_wrong_arguments(self) -> None:
        for call in (
            lambda: self.run_.polling_condition(lambda: True, seconds_interval=1, interval=1),
            lambda: self.run_.polling_condition(lambda: True, interval=True),
            lambda: self.run_.polling_condition(interval=1)("no function"),  # type: ignore[operator,arg-type]
            lambda: self.run_.polling_condition(lambda: True).wait(True),  # type: ignore[union-attr]
        ):
            self.assertRaises(TypeError, call)


class Created(Scratch):
    def test_a_machine_of_a_mapping(self) -> None:
        driver = self.driver()
        machine = driver.create_machine({"kernel": Path("k"), "cmdline": "", "memory": "128M"}, name="extra")
        self.assertEqual((machine.name, machine.booted), ("extra", False))
        self.assertNotIn(machine, driver.machines)
        with driver.polling_condition(lambda: False):
            self.assertEqual(machine.succeed("echo hi"), "hi\n")
        driver.finish()
        self.assertFalse(machine.booted)

    def test_a_machine_of_a_file(self) -> None:
        driver = self.driver()
        path = self.write("kernel = 'k'\n", "web.toml")
        self.assertEqual(driver.create_machine(path).name, "web")
        self.assertEqual(driver.create_machine(str(path), name="other", keep_vm_state=True).name, "other")
        wrong = self.write("kernel = 'k'\ncores = 2\n", "wrong.toml")
        with self.assertRaisesRegex(MachineError, r"wrong.toml:2:1: unknown key `cores`"):
            driver.create_machine(wrong)
        with self.assertRaisesRegex(MachineError, "cannot read .*none.json"):
            driver.create_machine("none.json")

    def test_what_is_refused(self) -> None:
        driver = self.driver()
        with self.assertRaisesRegex(MachineError, r"^extra: create_machine\(\): unknown key `cores`"):
            driver.create_machine({"kernel": "k", "cores": 2}, name="extra")
        with self.assertRaisesRegex(MachineError, "there is a machine of this name"):
            driver.create_machine({"kernel": "k"}, name="machine")
        for wrong in (None, 5, ["qemu"], {"kernel": object()}):
            self.assertRaises(TypeError, driver.create_machine, wrong)

    def test_a_command_line_of_qemu_is_translated(self) -> None:
        command = ("qemu-kvm -m 512 -smp cpus=2 -kernel /k/bzImage -initrd /k/initrd -append 'console=ttyS0 quiet' "
                   "-drive file=/d.img,if=virtio,readonly=on")
        self.assertEqual(translated(command), {
            "memory": 512, "vcpus": 2, "kernel": "/k/bzImage", "initrd": "/k/initrd", "cmdline": "console=ttyS0 quiet",
            "disks": [{"path": "/d.img", "read-only": True}]})
        with self.assertRaisesRegex(MachineError, "command line of QEMU.*'machine'.*or|command line of QEMU") as caught:
            self.driver().create_machine(command)
        self.assertIn('"vcpus": 2', str(caught.exception))
        with self.assertRaisesRegex(MachineError, "^web: .*toplevel"):
            self.driver().create_machine("/nix/store/x/bin/run-web-vm")


class Others(Scratch):
    def test_no_part_of_a_machine_hides_what_another_has(self) -> None:
        owners: dict[str, type] = {}
        for part in Machine.__mro__[1:-1]:
            for name in vars(part).keys() - vars(object).keys() - {"__module__", "__dict__", "__weakref__", "__annotations__"}:
                self.assertIs(owners.setdefault(name, part), part, name)

    def test_networks(self) -> None:
        names = self.driver().namespace()
        self.assertEqual([vlan.nr for vlan in names["vlans"]], [1])
        self.assertIs(names["vlan1"], names["vlans"][0])
        with self.assertRaisesRegex(MachineError, "vlan1 has no socket_dir"):
            names["vlan1"].socket_dir

    def test_what_machines_have_not_is_said_after_a_look_at_the_arguments(self) -> None:
        machine = self.driver().machines[0]
        for call, word in (
            (lambda: machine.screenshot("a"), "display"),
            (machine.get_screen_text, "display"),
            (lambda: machine.wait_for_text("a", timeout=1), "display"),
            (lambda: machine.send_key("ret"), "keyboard"),
            (lambda: machine.send_chars("a"), "keyboard"),
            (machine.forward_port, "no network card"),
            (machine.read_efi_vars, "EFI"),
            (machine.ssh_backdoor_command, "ssh"),
        ):
            with self.assertRaisesRegex(MachineError, f"^machine: .*{word}"):
                call()
        for call in (
            lambda: machine.screenshot(None),
            lambda: machine.wait_for_text("a", timeout=True),
            lambda: machine.send_key("a", delay="1"),
            lambda: machine.forward_port("80"),
            lambda: machine.write_efi_vars([1]),
        ):
            self.assertRaises(TypeError, call)

    def test_folders_are_private_and_go_away(self) -> None:
        driver = self.driver(a="", b="")
        a, b = driver.machines
        self.assertEqual(a.shared_dir, b.shared_dir)
        for folder in (a.state_dir, b.state_dir, a.shared_dir):
            self.assertEqual(stat.S_IMODE(folder.stat().st_mode), 0o700)
        (a.state_dir / "file").touch()
        a.cleanup_statedir()
        self.assertEqual(list(a.state_dir.iterdir()), [])
        folder = a.shared_dir
        driver.finish()
        self.assertFalse(folder.parent.exists())

    def test_a_breakpoint_gives_a_debugger_at_the_callers_line(self) -> None:
        driver = self.driver()
        driver.debug.breakpoint()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        said: list[str] = []

        def attach() -> None:
            while True:
                try:
                    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
                    break
                except ConnectionRefusedError:
                    pass
            with connection, connection.makefile("rw") as stream:
                stream.write("p secret\nc\n")
                stream.flush()
                said.append(stream.read())

        thread = threading.Thread(target=attach)
        thread.start()
        secret = "found it"  # noqa: F841
        Debug(driver.logger, "attach").breakpoint(port=port)
        thread.join(60)
        self.assertIn("'found it'", said[0])


class Shim(Scratch):
    def test_names_that_scripts_import_are_the_same_objects(self) -> None:
        for module, names in {
            "errors": ["MachineError", "RequestedAssertionFailed", "TestScriptError"],
            "efi": ["EfiVariable"],
            "machine": ["BaseMachine", "Machine", "NspawnMachine", "QemuMachine", "retry"],
            "polling_condition": ["PollingCondition", "PollingConditionError"],
            "driver": ["Driver", "load_driver_configuration"],
            "vlan": ["VLan"],
            "logger": ["AbstractLogger"],
            "debug": ["DebugAbstract"],
        }.items():
            shim = importlib.import_module(f"test_driver.{module}")
            for name in names:
                found = getattr(shim, name)
                self.assertTrue(found.__module__.startswith("snowboot"), found)
        self.assertIs(importlib.import_module("test_driver.errors").MachineError, MachineError)

    def test_a_test_within_a_test(self) -> None:
        self.write("kernel = 'k'\n", "inner.toml")
        self.write("inner.succeed('true')\nprint('inner ran')\n", "inner.py")
        config = self.write(json.dumps({
            "vms": {"inner": {"name": "inner", "start_script": "inner.toml"}}, "containers": {}, "vlans": [1],
            "global_timeout": 60, "enable_ssh_backdoor": False, "test_script": "inner.py"}), "config.json")
        script = (
            "from test_driver.driver import Driver, load_driver_configuration\n"
            f"config = load_driver_configuration({str(config)!r})\n"
            f"with Driver(config=config, out_dir={str(self.folder)!r}, logger=driver.logger, interactive=False) as inner:\n"
            "    inner.run_tests()\n"
            "machine.succeed('true')\n")
        run = self.run_script(script)
        self.assertEqual((run.returncode, run.stdout), (0, "inner ran\n"), run.stderr)

    def test_scripts_find_everything(self) -> None:
        run = self.run_script(
            "from test_driver.errors import RequestedAssertionFailed\n"
            "with t.assertRaises(RequestedAssertionFailed):\n    t.assertEqual(1, 2)\n"
            "assert machines_qemu == machines and machines_nspawn == []\n"
            "assert isinstance(machine, BaseMachine) and not isinstance(machine, NspawnMachine)\n"
            "log.log_serial('as if said', 'machine')\nmachine.log_serial('as if said too')\n"
            "def typed(m: Machine, q: QemuMachine) -> None: ...\n")
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn("machine # as if said too", run.stderr)


if __name__ == "__main__":
    unittest.main()
