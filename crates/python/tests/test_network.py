"""What scripts do to networks. Frames are not among it: the switch is tested where it is, and whole guests by themselves."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import unittest
from typing import Any

from snowboot import Driver, MachineError
from snowboot.amounts import bits_per_second, bytes_of, probability, seconds
from snowboot.checks.tools import type_tools
from snowboot.source import Script
from support import Scratch, manifest


class Faults(Scratch):
    def test_every_change_is_a_line_that_makes_it_again(self) -> None:
        script = (
            "vlan1.impair(a, 'b', delay='20ms', jitter=0.005, spread='normal', loss='10%', rate='10Mbit', queue='64KiB', seed=7)\n"
            "vlan1.impair(a, b, both=False, burst=(0.01, '25%', 1), flap=('2s', 0.5), reorder=0.1, reorder_by='1ms', seed=8)\n"
            "vlan1.cut(b, a, both=False)\n"
            "vlan1.heal(a, b)\n"
            "network.partition([a], [b])\n"
            "network.heal()\n"
            "vlan1.impair(a, b, loss=0.5)\n"
        )
        done = self.run_script(script, machines={"a": "", "b": ""})
        self.assertEqual(done.returncode, 0, done.stderr)
        lines = [line.partition("network: ")[2] for line in done.stderr.splitlines() if "network: " in line]
        self.assertEqual(lines[:6], [
            'vlan1.impair("a", "b", loss=0.1, rate=10000000, queue=65536, delay=0.02, jitter=0.005, spread="normal", seed=7)',
            'vlan1.impair("a", "b", both=False, flap=(2, 0.5), burst=(0.01, 0.25, 1), reorder=0.1, reorder_by=0.001, seed=8)',
            'vlan1.impair("b", "a", both=False, cut=True, seed=0)',
            'vlan1.heal("a", "b")',
            'vlan1.partition(["a"], ["b"])',
            "vlan1.heal()",
        ])
        self.assertRegex(lines[6], r'^vlan1.impair\("a", "b", loss=0.5, seed=\d+\)$')
        again = self.run_script("\n".join(lines) + "\n", machines={"a": "", "b": ""})
        said = [line.partition("network: ")[2] for line in again.stderr.splitlines() if "network: " in line]
        self.assertEqual(said, lines)

    def test_a_runs_seed_replays_its_faults(self) -> None:
        script = "vlan1.impair(a, b, loss=0.5)\nvlan1.impair(a, b, loss=0.5)\nprint('seed', driver.seed)\nraise Exception('x')\n"
        def faults(done: Any) -> list[str]:
            self.assertEqual(done.returncode, 1, done.stderr)
            return [line.partition("network: ")[2] for line in done.stderr.splitlines() if "network: " in line]
        first = self.run_script(script, machines={"a": "", "b": ""})
        seed = first.stdout.split()[-1]
        self.assertIn(f"faults draw their seeds from the run's, {seed}", first.stderr)
        self.assertIn(f"run it with --seed {seed} to have the same ones again", first.stderr)
        again = self.run_script(script, "--seed", seed, machines={"a": "", "b": ""})
        self.assertEqual(faults(again), faults(first))
        self.assertEqual(len(set(faults(first))), 2)
        other = self.run_script(script, "--seed", str(int(seed) ^ 1), machines={"a": "", "b": ""})
        self.assertNotEqual(faults(other), faults(first))

    def test_what_is_wrong(self) -> None:
        driver = self.driver(a="", b="")
        vlan: Any = driver.vlans[0]
        self.assertEqual(vlan.machines, ["a", "b"])
        with self.assertRaisesRegex(MachineError, "^vlan1: there is no machine c; those on it are a, b$"):
            vlan.impair("a", "c", loss=1)
        with self.assertRaisesRegex(MachineError, "^vlan1: loss is 2: a probability is from 0 to 1$"):
            vlan.impair("a", "b", loss=2)
        with self.assertRaisesRegex(MachineError, "no machine c"):
            driver.network.partition(["a"], ["c"])
        with self.assertRaisesRegex(ValueError, "delay is -1 s"):
            vlan.impair("a", "b", delay=-1)
        with self.assertRaisesRegex(ValueError, "spread is \"odd\""):
            vlan.impair("a", "b", jitter=1, spread="odd")
        for call in (
            lambda: vlan.impair("a", 5),
            lambda: vlan.impair("a", "b", loss=None),
            lambda: vlan.partition("ab"),
            lambda: vlan.partition([None]),
            lambda: vlan.heal("a"),
        ):
            self.assertRaises(TypeError, call)

    def test_captures_are_files_in_the_output_folder(self) -> None:
        script = (
            "with vlan1.capture('a.pcapng') as capture:\n"
            "    assert capture.path == driver.out_dir / 'a.pcapng'\n"
            "capture.stop()\n"
            "vlan1.capture('b.pcapng')\n"
            "try:\n"
            "    vlan1.capture('none/c.pcapng')\n"
            "except MachineError as error:\n"
            "    print(error)\n"
        )
        done = self.run_script(f"from test_driver.errors import MachineError\n{script}", "--pcap")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, "^Cannot write the capture .*none/c.pcapng: choose a place in a folder that is there")
        for name in ("a.pcapng", "b.pcapng", "vlan1.pcapng"):
            self.assertEqual((self.folder / name).read_bytes()[:4], b"\x0a\x0d\x0d\x0a", name)

    def test_a_failure_without_frames_leaves_no_capture(self) -> None:
        done = self.run_script("machine.succeed('false')\n")
        self.assertEqual(done.returncode, 1)
        self.assertEqual(list(self.folder.glob("*.pcapng")), [])

    def test_a_machine_may_be_called_network(self) -> None:
        names = self.driver(network="", b="").namespace()
        self.assertEqual(names["network"].name, "network")


class Named(Scratch):
    def named(self, script: str, machines: dict[str, str] | None = None) -> str:
        """A manifest whose machines are all on VLAN 1 and on the network `backbone`."""
        text = manifest(script, machines or {"a": "", "b": ""})
        networks = "[networks.backbone]\nvlan = 7\n[networks.spare]\n"
        return text.replace("kernel = 'k'\n", "kernel = 'k'\nvlans = [1, 'backbone']\n") + networks

    def test_a_network_is_a_variable_of_its_name(self) -> None:
        driver = Driver(self.write(self.named("")), kvm_device="fake", log_level="error")
        self.addCleanup(driver.finish)
        names = driver.namespace()
        self.assertEqual([(vlan.nr, vlan.name) for vlan in driver.vlans], [(1, "vlan1"), (2, "spare"), (7, "backbone")])
        self.assertIs(names["backbone"], names["vlan7"])
        self.assertEqual(list(driver.networks), ["vlan1", "vlan2", "vlan7", "spare", "backbone"])
        self.assertEqual([repr(vlan) for vlan in driver.vlans], ["<VLan 1>", "<VLan 2 spare>", "<VLan 7 backbone>"])
        self.assertEqual(names["backbone"].machines, ["a", "b"])
        with self.assertRaisesRegex(MachineError, "^backbone has no socket_dir"):
            names["backbone"].socket_dir
        driver.create_machine({"kernel": "k", "vlans": ["spare"]}, name="c")
        self.assertEqual(names["spare"].machines, ["c"])
        with self.assertRaisesRegex(MachineError, "no network is called `sparse`: did you mean `spare`"):
            driver.create_machine({"kernel": "k", "vlans": ["sparse"]}, name="d")
        self.assertEqual([network["name"] for network in driver.report()["topology"]["networks"]], ["vlan1", "spare", "backbone"])

    def test_the_log_and_captures_have_the_name(self) -> None:
        script = "backbone.impair(a, b, loss=0.5, seed=7)\nvlan7.heal()\nnetwork.partition([a], [b])\nvlan1.heal()\n"
        path = self.write(self.named(script))
        command = self.runner(path, "-o", self.folder, "--pcap", "--json-report", self.folder / "r.json")
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=120, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        lines = [line.partition("network: ")[2] for line in done.stderr.splitlines() if "network: " in line]
        self.assertEqual([line for line in lines if ".capture(" not in line], [
            'backbone.impair("a", "b", loss=0.5, seed=7)', "backbone.heal()", 'vlan1.partition(["a"], ["b"])',
            'backbone.partition(["a"], ["b"])', "vlan1.heal()"])
        self.assertEqual(sorted(file.name for file in self.folder.glob("*.pcapng")), ["backbone.pcapng", "spare.pcapng", "vlan1.pcapng"])
        topology = json.loads((self.folder / "r.json").read_text())["topology"]
        self.assertEqual(topology["machines"][1]["cards"][1], {
            "interface": "eth2", "mac": "52:54:00:12:07:02", "network": "backbone", "address": "192.168.7.2"})

    def test_checks_know_the_name(self) -> None:
        script = "backbone.heal()\nspare.heal()\nbakbone.heal()\n"
        path = self.write(self.named(script))
        done = subprocess.run(
            [sys.executable, "-m", "snowboot.check", path, "--skip-type-check"], env=self.environment(), capture_output=True,
            text=True, timeout=120, check=False)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("<test script>:3: error: nothing is called `bakbone`", done.stdout)
        self.assertNotIn("`backbone`", done.stdout)
        stub = type_tools(Script("s", "backbone.heal()\n"), ["a", "b"], ["vlan7", "backbone"])[0].files
        self.assertIn("backbone: VLan\n", stub["test_script_globals.pyi"])


class Amounts(unittest.TestCase):
    def test_units(self) -> None:
        self.assertEqual((seconds("20ms"), seconds("1.5 s"), seconds("250us"), seconds(2)), (0.02, 1.5, 0.00025, 2.0))
        self.assertEqual(seconds(datetime.timedelta(milliseconds=5)), 0.005)
        self.assertEqual((bits_per_second("10Mbit"), bits_per_second("9.6kbit"), bits_per_second(5000)), (10_000_000, 9600, 5000))
        self.assertEqual((bytes_of("64KiB"), bytes_of("1MB"), bytes_of(7)), (65536, 1_000_000, 7))
        self.assertEqual((probability("5%"), probability(1), probability(0.25)), (0.05, 1.0, 0.25))

    def test_what_is_none(self) -> None:
        for call in (
            lambda: seconds("20"),
            lambda: seconds("-1ms"),
            lambda: seconds("1 hour"),
            lambda: bits_per_second("10MB"),
            lambda: bits_per_second(float("inf")),
            lambda: bytes_of(-1),
            lambda: probability("half"),
        ):
            self.assertRaises(ValueError, call)
        for call in (lambda: seconds(True), lambda: bits_per_second(None), lambda: probability([])):  # type: ignore[arg-type,list-item,return-value]
            self.assertRaises(TypeError, call)


if __name__ == "__main__":
    unittest.main()
