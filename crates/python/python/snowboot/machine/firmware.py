"""EFI variables. Machines boot their kernel without firmware, so there are none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NoReturn

from ..errors import MachineError
from .core import Core

if TYPE_CHECKING:
    from ..efi import EfiVariable


class Firmware(Core):
    """What needs an EFI firmware: every call is refused with MachineError, once its arguments are right."""

    def create_efi_vars(self) -> None:
        """Makes the file of EFI variables."""
        self._no_firmware("create_efi_vars")

    def write_efi_vars(self, variables: Iterable[EfiVariable]) -> None:
        """Writes EFI variables."""
        from ..efi import EfiVariable

        for variable in variables:
            if not isinstance(variable, EfiVariable):
                raise TypeError(f"write_efi_vars() needs EfiVariables, got {variable!r}")
        self._no_firmware("write_efi_vars")

    def read_efi_vars(self) -> list[EfiVariable]:
        """All EFI variables."""
        self._no_firmware("read_efi_vars")

    def dump_efi_vars(self) -> None:
        """Logs all EFI variables."""
        self._no_firmware("dump_efi_vars")

    def _no_firmware(self, method: str) -> NoReturn:
        raise MachineError(
            f"{self.name}: {method}(): this machine has no EFI firmware: its kernel is booted directly, as the manifest "
            "names it"
        )
