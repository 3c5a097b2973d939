"""Room for the actors, found or waited for before any model loads."""

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import ray

from bds.distributed import metrics
from bds.distributed.scoring import WorkerPool
from bds.errors import PreflightError, SpecError
from bds.spec.models import ResourcesSpec

_POLL_SECONDS = 1.0

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}


@dataclass(frozen=True)
class Node:
    """One machine of the cluster; resources by Ray's names (CPU, GPU, memory in bytes)."""

    node_id: str
    host: str
    total: Mapping[str, float]
    free: Mapping[str, float]


def plan_pool(
    resources: ResourcesSpec,
    *,
    shards: int,
    memory_needed: int | None,
    say: Callable[[str], None],
    at_least: int = 1,
    parts: int = 1,
    noun: str = "actor",
    nodes_now: Callable[[], Sequence[Node]] | None = None,
) -> WorkerPool:
    """The pool of actors that the connected cluster has room for, waiting `resources.wait_seconds` for it.

    Args:
        shards: what is left to score; there are never more actors.
        memory_needed: bytes a process needs at least; used where `resources.memory_per_actor` is not given.
        say: told once when there is something to wait for.
        at_least: actors without which nothing can begin, where their number is auto.
        parts: processes of an actor, each of which takes what the fields of `resources` say; they may be on several
            nodes.
        noun: what the user calls an actor; its plural is the field of `resources` with their number.
        nodes_now: the cluster's nodes; left out, those of the connected Ray.

    Raises:
        SpecError: a memory size that cannot be read.
        PreflightError: the cluster has no room in time; the sentence has the numbers.
    """
    nodes_now = cluster_nodes if nodes_now is None else nodes_now
    memory = memory_needed if resources.memory_per_actor is None else memory_bytes(resources.memory_per_actor)
    began = time.monotonic()
    deadline = began + resources.wait_seconds
    waiting = False
    while True:
        nodes = nodes_now()
        gpus = gpus_per_actor(resources, nodes)
        need = {"CPU": float(resources.cpus_per_actor), "GPU": gpus, "memory": float(memory or 0)}
        wanted = at_least if resources.actors == "auto" else min(resources.actors, shards)
        # Processes are alike: wherever they begin, as many fit, so no actor waits for a place that another took.
        room = actors_that_fit([node.free for node in nodes], need) // parts
        if room >= wanted:
            metrics.waited(noun, time.monotonic() - began)
            actors = min(room, shards) if resources.actors == "auto" else wanted
            return WorkerPool(actors, resources.cpus_per_actor, gpus, memory, parts)
        if time.monotonic() >= deadline:
            metrics.waited(noun, time.monotonic() - began)
            raise PreflightError(_no_room(nodes, need, wanted, room, parts, resources.wait_seconds, noun))
        if not waiting:
            waiting = True
            say(f"waiting up to {resources.wait_seconds} s for the cluster: room for {room} of {wanted} {noun}s")
            _ask_autoscaler(need, wanted * parts)
        time.sleep(_POLL_SECONDS)


def actors_that_fit(nodes: Sequence[Mapping[str, float]], need: Mapping[str, float]) -> int:
    """How many actors the nodes hold, node by node: an actor cannot span two nodes, nor its part of a GPU two GPUs."""
    return sum(_fit_on_one(node, need) for node in nodes)


def cluster_nodes() -> list[Node]:
    """The live nodes of the connected cluster."""
    # The public ray.available_resources() is the cluster's sum, in which no single node may have room.
    free = ray._private.state.available_resources_per_node()
    return [
        Node(node["NodeID"], node["NodeManagerHostname"], node["Resources"], free.get(node["NodeID"], {}))
        for node in ray.nodes()
        if node["Alive"]
    ]


def hosts_with_room(pool: WorkerPool) -> dict[str, str]:
    """Host by id of every node that an actor of the pool may run on."""
    need = {"CPU": float(pool.cpus), "GPU": pool.gpus, "memory": float(pool.memory or 0)}
    return {node.node_id: node.host for node in cluster_nodes() if _fit_on_one(node.total, need) > 0}


def memory_bytes(text: str) -> int:
    """Bytes of a size such as 32GiB or 500 MB."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None:
        raise SpecError(f"resources.memory_per_actor: '{text}' is not a size; write for example 32GiB")
    return int(float(match[1]) * unit)


def gpus_per_actor(resources: ResourcesSpec, nodes: Sequence[Node]) -> float:
    """What the spec says, or for auto 1 where a node has a GPU."""
    if resources.gpus_per_actor != "auto":
        return float(resources.gpus_per_actor)
    return 1.0 if any(node.total.get("GPU", 0.0) >= 1 for node in nodes) else 0.0


def _fit_on_one(node: Mapping[str, float], need: Mapping[str, float]) -> int:
    counts = [_count(name, node.get(name, 0.0), amount) for name, amount in need.items() if amount > 0]
    return min(counts) if counts else 0


def _count(name: str, has: float, needs: float) -> int:
    # Ray keeps ten-thousandths; a little slack keeps 0.3 / 0.1 from being 2.
    if name == "GPU" and needs < 1:
        return math.floor(has + 1e-4) * math.floor(1 / needs + 1e-4)
    return math.floor(has / needs + 1e-4)


def _ask_autoscaler(need: Mapping[str, float], processes: int) -> None:
    """A cluster that grows on demand sees no demand while bds only looks; one of fixed size ignores this."""
    from ray.autoscaler.sdk import request_resources

    bundle = {name: amount for name, amount in need.items() if amount > 0}
    request_resources(bundles=[bundle] * processes)


def _no_room(
    nodes: Sequence[Node], need: Mapping[str, float], wanted: int, room: int, parts: int, waited: int, noun: str
) -> str:
    total = {name: sum(node.total.get(name, 0.0) for node in nodes) for name in need}
    free = {name: sum(node.free.get(name, 0.0) for node in nodes) for name in need}
    if need["GPU"] > 0 and total["GPU"] == 0:
        return (
            f"resources.gpus_per_{noun} asks for {need['GPU']:g} GPU and the cluster has none: "
            "set it to 0 or auto, or give resources.address of a cluster with GPUs"
        )
    actor = ", ".join(_amount(name, amount) for name, amount in need.items() if amount > 0)
    has = ", ".join(
        f"{_amount(name, free[name])} free of {_amount(name, total[name])}" for name in need if need[name] > 0
    )
    each = f"{actor} on one node" if parts == 1 else f"{parts} times {actor}, each on one node,"
    return (
        f"the cluster has room for {room} of {wanted} {noun}s after {waited} s: one {noun} takes {each} "
        f"and {len(nodes)} node{'s' if len(nodes) != 1 else ''} have {has}; lower resources.{noun}s or what each "
        "takes, or raise resources.wait_seconds"
    )


def _amount(name: str, amount: float) -> str:
    return f"{amount / 2**30:.1f} GiB of memory" if name == "memory" else f"{amount:g} {name}"
