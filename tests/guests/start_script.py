"""Two machines as the test driver of NixOS has them, by `snowboot vm`: `python3 start_script.py SNOWBOOT GUESTS`.

Run in the lab by `cargo xtask test`. The driver's side of the contract is here in a few words: it listens at the sockets of the
monitor and the shell, starts the machine with their names, connects to QMP without trying twice, and speaks to the guest's
backdoor. `GUESTS` is a folder of toplevels, one per machine. What is between the machines is a `vde_switch`, with `--hub` as
upstream.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

BOOT_LIMIT = 400
LIMIT = 120
GREETING = b"Spawning backdoor root shell..."
PROMPT = "(qemu) "


class Qmp:
    """A client of QMP that keeps events until they are asked for."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(LIMIT)
        self.socket.connect(str(path))
        self.lines = self.socket.makefile("rb")
        self.events: list[dict] = []
        greeting = json.loads(self.lines.readline())
        assert "version" in greeting["QMP"], greeting

    def send(self, command: str, **arguments: object) -> dict:
        self.socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\r\n")
        while True:
            message = json.loads(self.lines.readline())
            if "event" not in message:
                return message
            self.events.append(message)

    def event(self, name: str) -> dict:
        """The next event of this name."""
        while True:
            for event in self.events:
                if event["event"] == name:
                    self.events.remove(event)
                    return event
            line = self.lines.readline()
            assert line, f"QMP ended before {name} came"
            message = json.loads(line)
            assert "event" in message, message
            self.events.append(message)


class Machine:
    def __init__(self, script: str, name: str, folder: Path, vlan: Path) -> None:
        self.name = name
        self.state = folder / f"vm-state-{name}"
        self.state.mkdir(mode=0o700)
        self.vlan = vlan
        self.script = script
        self.console = b""

    @classmethod
    def described(cls, program: str, name: str, number: int, folder: Path, vlan: Path, config: dict) -> Machine:
        file = folder / f"{name}.json"
        file.write_text(json.dumps(config))
        words = [program, "vm", "--config", str(file), "--name", name, "--number", str(number)]
        return cls("exec " + shlex.join(words), name, folder, vlan)

    def start(self, allow_reboot: bool = False) -> None:
        print(f"{self.name}: start", flush=True)
        listeners = {name: self.listen(name) for name in ("monitor", "shell")}
        options = (
            f" -qmp unix:{self.state}/qmp,server=on,wait=off -monitor unix:{self.state}/monitor"
            f" -chardev socket,id=shell,path={self.state}/shell -device virtio-serial"
            " -device virtconsole,chardev=shell -device virtio-rng-pci -serial stdio"
        )
        options += ("" if allow_reboot else " -no-reboot") + " -nographic"
        environment = {
            **os.environ,
            "TMPDIR": str(self.state),
            "SHARED_DIR": str(self.state.parent / "shared-xchg"),
            "USE_TMPDIR": "1",
            "QEMU_VDE_SOCKET_1": str(self.vlan),
        }
        self.process = subprocess.Popen(
            self.script + options,
            shell=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.state,
            env=environment,
        )
        self.reader = threading.Thread(target=self.read_console, daemon=True)
        self.reader.start()
        self.monitor = listeners["monitor"].accept()[0]
        self.shell = listeners["shell"].accept()[0]
        self.qmp = Qmp(self.state / "qmp")
        assert self.qmp.send("qmp_capabilities") == {"return": {}}
        self.monitor.settimeout(LIMIT)
        self.until_prompt()
        self.connect()

    def listen(self, name: str) -> socket.socket:
        path = self.state / name
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.settimeout(LIMIT)
        listener.bind(str(path))
        listener.listen(1)
        return listener

    def read_console(self) -> None:
        assert self.process.stdout is not None
        while more := self.process.stdout.read1(65536):
            self.console += more
            sys.stdout.write(more.decode(errors="replace"))
            sys.stdout.flush()

    def connect(self) -> None:
        self.shell.settimeout(BOOT_LIMIT)
        while GREETING not in (chunk := self.shell.recv(1024)):
            assert chunk, "the shell ended before its greeting"
        print(f"{self.name}: connected", flush=True)

    def until_prompt(self) -> str:
        answer = ""
        while not answer.endswith(PROMPT):
            more = self.monitor.recv(1024).decode()
            if not more:
                break
            answer += more
        return answer

    def tell_monitor(self, command: str) -> str:
        self.monitor.sendall(f"{command}\n".encode())
        return self.until_prompt()

    def execute(self, command: str) -> tuple[int, str]:
        quoted = shlex.quote(f"set -euo pipefail; {command}")
        self.shell.sendall(f"timeout {LIMIT} bash -c {quoted} | (base64 -w 0; echo)\n".encode())
        output = base64.b64decode(self.line())
        self.shell.sendall(b"echo ${PIPESTATUS[0]}\n")
        return int(self.line()), output.decode()

    def line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            more = self.shell.recv(65536)
            assert more, "the shell ended"
            line += more
        return line

    def succeed(self, command: str) -> str:
        status, output = self.execute(command)
        assert status == 0, f"{self.name}: {command}: {status}: {output}"
        return output

    def ended(self) -> int:
        """The exit status, and nothing is left to read on the standard output."""
        status = self.process.wait(LIMIT)
        self.reader.join(LIMIT)
        assert not self.reader.is_alive(), "the standard output is still open"
        return status


@contextmanager
def subtest(name: str) -> Iterator[None]:
    print(f"subtest: {name}", flush=True)
    began = time.monotonic()
    yield
    print(f"done: {name} ({time.monotonic() - began:.1f} s)", flush=True)


def until(what: str, check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not check():
        assert time.monotonic() < deadline, what
        time.sleep(1)


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


def vde_switch(folder: Path) -> subprocess.Popen:
    switch = subprocess.Popen(
        ["vde_switch", "--sock", str(folder), "--dirmode", "0700", "--hub"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    until("the vde_switch listens", lambda: (folder / "ctl").exists())
    return switch


def main() -> None:
    program, guests = sys.argv[1], Path(sys.argv[2])
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        switch = vde_switch(folder / "vde1.ctl")
        names = ["machine1", "machine2"]
        machines = [
            Machine.described(program, name, number, folder, folder / "vde1.ctl", config(guests / name))
            for number, name in enumerate(names, 1)
        ]
        try:
            run(*machines, switch)
        finally:
            for machine in machines:
                if machine.process.poll() is None:
                    machine.process.kill()
            switch.terminate()
    print("all is well")


def run(first: Machine, second: Machine, switch: subprocess.Popen) -> None:
    starting = threading.Thread(target=second.start)
    starting.start()
    first.start()
    starting.join()
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
        until("it is noticed", lambda: b"has gone, and a network card has nobody behind it" in machine.console)
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
