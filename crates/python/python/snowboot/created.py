"""Machines that a script makes itself: what `create_machine` takes, and what it makes of a command line of QEMU."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import MachineError

# What stands in the place of a file's name for a description that is in none.
_NO_FILE = "create_machine.json"


@dataclass(frozen=True)
class Description:
    """The description of a machine, as text."""

    name: str
    file: Path
    """Its form is told by the name, and paths in the text count from the folder."""
    text: str

    def told(self, error: str) -> str:
        """An error about the text. What is in no file has no lines either."""
        return re.sub(r"^.*\.json:\d+:\d+: ", "", error) if self.file.name == _NO_FILE else error


def description(start_command: object, folder: Path, name: str | None) -> Description:
    """What is to be made of the argument of `create_machine`.

    TypeError when it is neither a mapping nor a text; MachineError when it is something for QEMU, or a file that
    cannot be read.
    """
    if isinstance(start_command, Mapping):
        try:
            text = json.dumps(dict(start_command), default=_plain)
        except (TypeError, ValueError) as error:
            raise TypeError(f"create_machine(): the description is no plain data: {error}") from None
        return Description(name or "machine", folder / _NO_FILE, text)
    if not isinstance(start_command, (str, os.PathLike)):
        raise TypeError(f"create_machine() needs the description of a machine or a path, got {start_command!r}")
    path = Path(start_command)
    if path.suffix.lower() not in (".toml", ".json"):
        raise MachineError(_refusal(str(start_command), name or _name_in(str(start_command))))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MachineError(f"{name or path.stem}: create_machine(): cannot read {path}: {error}") from None
    return Description(name or path.stem, path.absolute(), text)


def _plain(value: object) -> str:
    if isinstance(value, os.PathLike):
        return str(os.fspath(value))
    raise TypeError(f"{value!r} has no place in it")


def _name_in(command: str) -> str:
    """The machine's name in the path of a start script of NixOS."""
    found = re.search(r"run-(.+)-vm$", command)
    return found[1] if found else "machine"


def _refusal(command: str, name: str) -> str:
    parts = translated(command)
    instead = (
        f"create_machine({json.dumps(parts)}, name={name!r})" if parts
        else f"create_machine({{'toplevel': '/nix/store/...-nixos-system-{name}'}}, name={name!r})"
    )
    return (
        f"{name}: create_machine() cannot run a command line of QEMU or a start script ({command[:200]!r}): machines run in "
        f"this process. Describe the machine with the keys of a manifest's [machines.NAME] table instead, such as {instead}"
    )


def translated(command: str) -> dict[str, object]:
    """What a manifest would say for the options of a QEMU command line that mean something here."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    parts: dict[str, object] = {}
    disks: list[dict[str, object]] = []
    for option, value in zip(words, words[1:]):
        match option.lstrip("-") if option.startswith("-") else "":
            case "m":
                parts["memory"] = _memory(value)
            case "smp":
                count = re.search(r"\d+", value)
                if count:
                    parts["vcpus"] = int(count[0])
            case "kernel":
                parts["kernel"] = value
            case "initrd":
                parts["initrd"] = value
            case "append":
                parts["cmdline"] = value
            case "drive":
                fields = dict(field.split("=", 1) for field in value.split(",") if "=" in field)
                if "file" in fields:
                    disks.append(_disk(fields))
            case "hda" | "hdb":
                disks.append({"path": value})
    return parts | ({"disks": disks} if disks else {})


def _memory(value: str) -> str | int:
    size = value.split(",")[0].removeprefix("size=")
    return int(size) if size.isdigit() else size


def _disk(fields: dict[str, str]) -> dict[str, object]:
    disk: dict[str, object] = {"path": fields["file"]}
    if fields.get("readonly", fields.get("read-only", "off")) in ("on", "true"):
        disk["read-only"] = True
    if "serial" in fields:
        disk["serial"] = fields["serial"]
    return disk
