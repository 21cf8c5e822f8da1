"""EFI variables, as scripts of the NixOS test driver write them. Machines boot without firmware, so none has any."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from enum import IntFlag


class EfiVariableAttributes(IntFlag):
    """How a variable is kept (UEFI 2.10, 8.2 GetVariable)."""

    NON_VOLATILE = 0x1
    BOOTSERVICE_ACCESS = 0x2
    RUNTIME_ACCESS = 0x4


@dataclass
class EfiVariable:
    """A variable of an EFI firmware."""

    NON_VOLATILE = EfiVariableAttributes.NON_VOLATILE
    BOOTSERVICE_ACCESS = EfiVariableAttributes.BOOTSERVICE_ACCESS
    RUNTIME_ACCESS = EfiVariableAttributes.RUNTIME_ACCESS

    vendor_uuid: uuid.UUID
    name: str
    data: bytes
    flags: int = (
        EfiVariableAttributes.NON_VOLATILE
        | EfiVariableAttributes.BOOTSERVICE_ACCESS
        | EfiVariableAttributes.RUNTIME_ACCESS
    )
