"""The driver as scripts of the NixOS test driver make one themselves, to run a test within a test."""

from __future__ import annotations

import os
from pathlib import Path

from .driver import Driver as SnowbootDriver
from .driver_config import DriverConfig
from .logger import Logger


class Driver(SnowbootDriver):
    """All machines of a configuration. As a context manager it ends them on the way out.

    It is a run of its own, beside the one that made it: with switches, a log and a time limit of its own.
    """

    def __init__(
        self,
        config: DriverConfig,
        out_dir: str | os.PathLike[str] = ".",
        logger: Logger | None = None,
        keep_machine_state: bool = False,
        interactive: bool = False,
    ) -> None:
        """A `logger` says nothing more here: both runs write to the standard error. Disks always stay as they are."""
        super().__init__(
            config, out_dir=Path(out_dir), kvm_device=os.environ.get("SNOWBOOT_KVM_DEVICE") or "/dev/kvm"
        )
        # As there, the time of a run begins with its script.
        self.stop_timer()
