"""Folders of a run on the host."""

from __future__ import annotations

import os
from pathlib import Path


class Folders:
    """The folders that scripts of the NixOS test driver know: one per machine, and one that is for all.

    They are below one folder of the run, which is made when a script asks for the first of them, for this user only,
    and goes away with the run. Machines keep nothing there: their disks are where the manifest says.
    """

    def __init__(self) -> None:
        self._root: Path | None = None
        self._process = os.getpid()

    def state_dir(self, machine: str) -> Path:
        """A folder of this machine."""
        return self._folder(f"vm-state-{machine}")

    def shared_dir(self) -> Path:
        """A folder that all machines have in common, on the host."""
        return self._folder("shared-xchg")

    def remove_state_dir(self, machine: str) -> bool:
        """Removes the folder of a machine; tells whether there was one."""
        path = None if self._root is None else self._root / f"vm-state-{machine}"
        if path is None or not path.exists():
            return False
        import shutil

        shutil.rmtree(path)
        return True

    def remove(self) -> None:
        """Removes all of them. A fork of the run's process does not: they are not its own."""
        if self._root is not None and os.getpid() == self._process:
            import shutil

            shutil.rmtree(self._root, ignore_errors=True)
            self._root = None

    def _folder(self, name: str) -> Path:
        if self._root is None:
            import tempfile

            self._root = Path(tempfile.mkdtemp(prefix="snowboot-", dir=os.environ.get("XDG_RUNTIME_DIR") or None))
        path = self._root / name
        path.mkdir(mode=0o700, exist_ok=True)
        return path
