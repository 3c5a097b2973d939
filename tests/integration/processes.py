"""The processes that tests start, found by their commands."""

import time

import psutil

from benchmarks.fault_harness.processes import VLLM_PROCESS

VICTIMS = {"engine": VLLM_PROCESS, "replica": ("ServeReplica",)}
"""The words of what tests of serving kill."""


def descendants(*words: str, of: int | None = None) -> list[psutil.Process]:
    """The processes below one, this one where none is named, whose command has any of the words."""
    found = []
    for process in psutil.Process(of).children(recursive=True):
        try:
            command = " ".join(process.cmdline())
            if any(each in command for each in words):
                found.append(process)
        except psutil.Error:
            continue
    return found


def the_descendant(*words: str) -> psutil.Process:
    """The one process below this one whose command has any of the words.

    Half a minute is given to one that is still starting and to one that is still ending.
    """
    deadline = time.monotonic() + 30
    while len(found := descendants(*words)) != 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    (process,) = found
    return process
