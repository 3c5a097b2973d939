"""What this machine has."""

import os
from pathlib import Path

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
