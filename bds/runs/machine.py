"""What this machine has."""

import os
import shutil
from pathlib import Path

from bds.runs.directory import RunDirectory

LEAST_FREE_BYTES = 1 << 30
"""On the disk of a run directory."""

_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""Of the container that this process is in, where it is in one."""


def main_memory() -> int | None:
    """Bytes that the processes of this machine, or of this container, may take; None where the system does not say."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(physical, int(_LIMIT.read_text()))
    except (OSError, ValueError):
        return physical


def smallest_gpu() -> int | None:
    """Bytes of memory of the smallest GPU that this process sees; None where it sees none."""
    import torch

    if not torch.cuda.is_available():
        return None
    return min(torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count()))


def free_bytes(run: RunDirectory) -> int | None:
    """On the disk of the run directory, which is there; None on an object store."""
    folder = run.local_path("")
    return shutil.disk_usage(folder).free if folder is not None and folder.exists() else None


def disk_complaint(run: RunDirectory, free: int | None) -> str | None:
    """What is wrong with so much free space, with the way out; None where nothing is."""
    if free is None or free >= LEAST_FREE_BYTES:
        return None
    return (
        f"{free / (1 << 30):.2f} GiB are free on the disk of {run.uri}, less than {LEAST_FREE_BYTES / (1 << 30):g}; "
        "free some space or give another run.dir"
    )
