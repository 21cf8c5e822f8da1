"""Two machines as the test driver of NixOS has them, by `snowboot vm`: `python3 start_script.py SNOWBOOT GUESTS`.

Run in the lab by `cargo xtask test`. `GUESTS` is a folder of toplevels, one per machine.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from driver_side import PROMPT, Machine, Qmp, Vlan, start_all, subtest, until


def config(toplevel: Path) -> dict:
    return {
        "toplevel": str(toplevel),
        "memory": 256,
        "vlans": [1],
        "disks": [
            {"path": str(toplevel / "root.erofs"), "read-only": True, "serial": "root"},
            {"create-mib": 64, "serial": "data", "filesystem": "ext4", "label": "data"},
        ],
        "shares": [
            {"tag": "xchg", "path": '"$TMPDIR"/xchg', "writable": True},
            {"tag": "shared", "path": '"${SHARED_DIR:-$TMPDIR/xchg}"', "writable": True},
        ],
    }


def main() -> None:
    program, guests = sys.argv[1], Path(sys.argv[2])
    with Vlan() as vlan:
        names = ["machine1", "machine2"]
        machines = [
            vlan.described(program, name, number, config(guests / name)) for number, name in enumerate(names, 1)
        ]
        run(*machines, vlan.switch)
    print("all is well")


def run(first: Machine, second: Machine, switch: subprocess.Popen) -> None:
    start_all([first, second])
    shells_and_shares(first, second)
    network(first, second)
    monitors(first)
    first_ends_and_starts_again(first)
    second_powers_off(second)
    resets(first)
    the_switch_goes(first, switch)
    a_signal(first)


def shells_and_shares(first: Machine, second: Machine) -> None:
    with subtest("commands and shares"):
        assert first.execute("echo hello; exit 3") == (3, "hello\n")
        assert len(first.succeed("head -c 300000 /dev/zero | tr '\\0' x")) == 300000
        first.succeed("mkdir -p /tmp/all /tmp/own; mount -t virtiofs shared /tmp/all; mount -t virtiofs xchg /tmp/own")
        first.succeed("echo mine >/tmp/own/a; echo ours >/tmp/all/b")
        assert (first.state / "xchg" / "a").read_text() == "mine\n"
        second.succeed("mkdir -p /tmp/all; mount -t virtiofs shared /tmp/all; grep ours /tmp/all/b")
    with subtest("the serial console's input"):
        assert b"Linux version" in first.console


def network(first: Machine, second: Machine) -> None:
    ping = "ping -c 1 -W 2"
    with subtest("machines see each other through the vde_switch"):
        until("a ping", lambda: first.execute(f"{ping} machine2")[0] == 0)
        second.succeed(f"{ping} machine1")
        # A guest leaves cutting and checksums to its card; a vde_switch takes finished frames alone.
        second.succeed("systemd-run --unit=sink sh -c 'nc -l 9000 | sha256sum >/tmp/sum' >&2")
        until("the sink listens", lambda: "9000" in second.succeed("ss -tln"))
        sent = first.succeed("head -c 5000000 /dev/urandom >/tmp/data; nc -N machine2 9000 </tmp/data; sha256sum </tmp/data")
        until("all of it has come", lambda: second.execute("cat /tmp/sum")[1] == sent)
    with subtest("a cable that is pulled"):
        assert "Error" not in first.tell_monitor("set_link virtio-net-pci.1 off")
        assert "link=down" in first.tell_monitor("info network")
        assert second.execute(f"{ping} machine1")[0] != 0
        assert first.execute("cat /sys/class/net/eth1/carrier")[1].strip() != "1"
        first.tell_monitor("set_link virtio-net-pci.1 on")
        until("a ping again", lambda: second.execute(f"{ping} machine1")[0] == 0)
        assert first.qmp.send("set_link", name="virtio-net-pci.1", up=False) == {"return": {}}
        assert second.execute(f"{ping} machine1")[0] != 0
        assert first.qmp.send("set_link", name="virtio-net-pci.1", up=True) == {"return": {}}
        until("a ping again", lambda: first.execute(f"{ping} machine2")[0] == 0)


def monitors(machine: Machine) -> None:
    with subtest("QMP"):
        qmp = machine.qmp
        assert qmp.send("query-status")["return"] == {"status": "running", "running": True}
        assert qmp.send("stop") == {"return": {}}
        assert qmp.event("STOP")["timestamp"]["seconds"] > 0
        assert qmp.send("query-status")["return"]["status"] == "paused"
        assert "paused" in machine.tell_monitor("info status")
        assert machine.tell_monitor("cont") == f"cont\r\n{PROMPT}"
        qmp.event("RESUME")
        assert qmp.send("device_add")["error"]["class"] == "CommandNotFound"
        assert qmp.send("set_link", name="x", up=True)["error"]["class"] == "DeviceNotFound"
        other = Qmp(machine.state / "qmp")
        assert other.send("query-status")["error"]["class"] == "CommandNotFound"
        assert other.send("qmp_capabilities") == {"return": {}}
        said = other.send("human-monitor-command", **{"command-line": "info status"})
        assert said == {"return": "VM status: running\r\n"}
        other.socket.close()
        assert machine.succeed("echo on") == "on\n"
    with subtest("what there is nothing for"):
        assert "no display" in machine.tell_monitor("screendump /tmp/x.ppm")
        assert "no display" in machine.tell_monitor("sendkey ret")


def first_ends_and_starts_again(machine: Machine) -> None:
    with subtest("quit, and the disks of the next start"):
        machine.succeed("mkdir -p /tmp/d; mount /dev/disk/by-label/data /tmp/d; echo kept >/tmp/d/f; sync")
        assert PROMPT not in machine.tell_monitor("quit")
        shutdown = machine.qmp.event("SHUTDOWN")
        assert shutdown["data"] == {"guest": False, "reason": "host-qmp-quit"}, shutdown
        assert machine.ended() == 0
        machine.start(allow_reboot=True)
        machine.succeed("mkdir -p /tmp/d; mount /dev/disk/by-label/data /tmp/d; grep kept /tmp/d/f")


def second_powers_off(machine: Machine) -> None:
    with subtest("the power button"):
        assert machine.qmp.send("system_powerdown") == {"return": {}}
        machine.qmp.event("POWERDOWN")
        shutdown = machine.qmp.event("SHUTDOWN")
        assert shutdown["data"] == {"guest": True, "reason": "guest-shutdown"}, shutdown
        assert machine.ended() == 0


def resets(machine: Machine) -> None:
    with subtest("ctrl-alt-delete, and a guest that comes back"):
        machine.tell_monitor("set_link virtio-net-pci.1 off")
        assert "Error" not in machine.tell_monitor("sendkey ctrl-alt-delete")
        reset = machine.qmp.event("RESET")
        assert reset["data"] == {"guest": True, "reason": "guest-reset"}, reset
        machine.connect()
        assert machine.succeed("echo back") == "back\n"
        # A cable stays pulled.
        assert machine.execute("cat /sys/class/net/eth1/carrier")[1].strip() != "1"


def the_switch_goes(machine: Machine, switch: subprocess.Popen) -> None:
    with subtest("a vde_switch that ends does not end the machine"):
        switch.terminate()
        until("it is noticed", lambda: b"has gone, and what it led to is not reached any more" in machine.console)
        assert machine.succeed("echo here") == "here\n"


def a_signal(machine: Machine) -> None:
    with subtest("SIGTERM"):
        machine.process.send_signal(signal.SIGTERM)
        shutdown = machine.qmp.event("SHUTDOWN")
        assert shutdown["data"]["reason"] == "host-signal", shutdown
        assert machine.ended() == 128 + signal.SIGTERM
        assert list((machine.state.parent / "vde1.ctl").glob(".*")) == []


if __name__ == "__main__":
    main()
