"""A simulated cluster in a process of its own: `python cluster.py FOLDER WORKERS CPUS`.

Prints the address, then the process id of each worker node's raylet; each line `add` on standard input adds a node and
prints its raylet. It ends with its standard input.
"""

import contextlib
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from .processes import Family

_STARTS = 5


class Cluster:
    """The cluster, seen from the harness."""

    def __init__(self, process: "subprocess.Popen[str]", family: Family, address: str, raylets: list[int]) -> None:
        self._process = process
        self.family = family
        self.address = address
        self.raylets = raylets
        """Of the worker nodes."""

    def replace(self, lost: int) -> None:
        """A new node in the place of one whose raylet was killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.raylets.remove(lost)
        self._process.stdin.write("add\n")
        self._process.stdin.flush()
        self.raylets.append(int(_line(self._process.stdout)))


@contextlib.contextmanager
def simulated_cluster(folder: Path, environment: dict[str, str], *, workers: int, cpus: int) -> Iterator[Cluster]:
    """On the loopback interface, with its own token; a head of no CPU where there are worker nodes.

    Args:
        environment: added to that of every process of the cluster.
    """
    family = Family()
    process = subprocess.Popen(
        [sys.executable, "-m", "fault_harness.cluster", str(folder), str(workers), str(cpus)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(folder / "cluster.log").open("a"),
        text=True,
        env={**family.environment, **environment},
    )
    try:
        assert process.stdout is not None
        address = _line(process.stdout)
        raylets = [int(_line(process.stdout)) for _ in range(workers)]
        yield Cluster(process, family, address, raylets)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        family.leftovers(5)
        family.end()
        process.wait(timeout=60)


def _line(stream: IO[str]) -> str:
    """The next line that is meant for the harness; Ray prints others."""
    for line in stream:
        if line.startswith("> "):
            return line[2:].strip()
    raise RuntimeError("the simulated cluster ended, or did not start")


def main(folder: str, workers: str, cpus: str) -> None:
    import ray._private.node
    import ray._private.utils
    from ray.cluster_utils import Cluster as Simulated

    # Ray writes the address where any other program on this machine that looks for a cluster would find it.
    ray._private.utils.write_ray_address = lambda *arguments: None
    logging.disable(logging.WARNING)
    here = {"node_ip_address": "127.0.0.1", "include_dashboard": False, "temp_dir": folder}
    own = int(cpus) if workers == "0" else 0
    simulated = Simulated()
    _patiently(lambda: simulated.add_node(num_cpus=own, **here))
    print(f"> {simulated.address}", flush=True)

    raylets: list[subprocess.Popen[bytes]] = []

    def add() -> None:
        node = _patiently(lambda: simulated.add_node(num_cpus=int(cpus), **here))
        raylets.append(node.all_processes["raylet"][0].process)
        print(f"> {raylets[-1].pid}", flush=True)

    for _ in range(int(workers)):
        add()
    for _ in sys.stdin:
        # A killed raylet that nobody waits for counts as alive, and its workers, which ask for it, stay.
        for raylet in raylets:
            raylet.poll()
        add()


def _patiently(start: Callable[[], Any]) -> Any:
    """On a busy machine a raylet gives up after a fixed 15 s, and another try finds what it needs in memory."""
    for left in reversed(range(_STARTS)):
        try:
            return start()
        except Exception:  # what Ray raises there has no class of its own
            if not left:
                raise
    raise AssertionError("the last try returns or raises")


if __name__ == "__main__":
    main(*sys.argv[1:])
