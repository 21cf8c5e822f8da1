"""QMP, the machine protocol of QEMU, as far as a machine of Snowboot has what it is about.

There is no QEMU and no socket: commands are carried out by the VMM in this process. Names, answers and events are those of
QEMU's `qapi/*.json`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from .. import _native
from ..duration import Duration, seconds
from ..errors import MachineError
from .core import Core

Event = dict[str, Any]

LINK_PREFIX = "virtio-net-pci."
EVENT_TIMEOUT = 600

VERSION = {"qemu": {"major": 0, "minor": 0, "micro": 0}, "package": "snowboot"}
"""No version of QEMU's, so that nobody takes it for one."""


class QMPAPIError(RuntimeError):
    """A QMP command was answered with an error."""

    def __init__(self, class_name: str, description: str, transaction_id: str | None = None) -> None:
        super().__init__(f"<QMP API error: {class_name}, description: {description}>")
        self.class_name = class_name
        self.description = description
        self.transaction_id = transaction_id


def cards(native: _native.Machine) -> list[str]:
    """The machine's network cards by QEMU's names: number 0 leads to the host, number 1 to the first VLAN."""
    first = 0 if native.user_network else 1
    return [f"{LINK_PREFIX}{number}" for number in range(first, native.nics + 1)]


def card_of(native: _native.Machine, name: str) -> int:
    """The number of the network card that QEMU calls `virtio-net-pci.N`."""
    have = cards(native)
    if name in have:
        return int(name.removeprefix(LINK_PREFIX))
    if name == LINK_PREFIX + "0":
        raise QMPAPIError(
            "DeviceNotFound",
            f"Device '{name}' not found; it is QEMU's card to the host's network, which this machine has not without "
            f"`user-network = true`; the first VLAN's is {LINK_PREFIX}1",
        )
    shown = ", ".join(have) or "none"
    raise QMPAPIError("DeviceNotFound", f"Device '{name}' not found; the machine has these cards: {shown}")


class QMPClient:
    """A machine's QMP session. It works from the machine's first start on; events outlast the machine's end."""

    def __init__(self, native: _native.Machine) -> None:
        self._native = native
        self._commands: dict[str, Callable[[Mapping[str, Any]], Any]] = {
            "cont": lambda _: native.resume(),
            "query-commands": lambda _: [{"name": name} for name in sorted(self._commands)],
            "query-cpus-fast": lambda _: self._cpus(),
            "query-name": lambda _: {"name": native.name},
            "query-status": lambda _: self._status(),
            "query-version": lambda _: VERSION,
            "quit": lambda _: native.crash(),
            "set_link": self._set_link,
            "stop": lambda _: native.pause(),
            "system_powerdown": lambda _: native.press_power_button(),
            "system_reset": lambda _: native.reset(),
        }

    def send(self, cmd: str, args: Mapping[str, Any] = {}) -> dict[str, Any]:
        """Carries out a command and gives the answer: a dictionary whose `return` is what the command gives.

        QMPAPIError for commands that are not known (`class_name` is then CommandNotFound) and wrong arguments;
        MachineError when the machine does not run.
        """
        command = self._commands.get(cmd)
        if command is None:
            raise QMPAPIError(
                "CommandNotFound",
                f"The command {cmd} has not been found; machines of Snowboot know {', '.join(sorted(self._commands))}",
            )
        if not self._native.booted:
            raise MachineError(f"{self._native.name}: QMP command {cmd}: the machine is not running")
        given = command(args)
        return {"return": {} if given is None else given}

    def wait_for_event(self, timeout: Duration = EVENT_TIMEOUT) -> Event:
        """The next event that nobody has taken yet; TimeoutError when the time is up."""
        event = self._native.next_power_event(max(seconds(timeout), 0.0))
        if event is None:
            raise TimeoutError(f"{self._native.name}: no QMP event came in time")
        name, by_guest, reason, at, micros = event
        data = {"data": {"guest": by_guest, "reason": reason}} if reason else {}
        return {"event": name, **data, "timestamp": {"seconds": at, "microseconds": micros}}

    def _status(self) -> dict[str, Any]:
        paused = self._native.paused
        return {"status": "paused" if paused else "running", "running": not paused}

    def _cpus(self) -> list[dict[str, Any]]:
        return [
            {"cpu-index": index, "target": "x86_64", "props": {"core-id": index}}
            for index in range(self._native.vcpus)
        ]

    def _set_link(self, args: Mapping[str, Any]) -> None:
        name, up = args.get("name"), args.get("up")
        if not isinstance(name, str) or not isinstance(up, bool):
            raise QMPAPIError("GenericError", "set_link takes 'name', a text, and 'up', true or false")
        self._native.set_card_link(card_of(self._native, name), up)


class Qmp(Core):
    """Talks QMP to a machine."""

    @property
    def qmp_client(self) -> QMPClient | None:
        """The machine's QMP session; None before its first start."""
        return QMPClient(self._native) if self._native.starts else None

    def wait_for_qmp_event(
        self, event_filter: Callable[[Event], object], timeout: Duration = EVENT_TIMEOUT
    ) -> Event:
        """Waits for an event that the filter is true for, and returns it. Others before it are skipped for good.

        There are SHUTDOWN, RESET, POWERDOWN, STOP and RESUME. TimeoutError when the time is up, RuntimeError for a
        machine that was never started.
        """
        client = self.qmp_client
        if client is None:
            raise RuntimeError(f"{self.name}: there is no QMP session yet: start the machine first")
        limit = seconds(timeout)
        deadline = time.monotonic() + limit
        while True:
            try:
                event = client.wait_for_event(deadline - time.monotonic())
            except TimeoutError:
                raise TimeoutError(
                    f"{self.name}: no QMP event that the filter is true for came within {limit:g} s"
                ) from None
            if event_filter(event):
                return event
