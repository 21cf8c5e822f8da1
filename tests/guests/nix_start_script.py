"""A machine by the start script that Nix has built of a node: `python3 nix_start_script.py VM`, the path of its `system.build.vm`."""

from __future__ import annotations

import sys
from pathlib import Path

from driver_side import Machine, Vlan


def main() -> None:
    script = find(Path(sys.argv[1]))
    with Vlan() as vlan:
        machine = vlan.machine(str(script), script.name.removeprefix("run-").removesuffix("-vm"))
        machine.start()
        run(machine)
    print("Nix's start script: all is well")


def find(vm: Path) -> Path:
    """As the driver of 24.05 finds it; later ones know it by `meta.mainProgram`."""
    (script,) = (vm / "bin").glob("run-*-vm")
    assert (vm / "system").exists(), "the start script's folder has no system"
    return script


def run(machine: Machine) -> None:
    assert machine.name == "machine1"
    # What the node's options say: cards, disks, shares.
    machine.succeed("grep 52:54:00:12:34:56 /sys/class/net/eth0/address")
    machine.succeed("grep 52:54:00:12:01:01 /sys/class/net/eth1/address")
    assert machine.succeed("cat /sys/block/vda/size").strip() == str(16 << 11)
    assert (machine.state / "empty0.qcow2").stat().st_size == 16 << 20
    machine.succeed("mkdir -p /tmp/own && mount -t 9p -o trans=virtio,version=9p2000.L xchg /tmp/own && echo mine >/tmp/own/note")
    assert (machine.state / "xchg" / "note").read_text() == "mine\n"
    assert "user network" in machine.tell_monitor("info network")
    machine.power_off()


if __name__ == "__main__":
    main()
