"""The processes that one command started, found also when their parents have died."""

import contextlib
import os
import time
import uuid
from collections.abc import Mapping, Sequence

import psutil

_MARK = "BDS_FAULT_FAMILY"

VLLM_PROCESS = ("VLLM::", "multiprocessing.spawn import spawn_main")
"""Of which the command of an engine's process, or of its workers, has one.

vLLM's own title cannot be given to a process in which the environment's first variable has been set anew
(setproctitle looks for its room from there). A raylet hands variables on in a random order, and vLLM sets several.
"""

_LEAVE_SECONDS = 60.0
"""Ray's processes notice the death of their head by themselves, on a busy machine after many seconds."""


class Family:
    """Knows its members by a mark in the environment, which a child inherits from whoever starts it.

    A process that renames itself may overwrite its environment, so that children of members are members, too.
    """

    def __init__(self) -> None:
        self._mark = uuid.uuid4().hex
        self._known: set[psutil.Process] = set()
        self._strangers: set[psutil.Process] = set()

    @property
    def environment(self) -> Mapping[str, str]:
        """Of the command whose family this is."""
        # SPT_NOENV keeps the environment of a process that gives itself a title.
        return {**os.environ, _MARK: self._mark, "SPT_NOENV": "1"}

    def members(self) -> list[psutil.Process]:
        """Those that are alive."""
        by_pid = {process.pid: process for process in self._known}
        found: set[psutil.Process] = set()
        for process in psutil.process_iter():
            if process in self._strangers:
                continue
            # One that has just ended, or is somebody else's, tells nothing.
            with contextlib.suppress(psutil.Error):
                if process not in self._known and not self._is_ours(process, by_pid):
                    # What a process inherits does not change: to look at all of them anew would cost half a core.
                    self._strangers.add(process)
                elif process.status() != psutil.STATUS_ZOMBIE:
                    found.add(process)
        self._known |= found
        return sorted(found, key=lambda process: process.pid)

    def _is_ours(self, process: psutil.Process, by_pid: Mapping[int, psutil.Process]) -> bool:
        if process.environ().get(_MARK) == self._mark:
            return True
        parent = by_pid.get(process.ppid())
        return parent is not None and parent.is_running()

    def titled(self, words: Sequence[str]) -> list[psutil.Process]:
        """Members whose command has one of the words."""
        return [process for process in self.members() if any(word in title_of(process) for word in words)]

    def leftovers(self, seconds: float = _LEAVE_SECONDS) -> list[str]:
        """Titles of the members that have not ended by themselves within this time."""
        deadline = time.monotonic() + seconds
        while (alive := self.members()) and time.monotonic() < deadline:
            time.sleep(0.5)
        return [title_of(process)[:80] for process in alive]

    def end(self) -> None:
        """Kills every member, each by its own id."""
        for _ in range(20):
            alive = self.members()
            if not alive:
                return
            for process in alive:
                kill(process)
            psutil.wait_procs(alive, timeout=2)


def title_of(process: psutil.Process) -> str:
    """Its command, or the title that it gave itself; empty where it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def kill(process: psutil.Process) -> bool:
    """With SIGKILL; false where it had ended already."""
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return False
    return True


def kill_with_children(process: psutil.Process) -> bool:
    """A machine that is gone: its raylet and everything below it at once."""
    try:
        below = process.children(recursive=True)
    except psutil.NoSuchProcess:
        return False
    # The parent first, which would otherwise see its children die one by one.
    killed = kill(process)
    for child in below:
        kill(child)
    return killed
