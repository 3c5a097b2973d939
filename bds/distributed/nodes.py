"""What every node must have, looked at before any model loads: the run directory, the inputs, the same versions."""

import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bds.checks_hub import hub_complaint
from bds.distributed.preflight import cluster_nodes, hosts_with_room
from bds.distributed.scoring import WorkerPool
from bds.errors import PreflightError
from bds.runs.directory import RunDirectory
from bds.runs.machine import disk_complaint, free_bytes, smallest_gpu
from bds.runs.messages import first_line
from bds.spec.named_paths import HubName
from bds.spec.paths import is_uri

_LOOK_SECONDS = 120.0
_NONCE = "preflight.txt"
_GIB = 1 << 30

_SAME_EVERYWHERE = ("benign-data-safety", "torch", "transformers", "peft", "ray")
"""Another version of one of these gives other numbers, or cannot read what the driver sends."""


@dataclass(frozen=True)
class Look:
    """What one process saw of its node."""

    nonce: str
    """What the run directory holds there; empty where it is another directory."""
    missing: tuple[str, ...]
    """Paths of the inputs that are not there."""
    versions: Mapping[str, str]
    free_bytes: int | None
    """On the disk of the run directory; None on an object store."""
    gpu_bytes: int | None
    """Memory of the smallest GPU; None where none was asked for."""
    hub: Mapping[str, str] = field(default_factory=dict)
    """Why a model or dataset of the hub cannot be had there, by the field that names it."""


def check_nodes(
    run: RunDirectory,
    pool: WorkerPool,
    *,
    inputs: Mapping[str, str] | None = None,
    hub: Sequence[HubName] = (),
    gpu_bytes: int | None = None,
) -> dict[str, Look]:
    """Looks at every node that has room for an actor, and here. One that leaves the cluster meanwhile is left out.

    Args:
        inputs: local files and folders that actors read, by the field that names them; URIs and hub names are left out.
        hub: models of the Hugging Face hub that actors load.
        gpu_bytes: memory of a GPU that an actor takes at least, where it takes one.

    Returns:
        What was seen, by the node's host.

    Raises PreflightError: the run directory cannot be written or is another one there, an input is not there, a model
    can be neither found nor downloaded there, a library has another version, the disk is almost full, or a GPU is too
    small. The sentence names the node.
    """
    nonce = f"{time.time_ns()}"
    paths = {path: field for field, path in (inputs or {}).items() if os.path.isabs(path) and not is_uri(path)}
    run.write_bytes(_NONCE, nonce.encode())
    try:
        here = look(run, list(paths), gpus=False)
        hosts = hosts_with_room(pool)
        asked = {node_id: _ask(node_id, run, list(paths), hub, gpus=pool.gpus > 0) for node_id in hosts}
        looks = {}
        for node_id, answer in asked.items():
            seen = _answer_of(answer)
            if isinstance(seen, str) and node_id not in {node.node_id for node in cluster_nodes()}:
                continue
            told = seen if isinstance(seen, str) else complaint(seen, nonce, here, run, paths, gpu_bytes)
            if told is not None:
                raise PreflightError(f"node {hosts[node_id]}: {told}")
            assert isinstance(seen, Look), "a sentence was raised"
            looks[hosts[node_id]] = seen
        if not looks:
            raise PreflightError("every node with room for an actor left the cluster just now; run the command again")
        return looks
    finally:
        run.delete(_NONCE)


def look(run: RunDirectory, paths: Sequence[str], hub: Sequence[HubName] = (), *, gpus: bool) -> Look:
    """What this process sees of its node."""
    try:
        nonce = run.read_bytes(_NONCE).decode()
    except FileNotFoundError:
        nonce = ""
    return Look(
        nonce=nonce,
        missing=tuple(path for path in paths if not os.path.exists(path)),
        versions=_versions(),
        free_bytes=free_bytes(run),
        gpu_bytes=smallest_gpu() if gpus else None,
        hub={name.field: why for name in hub if (why := hub_complaint(name)) is not None},
    )


def complaint(
    seen: Look, nonce: str, here: Look, run: RunDirectory, paths: Mapping[str, str], gpu_bytes: int | None
) -> str | None:
    """What is wrong with a node, in one sentence with the way out; None where nothing is.

    Args:
        here: what the driver sees of its own node.
        paths: path to the field that names it.
    """
    if seen.nonce != nonce:
        return (
            f"the run directory {run.uri} is not the same there; give a shared disk or a URI such as "
            "s3://bucket/folder that every node can read"
        )
    gone = [path for path in seen.missing if path not in here.missing]
    if gone:
        return f"field {paths[gone[0]]}: {gone[0]} is not there; copy it to a disk that every node sees, or give a URI"
    for field_name, why in seen.hub.items():
        return f"field {field_name}: {why}"
    for name, version in here.versions.items():
        other = seen.versions.get(name)
        if other != version:
            return (
                f"it has {name} {other or 'not at all'} and the driver has {version}; give all nodes the same image or "
                "environment"
            )
    full = disk_complaint(run, seen.free_bytes)
    if full is not None:
        return full
    if gpu_bytes is not None and seen.gpu_bytes is not None and seen.gpu_bytes < gpu_bytes:
        return (
            f"its GPU has {seen.gpu_bytes / _GIB:.1f} GiB of memory and a worker takes at least "
            f"{gpu_bytes / _GIB:.1f}; use larger GPUs, a smaller dtype, or spread the model over several"
        )
    return None


def _versions() -> dict[str, str]:
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in _SAME_EVERYWHERE:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _ask(node_id: str, run: RunDirectory, paths: Sequence[str], hub: Sequence[HubName], *, gpus: bool) -> Any:
    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    # A part of a GPU, so that the process sees one; on a node whose GPUs are taken it would wait for ever.
    return (
        ray.remote(look)
        .options(num_cpus=0, num_gpus=0.01 if gpus else 0, max_retries=0, scheduling_strategy=there)
        .remote(run, paths, hub, gpus=gpus)
    )


def _answer_of(answer: Any) -> Look | str:
    try:
        seen: Look = ray.get(answer, timeout=_LOOK_SECONDS)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        return f"it cannot be looked at ({first_line(cause if isinstance(cause, BaseException) else error)})"
    return seen
