"""QEMU's monitor for people (HMP), as far as a machine of Snowboot has what it is about."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import MachineError
from ..text import Text, text
from .core import Core
from .qmp import QMPAPIError, card_of, cards

PROMPT = "(qemu) "

HELP = """\
cont|c -- resume emulation
help|? -- show the help
hostfwd_add [netdev] [tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport -- redirect connections from host to guest
info network|status|version -- show various information about the system state
quit|q -- end the machine
set_link name on|off -- change the link status of a network adapter
stop|s -- stop emulation
system_powerdown -- send system power down event
system_reset -- reset the system"""

NO_DISPLAY = "the machine has no display, keyboard or mouse"
NO_HOST_CARD = "the machine has no network card that leads to the host; give it `user-network = true` in the manifest"
FORWARDS_STAY = "forwards stay until the machine's end"
NO_HOTPLUG = "the machine's devices are those of its manifest; none can be added or removed while it runs"
REFUSED = {
    "change": NO_HOTPLUG,
    "device_add": NO_HOTPLUG,
    "device_del": NO_HOTPLUG,
    "drive_add": NO_HOTPLUG,
    "eject": NO_HOTPLUG,
    "hostfwd_remove": FORWARDS_STAY,
    "mouse_button": NO_DISPLAY,
    "mouse_move": NO_DISPLAY,
    "netdev_add": NO_HOTPLUG,
    "netdev_del": NO_HOTPLUG,
    "screendump": NO_DISPLAY,
    "sendkey": NO_DISPLAY,
    "usb_add": NO_HOTPLUG,
    "usb_del": NO_HOTPLUG,
}
SHORT = {"?": "help", "c": "cont", "q": "quit", "s": "stop"}


class MonitorSocket:
    """The monitor as the socket that it is upstream: commands in, texts up to the next prompt out."""

    def __init__(self, ask: Callable[[str], str]) -> None:
        self._ask = ask
        self._command = b""
        self._answers = b""

    def sendall(self, data: bytes) -> None:
        """Carries out every whole line."""
        *lines, self._command = (self._command + data).split(b"\n")
        for line in lines:
            self._answers += self._ask(line.decode()).encode()

    def send(self, data: bytes) -> int:
        """As `sendall`; the number of bytes."""
        self.sendall(data)
        return len(data)

    def recv(self, bufsize: int) -> bytes:
        """What has been answered and not read yet."""
        answer, self._answers = self._answers[:bufsize], self._answers[bufsize:]
        return answer


class Monitor(Core):
    """Gives commands to a machine's monitor."""

    @property
    def monitor(self) -> MonitorSocket | None:
        """The monitor as a socket; None while the machine is off."""
        if not self.booted:
            return None
        monitor: MonitorSocket | None = self.__dict__.get("_monitor")
        if monitor is None:
            monitor = self.__dict__["_monitor"] = MonitorSocket(self.send_monitor_command)
        return monitor

    def send_monitor_command(self, command: Text) -> str:
        """Gives a command to the monitor; returns its echo and its answer up to and including the next prompt.

        MachineError for commands about what the machine has not, and for those that are not known.
        """
        line = text(command).strip()
        self.run_callbacks()
        name, *arguments = line.split() or [""]
        name = SHORT.get(name, name)
        if name in REFUSED:
            raise self._refusal(line, REFUSED[name])
        if not self.booted:
            raise self._refusal(line, "the machine is not running")
        try:
            answer = self._answer(line, name, arguments)
        except QMPAPIError as error:
            raise self._refusal(line, error.description) from None
        shown = "".join(part + "\r\n" for part in [line, *answer.splitlines()])
        return shown if name == "quit" else shown + PROMPT

    def _refusal(self, line: str, why: str) -> MachineError:
        return MachineError(f"{self.name}: monitor command `{line}`: {why}")

    def _answer(self, line: str, name: str, arguments: list[str]) -> str:
        native = self._native
        match [name, *arguments]:
            case [""]:
                return ""
            case ["help", *_]:
                return HELP
            case ["info", what]:
                return self._info(line, what)
            case ["quit"]:
                native.crash()
            case ["stop"]:
                native.pause()
            case ["cont"]:
                native.resume()
            case ["system_powerdown"]:
                native.press_power_button()
            case ["system_reset"]:
                native.reset()
            case ["set_link", card, "on" | "off" as state]:
                native.set_card_link(card_of(native, card), state == "on")
            case ["hostfwd_add", *_, rule]:
                if not native.reaches_host:
                    raise self._refusal(line, NO_HOST_CARD)
                try:
                    native.forward_port(rule)
                except ValueError as error:
                    raise self._refusal(line, str(error)) from None
            case _:
                raise self._refusal(line, f"there is no such command here, or not so; there are:\n{HELP}")
        return ""

    def _info(self, line: str, what: str) -> str:
        native = self._native
        match what:
            case "status":
                return f"VM status: {'paused' if native.paused else 'running'}"
            case "version":
                return "snowboot"
            case "network":
                return "\n".join(f"{card}: type=nic" for card in cards(native))
        raise self._refusal(line, "there is `info network`, `info status` and `info version`")
