"""The driver's side of a start script's contract, in a few words: it listens at the sockets of the monitor and the shell, starts
the machine with their names, connects to QMP without trying twice, and speaks to the guest's backdoor. What is between the
machines is a `vde_switch`, with `--hub` as upstream.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
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
    """A machine by its start script."""

    def __init__(self, script: str, name: str, folder: Path, vlan: Path) -> None:
        self.name = name
        self.state = folder / f"vm-state-{name}"
        self.state.mkdir(mode=0o700)
        self.vlan = vlan
        self.script = script
        self.console = b""
        self.process: subprocess.Popen | None = None
        self.is_connected = False

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
        self.is_connected = True
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

    def power_off(self) -> None:
        """Has the guest power itself off, as the driver does, and waits until the program has ended."""
        self.shell.sendall(b"poweroff\n")
        assert self.qmp.event("SHUTDOWN")["data"]["reason"] == "guest-shutdown"
        assert self.ended() == 0

    def ended(self) -> int:
        """The exit status, and nothing is left to read on the standard output."""
        status = self.process.wait(LIMIT)
        self.reader.join(LIMIT)
        assert not self.reader.is_alive(), "the standard output is still open"
        return status


class Vlan:
    """VLAN 1 and the machines on it, with a folder for all their files. All of them end with it."""

    def __enter__(self) -> Vlan:
        self.place = tempfile.TemporaryDirectory(dir="/var/tmp")
        self.folder = Path(self.place.name)
        self.control = self.folder / "vde1.ctl"
        self.switch = vde_switch(self.control)
        self.machines: list[Machine] = []
        return self

    def __exit__(self, *_: object) -> None:
        for machine in self.machines:
            if machine.process is not None and machine.process.poll() is None:
                machine.process.kill()
        self.switch.terminate()
        self.place.cleanup()

    def machine(self, script: str, name: str) -> Machine:
        """A machine by a start script, which is a line for the shell."""
        self.machines.append(Machine(script, name, self.folder, self.control))
        return self.machines[-1]

    def described(self, program: str, name: str, number: int, config: dict) -> Machine:
        """A machine by `snowboot vm` and a description of it."""
        file = self.folder / f"{name}.json"
        file.write_text(json.dumps(config))
        words = [program, "vm", "--config", str(file), "--name", name, "--number", str(number)]
        return self.machine("exec " + shlex.join(words), name)


def start_all(machines: list[Machine]) -> None:
    """Starts all of them at once, and waits for their shells."""
    starting = [threading.Thread(target=machine.start) for machine in machines[1:]]
    for thread in starting:
        thread.start()
    machines[0].start()
    for thread in starting:
        thread.join()
    assert all(machine.is_connected for machine in machines), "a machine has no shell"


def vde_switch(folder: Path) -> subprocess.Popen:
    switch = subprocess.Popen(
        ["vde_switch", "--sock", str(folder), "--dirmode", "0700", "--hub"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    until("the vde_switch listens", lambda: (folder / "ctl").exists())
    return switch


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
