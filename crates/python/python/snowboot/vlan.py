"""The networks of a test."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from . import _native
from .amounts import Span, bits_per_second, bytes_of, probability, seconds
from .errors import MachineError

if TYPE_CHECKING:
    from .machine import Machine

Chance = int | float | str
"""A probability: a number from 0 to 1, or a text such as "5%"."""


class VLan:
    """A VLAN: the switch that machines of this number, or of this name, are plugged into.

    It lives in this process. Nothing but machines can be plugged into it. Machines may be given by their names, too.
    """

    def __init__(self, nr: int, name: str, native: _native.Driver, out_dir: Path) -> None:
        self.nr = nr
        """Its number."""
        self.name = name
        """Its name in the manifest, or `vlan` and its number: what the log and files call it."""
        self._native = native
        self._out_dir = out_dir

    def __repr__(self) -> str:
        return f"<VLan {self.nr}>" if self.name == f"vlan{self.nr}" else f"<VLan {self.nr} {self.name}>"

    @property
    def machines(self) -> list[str]:
        """The names of the machines that are plugged into it."""
        return self._native.machines_of(self.nr)

    def impair(
        self,
        a: Machine | str,
        b: Machine | str,
        *,
        both: bool = True,
        delay: Span = 0,
        jitter: Span = 0,
        spread: Literal["uniform", "normal", "pareto"] = "uniform",
        loss: Chance = 0,
        burst: tuple[Chance, Chance, Chance] | None = None,
        duplicate: Chance = 0,
        corrupt: Chance = 0,
        reorder: Chance = 0,
        reorder_by: Span = "5ms",
        rate: int | float | str | None = None,
        queue: int | str = "256KiB",
        flap: tuple[Span, Span] | None = None,
        cut: bool = False,
        seed: int | None = None,
    ) -> None:
        """Makes the way from `a` to `b` worse, and with `both` the way back in the same manner.

        It takes the place of former faults of these ways, and stays until `heal`. Each direction has all of it: with a
        delay of 20 ms in both, an answer takes 40. Without `seed` one is drawn from the run's (`driver.seed`); the log tells it.

        * delay, jitter: how long a frame takes, and how far that varies; `spread` is "uniform" (plus or minus at most
          `jitter`), "normal" or "pareto" (`jitter` is the standard deviation). The order of frames stays.
        * loss: the probability that a frame is lost. burst: (enter, leave, loss), losses in bursts (Gilbert-Elliott).
        * duplicate, corrupt: that a frame arrives twice, or with one bit flipped.
        * reorder: that a frame is held back for `reorder_by`, and overtaken.
        * rate: bits per second, or "10Mbit". queue: the bytes that may wait for that, or "64KiB".
        * flap: (up, down), times for which frames pass and do not, by turns.
        * cut: nothing passes.
        """
        faults: dict[str, object] = {
            "seed": seed,
            "cut": cut,
            "flap": None if flap is None else (seconds(flap[0]), seconds(flap[1])),
            "loss": probability(loss),
            "burst": None if burst is None else tuple(probability(part) for part in burst),
            "duplicate": probability(duplicate),
            "corrupt": probability(corrupt),
            "rate": None if rate is None else bits_per_second(rate),
            "queue": bytes_of(queue),
            "delay": seconds(delay),
            "jitter": seconds(jitter),
            "spread": spread,
            "reorder": probability(reorder),
            "reorder_by": seconds(reorder_by),
        }
        self._native.impair(self.nr, _name(a), _name(b), both, faults)

    def cut(self, a: Machine | str, b: Machine | str, *, both: bool = True) -> None:
        """Lets nothing pass from `a` to `b`, and with `both` nothing back. It takes the place of other faults there."""
        self.impair(a, b, both=both, cut=True, seed=0)

    def partition(self, *groups: Iterable[Machine | str]) -> None:
        """Lets machines of different groups reach each other no more, in place of a former partition.

        A machine that is in no group reaches all. Once this returns, not even what was under way arrives.
        """
        self._native.partition(self.nr, _groups(groups))

    def heal(self, a: Machine | str | None = None, b: Machine | str | None = None, *, both: bool = True) -> None:
        """Takes all faults and the partition away, or the faults of the way between two machines. What is under way arrives."""
        if a is None and b is None:
            self._native.heal(self.nr)
        elif a is None or b is None:
            raise TypeError("heal() takes two machines, or none")
        else:
            self._native.repair(self.nr, _name(a), _name(b), both)

    def capture(self, file: str | os.PathLike[str]) -> Capture:
        """Writes all frames from now on to a file in the format pcapng, until `stop` or the run's end.

        The path counts from `driver.out_dir`. An interface is a machine's card, as `client:eth1`, and has the name of the VLAN as its description; what a fault or a full
        queue has dropped is there with a comment. With `with`, the capture ends with the block:

            with vlan1.capture("ping.pcapng"):
                client.succeed("ping -c 1 server")
        """
        path = self._out_dir / file
        return Capture(path, self._native.capture(self.nr, path))

    @property
    def socket_dir(self) -> Path:
        """Refused with MachineError: the NixOS driver's vde_switch has sockets in a folder, a switch in this process none."""
        raise MachineError(
            f"{self.name} has no socket_dir: its switch is in this process, and no vde_switch that other programs "
            "could be plugged into"
        )


class Capture:
    """A capture under way."""

    def __init__(self, path: Path, native: _native.Capture) -> None:
        self.path = path
        """The file. It can be opened at any moment."""
        self._native = native

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends it; all frames so far are in the file then. Nothing happens the second time."""
        self._native.stop()


class Network:
    """All VLANs of a test together."""

    def __init__(self, vlans: list[VLan], native: _native.Driver) -> None:
        self.vlans = vlans
        """The VLANs, by number."""
        self._native = native

    def partition(self, *groups: Iterable[Machine | str]) -> None:
        """Partitions every VLAN: machines of different groups reach each other no more on any of them."""
        self._native.partition(None, _groups(groups))

    def heal(self) -> None:
        """Takes all faults of all VLANs away."""
        self._native.heal(None)


def _groups(groups: Iterable[Iterable[Machine | str]]) -> list[list[str]]:
    for group in groups:
        if isinstance(group, str) or not isinstance(group, Iterable):
            raise TypeError(f"partition() takes lists of machines, as in partition([a, b], [c]), got {group!r}")
    return [[_name(machine) for machine in group] for group in groups]


def _name(machine: Machine | str) -> str:
    name = machine if isinstance(machine, str) else getattr(machine, "name", None)
    if not isinstance(name, str):
        raise TypeError(f"expected a machine or its name, got {machine!r}")
    return name
