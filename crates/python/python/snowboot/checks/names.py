"""Names that nothing can be behind, found without any tool."""

from __future__ import annotations

import ast
import builtins
import symtable
from collections.abc import Iterable, Iterator

from ..source import Script

# Whoever uses one of these may give names values in ways that are not seen here, or looks at what is missing.
_UNSEEN = {"NameError", "UnboundLocalError", "__builtins__", "builtins", "eval", "exec", "globals", "locals", "vars"}
# Names of every module.
_OF_MODULES = {"__annotations__", "__builtins__", "__doc__", "__name__"}


def unknown_names(script: Script, given: Iterable[str]) -> list[tuple[str, int]]:
    """Names that the script uses, that it never gives a value to and that are neither Python's nor given, with the
    lines of their first use. Nothing is told of scripts that may give values unseen."""
    tree = script.parse()
    used: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            used[node.id] = min(node.lineno, used.get(node.id, node.lineno))
    stars = any(
        isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names) for node in ast.walk(tree))
    if stars or used.keys() & _UNSEEN:
        return []
    table = symtable.symtable(script.text, script.name, "exec")
    known = set(given) | set(dir(builtins)) | _OF_MODULES | set(_values(table))
    unknown = {name for name in _globals(table) if name not in known}
    return sorted(((name, used[name]) for name in unknown & used.keys()), key=lambda found: found[1])


def _tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _tables(child)


def _values(top: symtable.SymbolTable) -> Iterator[str]:
    """Names of the module that something gives a value to, wherever that is."""
    for table in _tables(top):
        for symbol in table.get_symbols():
            gets_one = symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace() or symbol.is_annotated()
            if gets_one and (table is top or symbol.is_declared_global()):
                yield symbol.get_name()


def _globals(top: symtable.SymbolTable) -> Iterator[str]:
    """Names that are looked up in the module."""
    for table in _tables(top):
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (symbol.is_global() or table is top):
                yield symbol.get_name()
