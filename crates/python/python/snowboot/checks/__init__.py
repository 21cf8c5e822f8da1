"""What is looked at in a test's script before anything runs: syntax, names, types and lint.

Syntax and names need nothing but Python. Types are checked by ty, or by mypy where that is installed and ty is not,
against this package's own annotations; lint by ruff, with the rules of pyflakes. The NixOS test framework has the same
kinds of tools look at a script when it builds a test.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..source import Script
from .names import unknown_names
from .tools import Tool, lint_tools, run, type_tools

__all__ = ["Outcome", "check"]


class Outcome(NamedTuple):
    """What one check has found."""

    name: str
    """What was checked, and by what."""
    complaints: Sequence[str] = ()
    """Lines that tell what is wrong, each with the script's file and line."""
    skipped: str | None = None
    """Why it was not checked, and what to do about that."""
    trouble: str | None = None
    """Why the tool gave no verdict."""


def check(
    script: Script,
    machines: Iterable[str],
    networks: Iterable[str],
    names: Iterable[str],
    *,
    types: bool = True,
    lint: bool = True,
) -> list[Outcome]:
    """Checks a script. `machines` and `networks` are the variables of these, `names` all that the script finds."""
    try:
        # To the end: some of what is no Python is found after parsing.
        compile(script.parse(), script.name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        import traceback

        return [Outcome("syntax", complaints="".join(traceback.format_exception_only(error)).splitlines())]
    return [
        Outcome("syntax"),
        _names(script, names) if lint else Outcome("names", skipped="as --skip-lint asks"),
        _by("types", type_tools(script, machines, networks)) if types else Outcome("types", skipped="as --skip-type-check asks"),
        _by("lint", lint_tools(script, names)) if lint else Outcome("lint", skipped="as --skip-lint asks"),
    ]


def _names(script: Script, names: Iterable[str]) -> Outcome:
    unknown = unknown_names(script, names)
    return Outcome("names", [f"{script.name}:{line}: error: nothing is called `{name}`" for name, line in unknown])


def _by(name: str, tools: list[Tool]) -> Outcome:
    """The verdict of the first tool that is installed."""
    for tool in tools:
        if tool.program is None:
            continue
        complaints, trouble = run(tool)
        return Outcome(f"{name} ({tool.name})", complaints, trouble=trouble)
    words = " or ".join(tool.name for tool in tools)
    return Outcome(name, skipped=f"{words} is not installed; `pip install {tools[0].name}` gets it")
