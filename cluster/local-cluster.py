#!/usr/bin/env python3
"""A Ray cluster of several nodes on this machine, to try what a real one would do: a head without work and workers.

    python cluster/local-cluster.py --workers 2 --cpus 2 --minutes 30

Every node is a raylet with processes of its own. They listen on the loopback interface only, ask for a token that this
program makes, and end with it: after --minutes, on Ctrl-C or SIGTERM, and where it is killed itself. A line `add` on
its standard input brings another worker, a line `remove` takes the oldest away as a machine that is switched off.
"""

import argparse
import atexit
import contextlib
import os
import queue
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STARTS = 3
"""Ray gives a node a fixed time to start, too little on a busy machine (ray-project/ray#65983)."""

LOOPBACK = {
    # A Ray that is told not to be a cluster listens on the loopback interface only.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Workers that train together meet by gloo, which otherwise takes the interface of the machine's own name.
    "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
}


def main() -> None:
    arguments = parsed()
    ends = time.monotonic() + 60 * arguments.minutes
    end_at_signals()
    # Ray puts unix sockets below this folder, whose path may have about 100 characters in all: /tmp, not $TMPDIR.
    folder = Path(tempfile.mkdtemp(prefix="bds-cluster-", dir="/tmp"))
    # Before Ray is imported, so that it comes after all that Ray does at the end of a program.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    cluster = None
    try:
        token = folder / "token"
        write_token(token)
        os.environ.pop("RAY_ADDRESS", None)
        os.environ.update(LOOPBACK)
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token), RAY_USAGE_STATS_ENABLED="0")
        import ray._private.utils
        from ray.cluster_utils import Cluster

        # By this file its own jobs find it; Ray's usual one would make it the cluster that `--address auto` means for
        # everybody on this machine.
        write = ray._private.utils.write_ray_address
        ray._private.utils.write_ray_address = lambda address: write(address, str(folder))
        common = {
            "object_store_memory": arguments.store_mib * 2**20,
            "temp_dir": str(folder),
            # The agents that start jobs have one fixed port, which several nodes of a machine cannot share.
            "dashboard_agent_listen_port": 0,
        }
        for starts in range(1, STARTS + 1):
            cluster = Cluster()
            head = {"num_cpus": 0, "include_dashboard": True, "dashboard_port": free_port()}
            if start(cluster, {**common, **head}, last=starts == STARTS) is not None:
                break
            cluster.shutdown()
            end_children()
        workers = []
        for index in range(arguments.workers):
            # Raylets that both count a card would both give it away: only the first is given those there are.
            gpus = 0 if index else arguments.gpus
            workers.append(added(cluster, {**common, "num_cpus": arguments.cpus, "num_gpus": gpus}))
        # Each node has put a handler of its own in their place.
        end_at_signals()
        tell(arguments, token, cluster)
        for wish in wishes(ends):
            if wish == "add":
                workers.append(added(cluster, {**common, "num_cpus": arguments.cpus, "num_gpus": 0}))
                end_at_signals()
            elif wish == "remove" and workers:
                cluster.remove_node(workers.pop(0), allow_graceful=False)
            else:
                print(f"'{wish}' is not known, or there is nothing to remove; write add or remove", flush=True)
                continue
            print(f"{len(workers)} workers", flush=True)
        print(f"{arguments.minutes:g} minutes are over", flush=True)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if cluster is not None:
            # By the ids of the processes that it started.
            cluster.shutdown()


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="nodes beside the head")
    parser.add_argument("--cpus", type=int, default=2, help="CPUs that Ray counts on each, maybe more than there are")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs that the first worker counts")
    parser.add_argument("--store-mib", type=int, default=256, help="object store of each node")
    parser.add_argument("--minutes", type=float, default=60, help="after which everything ends")
    return parser.parse_args()


def end_at_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))


def write_token(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))


def start(cluster: Any, options: dict[str, Any], *, last: bool) -> Any | None:
    """The node, or None where it did not come up; where this was the last try, the program ends."""
    try:
        return cluster.add_node(**options)
    except Exception as error:  # a node that does not come up in time is a bare Exception
        if last:
            sys.exit(f"a node did not start ({shortened(error)})")
        print(f"a node did not start ({shortened(error)}); trying again", file=sys.stderr, flush=True)
        return None


def added(cluster: Any, options: dict[str, Any]) -> Any:
    """The new node, which has so many tries to come up."""
    for starts in range(1, STARTS + 1):
        if (node := start(cluster, options, last=starts == STARTS)) is not None:
            return node
    raise AssertionError("the last try returns or ends the program")


def wishes(ends: float) -> Iterator[str]:
    """Lines of the standard input as they come, until the time is over."""
    lines: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin or ():
            lines.put(line.strip())

    threading.Thread(target=listen, daemon=True).start()
    while time.monotonic() < ends:
        # A wait without end would not notice a signal.
        with contextlib.suppress(queue.Empty):
            yield lines.get(timeout=0.5)


def shortened(error: Exception) -> str:
    """Ray quotes whole logs."""
    return " ".join(str(error).split())[:300]


def end_children() -> None:
    """Ends what a head that did not come up left running: Ray does so only when this program ends."""
    listing = subprocess.run(["ps", "-axo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    for line in listing.splitlines():
        process, parent = map(int, line.split())
        if parent == os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def tell(arguments: argparse.Namespace, token: Path, cluster: Any) -> None:
    dashboard = f"http://{cluster.webui_url}"
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": token, **LOOPBACK}
    print(
        f"{arguments.workers} workers of {arguments.cpus} CPUs and a head without work, "
        f"for {arguments.minutes:g} minutes or until Ctrl-C\n\n"
        f"address    {cluster.address}\n"
        f"dashboard  {dashboard}\n"
        f"token      {token}\n\n"
        "In another terminal:\n\n"
        f"    export {' '.join(f'{name}={value}' for name, value in variables.items())}\n"
        f"    ray status --address {cluster.address}\n"
        f"    bds audit jobs/alpaca.yaml --address {cluster.address}\n"
        f"    ray job submit --address {dashboard} -- bds doctor\n",
        flush=True,
    )


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


if __name__ == "__main__":
    main()
