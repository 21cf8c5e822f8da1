"""Two machines of `stage_1.py` by their start scripts, as a driver of NixOS 24.05 has them: `python3 stage_1_vm.py SNOWBOOT DESCRIPTION`.

They boot the specialisation whose command line and shares are those of a test machine of 24.05. The first has a second VLAN.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from driver_side import Machine, Vlan, start_all, until

sys.path.insert(0, str(Path(__file__).parent / "programs"))
from stage_1_checks import FIRST, OLD_PARAMS, SECOND, check


def main() -> None:
    program, description = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    # What QEMU's start script puts behind the system's own.
    description["cmdline"] = "regInfo=/nix/store/none/registration console=ttyS0"
    second = {**description, "number": 8, "vlans": [1]}
    with Vlan() as vlan:
        machines = [
            vlan.described(program, name, config["number"], config)
            for name, config in [("machine", description), ("other", second)]
        ]
        start_all(machines)
        run(*machines)
    print("stage 1 by snowboot vm: all is well")


def run(first: Machine, second: Machine) -> None:
    for machine, cards in [(first, FIRST), (second, SECOND)]:
        check(machine.succeed, "9p", cards)
        line = machine.succeed("cat /proc/cmdline").split()
        init = next(word for word in line if word.startswith("init="))
        assert init.startswith("init=/nix/store/") and "-ninep-" in init, "it is not the specialisation"
        assert line == [*OLD_PARAMS, init, "regInfo=/nix/store/none/registration", "console=ttyS0"], line
        assert b"connecting to host..." in machine.console
        # What QEMU's start script calls the images, which test scripts know.
        images = {f"{machine.name}.qcow2", "empty0.qcow2"}
        assert images <= {file.name for file in machine.state.iterdir()}
    shares(first, second)
    network(first, second)
    first.power_off()
    second.power_off()


def shares(first: Machine, second: Machine) -> None:
    for machine in (first, second):
        machine.succeed(f"echo {machine.name} >/tmp/xchg/note; echo {machine.name} >>/tmp/shared/note")
        assert (machine.state / "xchg" / "note").read_text() == f"{machine.name}\n"
    assert first.succeed("cat /tmp/shared/note") == second.succeed("cat /tmp/shared/note") == "machine\nother\n"


def network(first: Machine, second: Machine) -> None:
    first.succeed("ip address add 192.168.1.7/24 dev uplink && ip link set uplink up")
    second.succeed("ip address add 192.168.1.8/24 dev eth1 && ip link set eth1 up")
    until("a ping", lambda: first.execute("ping -c 1 -W 2 192.168.1.8")[0] == 0)
    second.succeed("ping -c 1 -W 2 192.168.1.7")


if __name__ == "__main__":
    main()
