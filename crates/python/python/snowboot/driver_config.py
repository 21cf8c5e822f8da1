"""The configuration file of the NixOS test driver: one JSON object, which the NixOS test framework writes.

Its keys are `vms` and `containers` (name: {name, start_script}), `vlans`, `global_timeout` (seconds), `test_script` (a path)
and `enable_ssh_backdoor`. Where it has a machine's start script, here is the machine's description: a TOML or JSON file
with what a manifest has below `[machines.NAME]`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import ManifestError

DEFAULT_TIMEOUT = 3600
"""Seconds for a test that does not say, as in the NixOS test framework."""


@dataclass(frozen=True)
class DriverConfig:
    """The machines of a test, each described in a file of its own."""

    vms: dict[str, Path]
    """The machines' descriptions, by name."""
    test_script: Path
    name: str = "nixos-test"
    """The test's name, which the file does not have."""
    global_timeout: int = DEFAULT_TIMEOUT
    vlans: list[int] = field(default_factory=list)
    enable_ssh_backdoor: bool = False


def load(path: str | os.PathLike[str], test_script: Path | None = None) -> DriverConfig:
    """Reads a configuration. `test_script` goes before the file's. ManifestError when it cannot be used."""
    path = Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ManifestError(f"Cannot read the configuration {path}: {error.strerror}") from error
    except ValueError as error:
        raise ManifestError(f"{path}: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ManifestError(f"{path}: expected an object with `vms` and `test_script`")
    if found.get("containers"):
        names = ", ".join(found["containers"])
        raise ManifestError(f"{path}: containers ({names}) are not supported; make nodes of them")
    script = test_script or _value(path, found, "test_script", str, "")
    if not script:
        raise ManifestError(f"{path}: `test_script` is missing; add it, or give --test-script")
    return DriverConfig(
        vms=dict(_machine(path, *it) for it in _value(path, found, "vms", dict, {}).items()),
        test_script=path.parent / script if test_script is None else test_script,
        global_timeout=_value(path, found, "global_timeout", int, DEFAULT_TIMEOUT),
        vlans=_numbers(path, _value(path, found, "vlans", list, [])),
        enable_ssh_backdoor=_value(path, found, "enable_ssh_backdoor", bool, False),
    )


def of_start_scripts(scripts: Iterable[str], test_script: Path, global_timeout: int, vlans: list[int]) -> DriverConfig:
    """The same of what the driver was told before it had a configuration file. A machine's name is in its file's: NAME in
    `run-NAME-vm`, or else the name without its end."""
    vms: dict[str, Path] = {}
    for script in scripts:
        found = re.fullmatch(r"run-(.+)-vm", Path(script).name)
        name = found[1] if found else Path(script).stem
        if name in vms:
            raise ManifestError(f"{vms[name]} and {script} are both of a machine `{name}`: rename one")
        vms[name] = Path(script)
    return DriverConfig(vms=vms, test_script=test_script, global_timeout=global_timeout, vlans=vlans)


def _machine(file: Path, key: str, entry: Any) -> tuple[str, Path]:
    if not isinstance(entry, dict) or not isinstance(entry.get("start_script"), str):
        raise ManifestError(f"{file}: `vms.{key}` needs a `start_script`: the path of the machine's description")
    return str(entry.get("name") or key), file.parent / entry["start_script"]


def _numbers(file: Path, values: list[Any]) -> list[int]:
    try:
        return [int(value) for value in values]
    except (TypeError, ValueError) as error:
        raise ManifestError(f"{file}: `vlans` is {values!r}; expected a list of numbers") from error


def _value(file: Path, found: dict[str, Any], key: str, kind: type, default: Any) -> Any:
    value = found.get(key, default)
    # A truth value is a number to Python.
    if value is None or not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ManifestError(f"{file}: `{key}` is {value!r}; expected {kind.__name__}")
    return value
