"""Python imports this at its start where this folder is on PYTHONPATH: a run directory's storage that fails on demand.

While the file named by BDS_FAULT_STORAGE exists, its one word says how: EIO fails reads and writes, ENOSPC writes.
The driver and Ray's workers inherit both variables, so the storage fails for all of them at once.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

if "BDS_FAULT_STORAGE" in os.environ:
    from bds.runs.directory import RunDirectory

    _explained = RunDirectory._explained
    _state = Path(os.environ["BDS_FAULT_STORAGE"])

    @contextlib.contextmanager
    def _failing(self: RunDirectory, action: str, name: str) -> Iterator[None]:
        with _explained(self, action, name):
            try:
                word = _state.read_text().strip()
            except FileNotFoundError:
                word = ""
            if word == "EIO" or (word == "ENOSPC" and action == "write"):
                raise OSError(getattr(errno, word), os.strerror(getattr(errno, word)))
            yield

    RunDirectory._explained = _failing  # type: ignore[method-assign]
