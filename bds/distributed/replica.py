"""One replica of a served engine: what Ray Serve starts, watches and replaces."""

import asyncio
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import ray
from ray import serve

from bds.evaluation.engines.plan import EnginePlan
from bds.runs.threads import limit_threads

if TYPE_CHECKING:
    from bds.evaluation.engines.transformers_app import TransformersApp
    from bds.evaluation.engines.vllm_app import VllmApp

_IDLE_SECONDS = 3600
"""A connection may rest while its client waits for others; if it were closed, the next request on it would be lost."""


@serve.ingress(None)
class Replica:
    """The engine of a plan, behind Ray Serve's proxy and, where a port is given, on this machine's loopback.

    Asked on the loopback, a request is spared the proxy and its way from there: about 6 ms of compute.
    """

    def __init__(self, plan: EnginePlan, port: int | None) -> None:
        self._plan = plan
        self._port = port

    async def __serve_build_asgi_app__(self) -> "VllmApp | TransformersApp":
        _keep_off_the_network()
        limit_threads(self._plan.settings.cpus_per_replica)
        self._app = await _app(self._plan)
        if self._port is not None:
            self._listening = asyncio.create_task(_listen(self._app, self._port))
        return self._app

    async def check_health(self) -> None:
        if self._app.dead:
            # Ray Serve replaces a process that is gone at once, and a sick one only after three checks.
            os._exit(1)

    def __del__(self) -> None:
        if hasattr(self, "_app"):
            self._app.shutdown()


async def _app(plan: EnginePlan) -> "VllmApp | TransformersApp":
    if plan.settings.engine == "transformers":
        from bds.evaluation.engines.transformers_app import create_app

        return create_app(plan)
    from bds.evaluation.engines.vllm_app import VllmApp

    return await VllmApp.start(plan, _log_folder() / f"{plan.id}-{os.getpid()}.log")


async def _listen(app: "VllmApp | TransformersApp", port: int) -> None:
    import uvicorn

    config = uvicorn.Config(
        app, lifespan="off", log_config=None, access_log=False, timeout_keep_alive=_IDLE_SECONDS, ws="none"
    )
    await uvicorn.Server(config).serve(sockets=[loopback_socket(port)])


def loopback_socket(port: int) -> socket.socket:
    """A socket on this machine's loopback, which the other replicas of an engine share; port 0 takes a free one."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind(("127.0.0.1", port))
    return listening


def _keep_off_the_network() -> None:
    """On a Ray of the loopback only, Ray Serve's server for calls between deployments listens there, too.

    It would listen on every interface and unpickle what anybody sends.
    """
    from ray.serve._private import replica

    if ray.util.get_node_ip_address() != "127.0.0.1":
        return
    listen = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: listen(server, address.replace("[::]", "127.0.0.1"))


def _log_folder() -> Path:
    """Of Ray's session, where `ray logs` finds what is in it."""
    return Path(ray._private.worker._global_node.get_logs_dir_path())
