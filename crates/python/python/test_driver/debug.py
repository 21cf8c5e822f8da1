"""`debug.breakpoint()`."""

from snowboot.debug import Debug

DebugAbstract = Debug
DebugNop = Debug

__all__ = ["Debug", "DebugAbstract", "DebugNop"]
