"""What can be told of a test script without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterable

# What gives the elements of its argument on, one by one.
_PASS_ON = {"enumerate", "iter", "list", "reversed", "set", "sorted", "tuple", "zip"}
# Whoever names these has machines started, or makes some.
_STARTERS = {"create_machine", "start_all"}


def starts_machines(script: ast.AST, machines: Iterable[str]) -> bool:
    """Whether a script says itself when machines start. One that does not wants them all, and soon.

    `machines` are the variables that hold machines. Only theirs is a `start` that counts, and that of what the script
    takes from `machines`: threads and matches of regular expressions have one too.
    """
    names = _Names({*machines, "Machine", "machine"})
    # A name may get its value below the function that uses it, and from another one: until nothing is new.
    while names.learn(script):
        pass
    return any(_is_starter(node, names) for node in ast.walk(script))


def _is_starter(node: ast.AST, names: _Names) -> bool:
    match node:
        case ast.Name(id=name):
            return name in _STARTERS
        case ast.Attribute(value=owner, attr="start"):
            return names.is_machine(owner)
        case ast.Attribute(attr=name):
            return name in _STARTERS
    return False


class _Names:
    """Which variables of a script hold a machine, and which hold several."""

    def __init__(self, machines: set[str]) -> None:
        self.single = machines
        self.many = {"machines"}

    def is_machine(self, node: ast.AST) -> bool:
        match node:
            case ast.Name(id=name):
                return name in self.single
            case ast.Subscript(value=value, slice=index):
                return self.are_machines(value) and not isinstance(index, ast.Slice)
            case ast.Call(func=ast.Attribute(attr="machine")):
                return True
        return False

    def are_machines(self, node: ast.AST) -> bool:
        match node:
            case ast.Name(id=name):
                return name in self.many
            case ast.Attribute(attr=name):
                return name == "machines"
            case ast.Subscript(value=value, slice=ast.Slice()):
                return self.are_machines(value)
            case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
                return any(self.is_machine(item) for item in items)
            case ast.Call(func=ast.Name(id=function), args=arguments):
                return function in _PASS_ON and any(self.are_machines(it) for it in arguments)
        return False

    def learn(self, script: ast.AST) -> bool:
        """Looks through loops and assignments; tells whether there was anything new."""
        before = len(self.single) + len(self.many)
        for node in ast.walk(script):
            match node:
                case ast.For(target=target, iter=source) | ast.comprehension(target=target, iter=source):
                    if self.are_machines(source):
                        self.single |= _variables(target)
                case ast.Assign(targets=[target], value=value) | ast.NamedExpr(target=target, value=value):
                    if self.is_machine(value):
                        self.single |= _variables(target)
                    elif self.are_machines(value):
                        # `a, b = machines` takes them apart.
                        known = self.many if isinstance(target, ast.Name) else self.single
                        known |= _variables(target)
        return len(self.single) + len(self.many) > before


def _variables(target: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(target) if isinstance(node, ast.Name)}
