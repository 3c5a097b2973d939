"""`cluster/local-cluster.py` as its user sees it: what it tells, the commands it takes, and a clean end."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.cluster_files import CLUSTER

START_SECONDS = 240.0


@dataclass(frozen=True)
class LocalCluster:
    """A cluster that is up."""

    program: "subprocess.Popen[bytes]"
    told: Path
    """The file with its output."""
    address: str
    dashboard: str
    token: Path
    variables: dict[str, str]
    """What it asks its users to set."""

    def wish(self, word: str) -> str:
        """Its answer to a line of its standard input."""
        before = len(self.told.read_text())
        assert self.program.stdin is not None
        self.program.stdin.write(f"{word}\n".encode())
        self.program.stdin.flush()
        deadline = time.monotonic() + START_SECONDS
        while not (answer := re.findall(r"^.*\bworkers$|^'.*", self.told.read_text()[before:], re.M)):
            assert self.program.poll() is None, "it ended"
            assert time.monotonic() < deadline
            time.sleep(0.2)
        return str(answer[0])


@contextlib.contextmanager
def local_cluster(folder: Path, *options: str, **environment: str) -> Iterator[LocalCluster]:
    """Started with the options; ended by SIGTERM, to which it has to answer with 0."""
    told = folder / "told"
    with told.open("wb") as output:
        program = subprocess.Popen(
            [sys.executable, str(CLUSTER / "local-cluster.py"), *options],
            stdin=subprocess.PIPE,
            stdout=output,
            env={**os.environ, **environment},
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while program.poll() is None and "job submit" not in told.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.5)
        text = told.read_text()
        address, dashboard, token = (
            re.findall(rf"^{name} +(\S+)", text, re.M)[0] for name in ("address", "dashboard", "token")
        )
        (export,) = re.findall(r"^ +export (.+)", text, re.M)
        variables = dict(word.split("=", 1) for word in export.split())
        yield LocalCluster(program, told, address, dashboard, Path(token), variables)
    finally:
        program.send_signal(signal.SIGTERM)
        assert program.wait(60) == 0
