"""A machine's life: start, end, power."""

from __future__ import annotations

import os

from ..duration import Duration, optional_seconds
from .core import Core


class Process:
    """One run of a machine as the process that it is upstream. The machine runs in this very process."""

    def __init__(self, power: Power) -> None:
        self._power = power
        self._start = power._native.starts
        self.pid = os.getpid()
        """This process, which has all machines. To end one, use its `crash()`."""

    def poll(self) -> int | None:
        """None while it runs; afterwards 0."""
        native = self._power._native
        return None if native.alive and native.starts == self._start else 0

    @property
    def returncode(self) -> int | None:
        """As `poll`."""
        return self.poll()

    def wait(self, timeout: Duration | None = None) -> int:
        """Waits for its end and returns 0. RequestedAssertionFailed when the time is up."""
        if self.poll() is None:
            self._power.wait_for_shutdown(timeout)
        return 0

    def terminate(self) -> None:
        """Cuts the machine's power."""
        if self.poll() is None:
            self._power.crash()

    kill = terminate


class ShellSocket:
    """A machine's backdoor shell as the socket that it is upstream: raw bytes, outside of the protocol of commands.

    The next command of the driver skips whatever these bytes brought about.
    """

    def __init__(self, power: Power) -> None:
        self._native = power._native
        self._timeout: float | None = None

    def send(self, data: bytes) -> int:
        """Writes all of it, and returns how many bytes that were."""
        self._native.shell_send(bytes(data))
        return len(data)

    def sendall(self, data: bytes) -> None:
        """Writes all of it."""
        self._native.shell_send(bytes(data))

    def settimeout(self, timeout: float | None) -> None:
        """How long `recv` waits; None is without limit."""
        self._timeout = timeout

    def recv(self, bufsize: int) -> bytes:
        """Waits for some bytes; none when the machine has ended. TimeoutError when the time is up."""
        data = self._native.shell_receive(bufsize, self._timeout)
        if data is None:
            raise TimeoutError(f"{self._native.name}: nothing came from its shell within {self._timeout:g} s")
        return data


class Power(Core):
    """Starts a machine and ends it."""

    def start(self, allow_reboot: bool = False) -> None:
        """Starts it and returns while it boots. Nothing happens when it runs.

        A guest's reset ends its machine. With `allow_reboot` it starts the machine again, with the same disks; the next
        command waits for the new shell. The console log goes on.
        """
        self._native.start(allow_reboot)

    def reboot(self) -> None:
        """Asks the guest to reboot, as ctrl-alt-delete does, and returns at once.

        For machines started with `allow_reboot=True`; the next command waits for the new shell. Others end.
        """
        self._native.reboot()

    def switch_root(self) -> None:
        """Leaves stage 1 for stage 2 and connects to its shell. For guests with a backdoor in the initrd."""
        self._native.switch_root()

    def release(self) -> None:
        """Ends the machine without a word."""
        self._native.release()

    def connect(self) -> None:
        """Starts it if need be, and waits for its shell."""
        self._native.connect()

    def is_up(self) -> bool:
        """Whether it runs and its shell answers."""
        return self._native.is_up()

    def shutdown(self) -> None:
        """Asks the guest to power off, and waits until it has."""
        self._native.shutdown()

    def crash(self) -> None:
        """Cuts the power. What the guest had flushed is on its disks; nothing else is promised."""
        self._native.crash()

    def wait_for_shutdown(self, timeout: Duration | None = None) -> None:
        """Waits for its end, however that comes; does not ask for it."""
        self._native.wait_for_shutdown(optional_seconds(timeout))

    @property
    def process(self) -> Process | None:
        """The machine's run as a process; None while it is off."""
        return Process(self) if self.booted else None

    @property
    def pid(self) -> int | None:
        """The process that the machine runs in, which is this one; None while it is off."""
        return os.getpid() if self.booted else None

    @property
    def shell(self) -> ShellSocket | None:
        """Its shell for raw bytes; None while it is off."""
        if not self.booted:
            return None
        shell: ShellSocket | None = self.__dict__.get("_shell")
        if shell is None:
            shell = self.__dict__["_shell"] = ShellSocket(self)
        return shell
