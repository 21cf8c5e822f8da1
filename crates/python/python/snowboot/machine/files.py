"""Files between host and guest."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Union

from .core import Core

AnyPath = Union[str, "os.PathLike[str]"]


class Files(Core):
    """Copies files and folders as `cp -r` would.

    A file of the host that is missing or in the way is an OSError of the kind that Python has for it, such as
    FileNotFoundError; what fails in the guest is a RequestedAssertionFailed, as for `succeed`.
    """

    def copy_from_host(self, source: AnyPath, target: AnyPath) -> None:
        """Copies a file or folder of the host to `target` in the guest, with its mode, as root's.

        Folders on the way are made; into a `target` that is a folder the source goes under its own name. Links within a
        folder stay links, unless they lead out of it: then what they lead to is copied.
        """
        self._native.copy_from_host(Path(source), Path(target))

    def copy_from_host_via_shell(self, source: AnyPath, target: AnyPath) -> None:
        """As `copy_from_host` for one file, through the shell alone. Slow; for guests with little more than a shell."""
        self._native.copy_from_host_via_shell(Path(source), Path(target))

    def copy_from_machine(self, source: AnyPath, target_dir: AnyPath = "") -> None:
        """Copies a file or folder of the guest to `driver.out_dir / target_dir`, under its own name.

        A file replaces one that is there; a folder must not be there yet. Nothing is left of a copy that fails.
        As with any path, an absolute `target_dir` or one with `..` may lead out of `out_dir`: it is the script's own.
        """
        self._native.copy_from_machine(Path(source), self.out_dir / target_dir)

    def copy_from_vm(self, source: AnyPath, target_dir: AnyPath = "") -> None:
        """The old name of `copy_from_machine`."""
        warnings.warn("copy_from_vm() is deprecated: use copy_from_machine()", DeprecationWarning, stacklevel=2)
        self.copy_from_machine(source, target_dir)
