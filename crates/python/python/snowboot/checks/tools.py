"""The tools of others that check types and lint, and how each is told of a test's script.

A tool sees the script as a file in a folder of its own, and what it says of that file is told of the script's. Configuration
of the user's or of a project around the current folder is kept out: the verdict is the same wherever a test is run.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..source import Script

PATIENCE = 300.0
"""Seconds for a tool. mypy takes 20 the first time; one that takes this long has got stuck."""
FILE = "script.py"
GLOBALS = "test_script_globals"
_PACKAGES = Path(__file__).resolve().parents[2]
# `FILE:LINE:COLUMN: words`, without the column where the tool has none.
_PLACE = rf"^(?:\S*/)?{re.escape(FILE)}:(\d+):(?:(\d+):)?\s*(.*)$"
# Of ty's: what it is not sure of itself, and what mypy, which looked at the scripts of NixOS for years, has let pass in
# them. Its rules get other names now and then, so they are not named on its command line.
_LET_PASS = r"(warning|info)\[|error\[(deprecated|import-not-found|invalid-assignment|possibly-\S*|unresolved-import)\]"
# What only says that ruff could repair it.
_FIXABLE = "[*] "


class Tool(NamedTuple):
    """A tool, and what it is to look at."""

    name: str
    arguments: list[str]
    script: Script
    files: dict[str, str]
    """What is in its folder, by name."""
    shift: tuple[int, int] = (0, 0)
    """After which line of the script how many lines were put in."""

    @property
    def program(self) -> str | None:
        """Where it is: beside this interpreter, or on the PATH."""
        # Not `shutil.which`: most runs need nothing else of that module, which takes as long to load as all of this folder.
        folders = [os.path.dirname(sys.executable), *os.environ.get("PATH", "").split(os.pathsep)]
        paths = (os.path.join(folder, self.name) for folder in folders if folder)
        return next((path for path in paths if os.path.isfile(path) and os.access(path, os.X_OK)), None)


def type_tools(script: Script, machines: Iterable[str], networks: Iterable[str]) -> list[Tool]:
    """Those that check types, the better one first."""
    text, line = _with_names(script)
    files = {FILE: text, f"{GLOBALS}.pyi": _declarations(machines, networks)}
    version = "{}.{}".format(*sys.version_info)
    roots = _module_folders()
    ty = [
        "check", "--output-format", "concise", "--no-progress", "--color", "never", "--python-version", version,
        "--python", sys.prefix,
        *(word for root in roots for word in ("--extra-search-path", root)), FILE,
    ]
    mypy = [
        # As the NixOS test framework calls it, and quiet about packages without types.
        "--no-implicit-optional", "--ignore-missing-imports", "--config-file=", "--cache-dir", str(_cache() / "mypy"),
        "--python-executable", sys.executable, "--follow-imports", "silent", "--no-error-summary", "--no-color-output",
        "--hide-error-context", "--show-column-numbers", "--show-error-codes", FILE,
    ]
    return [Tool("ty", ty, script, files, (line, 1)), Tool("mypy", mypy, script, files, (line, 1))]


def lint_tools(script: Script, names: Iterable[str]) -> list[Tool]:
    """Those that lint."""
    # Names need no more quoting in TOML than this.
    builtins = "builtins = [{}]".format(", ".join(f'"{name}"' for name in sorted(names)))
    # pyflakes' rules: what is wrong, and not what could be nicer.
    ruff = ["check", "--isolated", "--no-cache", "--quiet", "--no-fix", "--output-format", "concise", "--select", "F",
            "--config", builtins, FILE]
    return [Tool("ruff", ruff, script, {FILE: script.text})]


def run(tool: Tool) -> tuple[list[str], str | None]:
    """Has a tool check; gives its complaints, and the reason when it gives no verdict."""
    import subprocess
    import tempfile

    with tempfile.TemporaryDirectory(prefix="snowboot-check-") as folder:
        for name, text in tool.files.items():
            Path(folder, name).write_text(text, encoding="utf-8")
        try:
            ran = subprocess.run(
                [tool.program or tool.name, *tool.arguments], cwd=folder, env=_environment(folder), text=True,
                stdin=subprocess.DEVNULL, capture_output=True, errors="replace", timeout=PATIENCE, check=False)
        except OSError as error:
            return [], f"cannot run {tool.name}: {error.strerror}"
        except subprocess.TimeoutExpired:
            return [], f"{tool.name} does not end within {PATIENCE:g} s"
    if ran.returncode not in (0, 1) or (ran.returncode == 1 and not ran.stdout.strip()):
        words = (ran.stderr.strip() or ran.stdout.strip() or "it said nothing").splitlines()[-1]
        return [], f"{tool.name} ended with status {ran.returncode}: {words}"
    return [line for line in map(lambda line: _placed(line, tool), ran.stdout.splitlines()) if line], None


def _placed(line: str, tool: Tool) -> str | None:
    """A tool's line with the script's file and line; None for one that is about no place."""
    found = re.match(_PLACE, line)
    if found is None or re.match(_LET_PASS, found[3]):
        return None
    number, (after, shift) = int(found[1]), tool.shift
    if number > after:
        number = max(number - shift, 1)
    column = f":{found[2]}" if found[2] else ""
    return f"{tool.script.name}:{number}{column}: {found[3].replace(_FIXABLE, '')}"


def _with_names(script: Script) -> tuple[str, int]:
    """The script with a line that has the test's names in it, and after which line that is: what a script imports from
    the future has to stay the first."""
    last = 0
    for node in script.parse().body:
        match node:
            case ast.Expr(value=ast.Constant(value=str())) if node is script.parse().body[0]:
                pass
            case ast.ImportFrom(module="__future__"):
                last = node.end_lineno or 0
    lines = script.text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    lines.insert(last, f"from {GLOBALS} import *\n")
    return "".join(lines), last


def _declarations(machines: Iterable[str], networks: Iterable[str]) -> str:
    """A stub with the names of every script, and this test's machines and networks."""
    variables = set(machines)
    if len(variables) == 1:
        variables.add("machine")
    lines = [f"{name}: Machine" for name in sorted(variables)]
    lines += [f"{name}: VLan" for name in sorted(networks)]
    return "\n".join(["from snowboot.script_globals import *", "from snowboot import Machine as Machine",
                      "from snowboot.vlan import VLan", *lines, ""])


def _module_folders() -> list[str]:
    """Where modules are besides those that a tool finds by asking the interpreter."""
    given = [Path(entry).resolve() for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    known = {Path(entry) for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")}
    return [str(folder) for folder in dict.fromkeys([_PACKAGES, *given]) if folder.is_dir() and folder not in known]


def _environment(folder: str) -> dict[str, str]:
    # No configuration of the user's.
    changed = {"MYPYPATH": os.pathsep.join(_module_folders()), "XDG_CONFIG_HOME": folder, "NO_COLOR": "1"}
    return {**os.environ, **changed}


def _cache() -> Path:
    """Snowboot's folder for what can be made again."""
    if named := os.environ.get("SNOWBOOT_CACHE_DIR"):
        return Path(named).absolute()
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.environ.get("HOME") or _temporary(), ".cache")
    return Path(home, "snowboot").absolute()


def _temporary() -> str:
    import tempfile

    return tempfile.gettempdir()
