"""The head of a Ray cluster with its Jobs API, on loopback and behind a token: `python head.py FOLDER`.

It is up when it has printed the port of the Jobs API, and ends when its standard input does.
"""

import os
import socket
import sys
from pathlib import Path
from typing import Any

TOKEN_FILE = "token"

_STARTS = 6
"""Ray gives its helper processes a fixed 15 s to start, too little on a busy machine (ray-project/ray#65983)."""


def main(folder: Path) -> None:
    os.environ.update(
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN_PATH=str(folder / TOKEN_FILE),
        # A Ray that is told not to be a cluster listens on the loopback interface only.
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
        RAY_USAGE_STATS_ENABLED="0",
        RAY_JOB_STOP_WAIT_TIME_S="30",
        PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    )
    from ray._private import services
    from ray._private.node import Node
    from ray._private.parameter import RayParams
    from ray._private.utils import write_ray_address

    from bds.distributed.session import end, processes_of

    start_process = services.start_ray_process

    def start_with_jobs_alone(command: list[str], kind: str, *options: Any, **more: Any) -> Any:
        """The dashboard's other parts are nine processes that begin at once, and the raylet waits 15 s for its own."""
        alone = ["--modules-to-load=JobHead,NodeHead"] if kind == "dashboard" else []
        return start_process([*command, *alone], kind, *options, **more)

    services.start_ray_process = start_with_jobs_alone
    for start in range(1, _STARTS + 1):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        started = folder / str(start)
        try:
            parameters = RayParams(
                num_cpus=2,
                num_gpus=0,
                object_store_memory=150 << 20,
                include_dashboard=True,
                dashboard_host="127.0.0.1",
                dashboard_port=port,
                # Its own port is a fixed one, which another cluster of this machine may have.
                dashboard_agent_listen_port=0,
                temp_dir=str(started),
            )
            node = Node(parameters, head=True, shutdown_at_exit=True)
            break
        except Exception:
            end(processes_of(f"{started}/"))
            if start == _STARTS:
                raise
    # By it the jobs find this cluster and no other one of this machine.
    write_ray_address(node.gcs_address, str(started))
    print(port, flush=True)
    sys.stdin.read()
    node.kill_all_processes(check_alive=False, allow_graceful=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
