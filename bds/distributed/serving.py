"""Engines on Ray Serve: one application a plan, replaced where it dies, stopped when it is done with.

On a cluster of one machine an engine is asked directly, at a port of its own on the loopback; elsewhere, and where the
user names a port, through Ray Serve's proxy, each engine below a prefix of its own.
"""

import contextlib
import logging
import re
import secrets
import socket
import sys
import time
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import replace
from typing import Any

from bds.errors import EngineDiedError, PreflightError
from bds.evaluation.engines.plan import EnginePlan, EngineSettings
from bds.runs.messages import first_line
from bds.spec.evaluate import EvaluationResourcesSpec
from bds.spec.models import ResourcesSpec

_START_SECONDS = 1800.0
"""Enough for weights of hundreds of gigabytes from a slow disk."""

_PROXY_SECONDS = 120.0
_LEAVE_SECONDS = 0.5

_STARTS = 3
_DIED = "ActorDiedError"
"""What Ray calls the end of a replica's process."""

_SETTLE_SECONDS = 5
"""What an engine that was just stopped gives back is not free at once."""

_POLL_SECONDS = 0.2
_PORT = 8000
_QUEUED_PER_REPLICA = 4
"""Times its requests in flight: those that wait for other weights must not keep the ones out that could run."""

_OWNED = re.compile(r"(engine-[0-9a-f]{12})-([0-9a-f]{8})-[0-9a-f]{8}")
"""Names of applications, see `_application_name`: the plan, and whose it is."""

_FROM_BDS = re.compile(r"bds\.errors\.(\w+): (.+)")
_FROM_ANYONE = re.compile(r"^[\w.]*(?:Error|Exception): (.+)", re.MULTILINE)


@contextlib.contextmanager
def open_serving(
    resources: EvaluationResourcesSpec, *, http_host: str | None = None, http_port: int | None = None
) -> Iterator["Serving"]:
    """Ray Serve on the cluster of `resources`, or on a private one, for the time of the block.

    Args:
        http_host: the interface that the proxy listens on; left out, the loopback where this machine is the head of
            the cluster, else all.
        http_port: asks for the proxy and says where it listens.

    Raises:
        PreflightError: the cluster cannot be reached, or lacks what Ray Serve needs.
    """
    from bds.distributed.session import connect, deaths_kept_off_the_terminal

    with connect(ResourcesSpec(address=resources.address)), deaths_kept_off_the_terminal():
        serving = Serving(resources.wait_seconds, http_host, http_port)
        try:
            yield serving
        finally:
            serving.close()


class Serving:
    """Starts and stops engines on the connected cluster."""

    def __init__(self, wait_seconds: int, http_host: str | None, http_port: int | None) -> None:
        _import_serve()
        self._wait_seconds = wait_seconds
        self._http_host = http_host
        self._http_port = http_port
        self._names: dict[str, str] = {}
        self._ours = False

    def start(self, plan: EnginePlan) -> str:
        """Serves a plan's models and returns their base URL, up to and with /v1, once they are up.

        Raises PreflightError, with the engine's own reason, where they cannot be served.
        """
        from bds.distributed.session import alone_here

        _stop_orphans(plan, self._names.values())
        settings = self._with_room(plan.settings)
        direct = self._http_port is None and settings.max_replicas is None and alone_here()
        port = free_port() if direct else None
        self._start_serve(proxy=not direct)
        tried_again(lambda: self._deploy(plan, settings, port))
        return f"http://127.0.0.1:{port}/v1" if direct else f"{_proxy_url()}/{plan.id}/v1"

    def _deploy(self, plan: EnginePlan, settings: EngineSettings, port: int | None) -> None:
        from ray import serve

        name = _application_name(plan)
        target = serve.RunTarget(
            target=_deployment(settings).bind(replace(plan, settings=settings), port),
            name=name,
            route_prefix=f"/{plan.id}",
        )
        self._names[plan.id] = name
        try:
            serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
            _wait_until_up(name, plan)
        except BaseException:
            self.stop(plan)
            raise

    def stop(self, plan: EnginePlan) -> None:
        """Stops a plan's engine and waits until its processes have ended, but for an interrupted run."""
        from ray import serve

        name = self._names.get(plan.id)
        if name is None:
            return
        with contextlib.suppress(TimeoutError):
            serve.delete(name, _blocking=not _leaving())
        if not _leaving():
            del self._names[plan.id]

    def close(self) -> None:
        """Stops whatever runs still, and Ray Serve where this started it and nobody else has come to use it."""
        from ray import serve
        from ray.serve.context import _get_global_client

        own = set(self._names.values())
        for name in own:
            with contextlib.suppress(TimeoutError):
                serve.delete(name, _blocking=not _leaving())
        if self._ours and not serve.status().applications.keys() - own:
            if _leaving():
                _get_global_client().shutdown(timeout_s=_LEAVE_SECONDS)
            else:
                serve.shutdown()

    def _with_room(self, settings: EngineSettings) -> EngineSettings:
        """The settings with numbers for auto, once the cluster has room for every replica.

        Raises PreflightError where it has none in time.
        """
        from bds.distributed.preflight import cluster_nodes, gpus_per_actor, plan_pool

        gpus = settings.gpus_per_replica
        if settings.tensor_parallel > 1:
            gpus = settings.tensor_parallel * gpus_per_actor(ResourcesSpec(), cluster_nodes())
        pool = plan_pool(
            ResourcesSpec(
                actors=settings.replicas,
                cpus_per_actor=settings.cpus_per_replica,
                gpus_per_actor=gpus,
                wait_seconds=max(self._wait_seconds, _SETTLE_SECONDS),
            ),
            shards=settings.replicas,
            memory_needed=None,
            noun="replica",
            say=lambda line: None,
        )
        return replace(settings, gpus_per_replica=pool.gpus)

    def _start_serve(self, *, proxy: bool) -> None:
        """Starts Ray Serve unless it runs already, perhaps for somebody else."""
        from ray import serve
        from ray.serve.context import _get_global_client

        if _get_global_client(raise_if_no_controller_running=False) is not None:
            if proxy and not serve.status().proxies:
                raise PreflightError("Ray Serve runs on this cluster already and listens on no port; stop it first")
            return
        here = _on_the_head()
        host = self._http_host or ("127.0.0.1" if here else "0.0.0.0")
        port = self._http_port or _PORT
        if proxy and here:
            _expect_free(host, port)
        try:
            serve.start(
                proxy_location="HeadOnly" if proxy else "Disabled",
                http_options={"host": host, "port": port, "keep_alive_timeout_s": 3600},
                logging_config=_QUIET,
            )
        except Exception as error:  # depending on what is wrong, Ray Serve raises several kinds
            if not (proxy and _proxy_comes()):
                raise PreflightError(f"Ray Serve cannot start on this cluster: {_last_error(str(error))}") from error
        self._ours = True


_QUIET = {"log_level": "WARNING", "enable_access_log": False}
"""Of Ray Serve's logs: neither the paths of requests nor a line for each."""


def _leaving() -> bool:
    """Whether the run was interrupted: what it asks Ray Serve to end then ends without somebody who waits for it."""
    return isinstance(sys.exception(), KeyboardInterrupt)


def _import_serve() -> None:
    """Raises PreflightError where a part of Ray Serve is not installed. Its log stays off the terminal."""
    try:
        from ray import serve  # noqa: F401
    except ModuleNotFoundError as error:
        raise PreflightError(f"Ray Serve is not whole here ({first_line(error)}): install ray[serve]") from error
    for handler in logging.getLogger("ray.serve").handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.CRITICAL + 1)


def _application_name(plan: EnginePlan) -> str:
    """Says whose it is, by the id of the driver's Ray job: Ray Serve keeps what a killed driver has left."""
    import ray

    return f"{plan.id}-{ray.get_runtime_context().get_job_id()}-{secrets.token_hex(4)}"


def orphans(applications: Iterable[str], dead_jobs: Container[str], left_by: tuple[str, str]) -> list[str]:
    """Engines of bds, by the names of their applications, whose drivers are dead.

    Args:
        left_by: the plan and the job of an engine that is about to start. Another one of both is what a killed process
            of the same driver has left, such as a study's step.
    """
    found = ((name, _OWNED.fullmatch(name)) for name in applications)
    return [name for name, owned in found if owned and (owned[2] in dead_jobs or owned.groups() == left_by)]


def _stop_orphans(plan: EnginePlan, own: Container[str]) -> None:
    """Gives back what engines of killed processes hold on this cluster, above all the run's own from its last attempt,
    whose place and route the new engine takes."""
    import ray
    from ray import serve
    from ray.serve.context import _get_global_client

    if _get_global_client(raise_if_no_controller_running=False) is None:
        return
    # Of a cluster's jobs the public calls tell only those that were submitted.
    dead = {job["JobID"] for job in ray._private.state.jobs() if job["IsDead"]}
    others = [name for name in serve.status().applications if name not in own]
    for name in orphans(others, dead, (plan.id, ray.get_runtime_context().get_job_id())):
        with contextlib.suppress(TimeoutError):
            serve.delete(name)


def _deployment(settings: EngineSettings) -> Any:
    """The deployment of one engine. What a replica cannot do at its first start it cannot do at the next one."""
    from ray import serve

    from bds.distributed.replica import Replica

    if settings.max_replicas is None:
        number: dict[str, Any] = {"num_replicas": settings.replicas}
    else:
        number = {
            "autoscaling_config": {
                "min_replicas": settings.replicas,
                "max_replicas": settings.max_replicas,
                "target_ongoing_requests": settings.max_concurrent,
            }
        }
    return serve.deployment(
        Replica,
        name="engine",
        max_ongoing_requests=_QUEUED_PER_REPLICA * settings.max_concurrent,
        health_check_period_s=2.0,
        health_check_timeout_s=30.0,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=10.0,
        max_constructor_retry_count=1,
        ray_actor_options={"num_cpus": settings.cpus_per_replica, "num_gpus": settings.gpus_per_replica},
        logging_config=_QUIET,
        **number,
    )


def _expect_free(host: str, port: int) -> None:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError as error:
            raise PreflightError(
                f"port {port} of {host} cannot be listened on ({error.strerror}): give another port"
            ) from error


def _proxy_comes() -> bool:
    """Ray Serve kills a proxy that is not up after a few seconds, says so, and goes on to start another one."""
    from ray import serve
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ProxyStatus

    deadline = time.monotonic() + _PROXY_SECONDS
    while time.monotonic() < deadline and _get_global_client(raise_if_no_controller_running=False) is not None:
        if ProxyStatus.HEALTHY in serve.status().proxies.values():
            return True
        time.sleep(_POLL_SECONDS)
    return False


def _wait_until_up(name: str, plan: EnginePlan) -> None:
    from ray import serve

    deadline = time.monotonic() + _START_SECONDS
    while True:
        application = serve.status().applications.get(name)
        if application is not None and application.status == "RUNNING":
            return
        if application is not None and application.status in {"DEPLOY_FAILED", "UNHEALTHY"}:
            told = "\n".join([application.message, *(each.message for each in application.deployments.values())])
            raise start_error(told)
        if time.monotonic() >= deadline:
            names = ", ".join(model.name for model in plan.models)
            raise PreflightError(f"the engine of {names} is not up after {_START_SECONDS / 60:.0f} minutes")
        time.sleep(_POLL_SECONDS)


class ReplicaDiedError(PreflightError):
    """The process of a replica, or of its engine, ended while it started, of nothing that the engine said."""


def start_error(told: str) -> PreflightError:
    """Why an engine does not start, from what Ray Serve tells of it."""
    ours = _FROM_BDS.search(told)
    if ours is not None and ours[1] != EngineDiedError.__name__:
        return PreflightError(ours[2].strip())
    if ours is not None or _DIED in told:
        return ReplicaDiedError("the engine's process was killed while it started")
    return PreflightError(f"the engine does not start: {_last_error(told)}")


def tried_again(start: Callable[[], None]) -> None:
    """Starts what a kill, or a machine that went away, cut off: unlike an error of its own it says nothing about the
    next start.

    Raises PreflightError where every start was cut off, and any other error of a start as it is.
    """
    for _ in range(_STARTS):
        try:
            return start()
        except ReplicaDiedError as error:
            died = error
    raise PreflightError(
        f"the engine's process was killed in each of {_STARTS} starts: a machine short of memory does that; give it "
        "more, or lower serving.replicas, then run the same command again"
    ) from died


def _last_error(message: str) -> str:
    """The sentence that matters in the traceback that Ray tells of somebody's error."""
    errors = _FROM_ANYONE.findall(message)
    return errors[-1].strip() if errors else " ".join(message.split())[:300]


def _head() -> dict[str, Any]:
    import ray

    alive: list[dict[str, Any]] = [node for node in ray.nodes() if node["Alive"]]
    return next((node for node in alive if "node:__internal_head__" in node["Resources"]), alive[0])


def _on_the_head() -> bool:
    import ray

    return bool(_head()["NodeID"] == ray.get_runtime_context().get_node_id())


def _proxy_url() -> str:
    from ray.serve.context import _get_global_client

    options = _get_global_client().http_config
    return f"http://{'127.0.0.1' if _on_the_head() else _head()['NodeManagerAddress']}:{options.port}"


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    from bds.distributed.replica import loopback_socket

    with loopback_socket(0) as found:
        port: int = found.getsockname()[1]
    return port
