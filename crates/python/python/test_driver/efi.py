"""EFI variables."""

from snowboot.efi import EfiVariable, EfiVariableAttributes

__all__ = ["EfiVariable", "EfiVariableAttributes"]
