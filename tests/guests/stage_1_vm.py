"""The machine of `stage_1.py` by its start script, from its specialisation: `python3 stage_1_vm.py SNOWBOOT DESCRIPTION`."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from start_script import Machine, vde_switch

sys.path.insert(0, str(Path(__file__).parent / "programs"))
from stage_1_checks import check


def main() -> None:
    program, description = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        switch = vde_switch(folder / "vde1.ctl")
        machine = Machine.described(program, "machine", description["number"], folder, folder / "vde1.ctl", description)
        try:
            machine.start()
            run(machine)
        finally:
            if machine.process.poll() is None:
                machine.process.kill()
            switch.terminate()
    print("stage 1 by snowboot vm: all is well")


def run(machine: Machine) -> None:
    check(machine.succeed, "9p")
    assert "test.shares=9p" in machine.succeed("cat /proc/cmdline"), "it is not the specialisation"
    machine.succeed("echo own >/tmp/xchg/note")
    assert (machine.state / "xchg" / "note").read_text() == "own\n"
    assert b"connecting to host..." in machine.console
    # What QEMU's start script calls the images, which test scripts know.
    assert {"machine.qcow2", "empty0.qcow2"} <= {file.name for file in machine.state.iterdir()}
    machine.shell.sendall(b"poweroff\n")
    assert machine.ended() == 0


if __name__ == "__main__":
    main()
