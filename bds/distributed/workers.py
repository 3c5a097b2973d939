"""Where an audit's work runs: on a pool of Ray actors, or in this process. Both give the same bytes."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from bds.runs.directory import RunDirectory
from bds.runs.execute import ScorerFactory, ShardFailure
from bds.runs.interrupts import interruptible
from bds.runs.local import score_shards_locally
from bds.runs.machine import main_memory, smallest_gpu
from bds.runs.plan import Shard
from bds.runs.receipts import Receipt
from bds.runs.threads import limited_threads
from bds.scoring.dry_run import UnknownMemoryError
from bds.scoring.memory import MemoryModel, Room, ScoringMemory, fit, fit_again, lowered
from bds.scoring.spread.chain import Spread
from bds.scoring.stages import read_token_budget, write_token_budget
from bds.spec.models import AuditSpec
from bds.spec.named_paths import hub_names

if TYPE_CHECKING:
    from bds.distributed.nodes import Look
    from bds.distributed.preflight import Node

MemoryOf = Callable[[str], MemoryModel]
"""What an actor takes, by its device: cpu or cuda."""

USABLE = 0.9
"""Of a GPU's memory: the rest is CUDA's own, and what its allocator cannot use for being in pieces."""

_Result = TypeVar("_Result")


class Workers(Protocol):
    spread: Spread | None
    """How the model is spread over processes, where it is."""

    def once(self, function: Callable[[], _Result]) -> _Result:
        """Runs a picklable function where the model can be loaded."""

    def score(
        self,
        run: RunDirectory,
        shards: Sequence[Shard],
        factory: ScorerFactory,
        *,
        attempt: int,
        on_receipt: Callable[[Receipt], None],
        on_failure: Callable[[ShardFailure], None],
    ) -> None:
        """Scores the shards; every one ends with a receipt."""


class LocalWorkers:
    """One after the other, without Ray."""

    spread: Spread | None = None

    def __init__(
        self, spec: AuditSpec, run: RunDirectory, memory: MemoryOf | None, report: Callable[[str], None]
    ) -> None:
        self._threads = spec.resources.cpus_per_actor
        if memory is not None:
            device, room = room_here()
            _record(run, spec, _estimated(lambda: settle(run, spec, memory(device), room, report), report))

    def once(self, function: Callable[[], _Result]) -> _Result:
        with limited_threads(self._threads):
            return function()

    def score(
        self,
        run: RunDirectory,
        shards: Sequence[Shard],
        factory: ScorerFactory,
        *,
        attempt: int,
        on_receipt: Callable[[Receipt], None],
        on_failure: Callable[[ShardFailure], None],
    ) -> None:
        score_shards_locally(
            run, shards, factory, threads=self._threads, attempt=attempt, on_receipt=on_receipt, on_failure=on_failure
        )


class RayWorkers:
    """A fixed pool of actors on the connected cluster."""

    def __init__(
        self, spec: AuditSpec, run: RunDirectory, shards: int, memory: MemoryOf, report: Callable[[str], None]
    ) -> None:
        from bds.distributed.nodes import check_nodes
        from bds.distributed.parts import open_chain
        from bds.distributed.preflight import cluster_nodes, gpus_per_actor, plan_pool

        parts = spec.resources.parts_per_model
        nodes = cluster_nodes()
        on_gpu = gpus_per_actor(spec.resources, nodes) > 0
        model = _estimated(lambda: memory("cuda" if on_gpu else "cpu"), report)
        settled = needed = None
        if model is not None and on_gpu:
            needed = _estimated(model.main, report)
        elif model is not None:
            room = _main_memory_room(spec, nodes)
            settled = _estimated(lambda: settle(run, spec, model, room, report), report)
            needed = None if settled is None else settled.total
        self._pool = plan_pool(spec.resources, shards=max(1, shards), memory_needed=needed, say=report, parts=parts)
        looks = check_nodes(run, self._pool, inputs=_inputs(spec), hub=hub_names(spec))
        if model is not None and on_gpu:
            room = gpu_room(looks, self._pool.gpus)
            settled = _estimated(lambda: settle(run, spec, model, room, report), report)
        _record(run, spec, settled)
        self.spread = Spread(parts, functools.partial(open_chain, self._pool)) if parts > 1 else None
        gpus = f", {self._pool.gpus:g} GPU" if self._pool.gpus else ""
        processes = f"{parts} processes of " if parts > 1 else ""
        report(f"Ray: {self._pool.actors} actors of {processes}{self._pool.cpus} CPU{gpus} each")

    def once(self, function: Callable[[], _Result]) -> _Result:
        from bds.distributed.scoring import run_once

        return run_once(function, self._pool)

    def score(
        self,
        run: RunDirectory,
        shards: Sequence[Shard],
        factory: ScorerFactory,
        *,
        attempt: int,
        on_receipt: Callable[[Receipt], None],
        on_failure: Callable[[ShardFailure], None],
    ) -> None:
        from bds.distributed.scoring import score_shards

        score_shards(run, shards, factory, self._pool, attempt=attempt, on_receipt=on_receipt, on_failure=on_failure)


def _inputs(spec: AuditSpec) -> dict[str, str]:
    """What an actor reads, by field; the rows it reads from the run directory."""
    found = {"model.path": spec.model.path, "tokens.template": spec.tokens.template}
    if spec.model.adapter is not None:
        found["model.adapter"] = spec.model.adapter
    return found | {f"anchors.sets.{name}.path": entry.path for name, entry in spec.anchors.sets.items()}


def settle(
    run: RunDirectory, spec: AuditSpec, model: MemoryModel, room: Room | None, report: Callable[[str], None]
) -> ScoringMemory:
    """What an actor takes at the run's token budget: the one it began with, else the largest that fits.

    Args:
        room: None where it is not known; the budget asked for then stands.

    Raises PreflightError where it does not fit.
    """
    recorded = read_token_budget(run)
    if room is None:
        return model.at(recorded or spec.score.token_budget)
    if recorded is not None:
        return fit_again(model, recorded, room)
    found = fit(model, spec, room)
    told = lowered(found, spec, room)
    if told is not None:
        report(told)
    return found


def _estimated(estimate: Callable[[], _Result], report: Callable[[str], None]) -> _Result | None:
    try:
        return estimate()
    except UnknownMemoryError as error:
        report(f"warning: how much memory an actor takes cannot be said of this model ({error})")
        return None


def _record(run: RunDirectory, spec: AuditSpec, settled: ScoringMemory | None) -> None:
    if read_token_budget(run) is None:
        write_token_budget(run, spec.score.token_budget if settled is None else settled.token_budget)


def room_here() -> tuple[str, Room | None]:
    """The device that scoring in this process takes, and the room there."""
    gpu = smallest_gpu()
    if gpu is not None:
        return "cuda", Room(int(gpu * USABLE), "the GPU of this machine")
    memory = main_memory()
    return "cpu", None if memory is None else Room(memory, "this machine")


def _main_memory_room(spec: AuditSpec, nodes: "Sequence[Node]") -> Room | None:
    """Of the node with most of it: an actor goes where its memory is. None where no node is up yet."""
    from bds.distributed.preflight import memory_bytes

    if spec.resources.memory_per_actor is not None:
        return Room(memory_bytes(spec.resources.memory_per_actor), "resources.memory_per_actor")
    largest = max(nodes, key=lambda node: node.total.get("memory", 0.0), default=None)
    return None if largest is None else Room(int(largest.total.get("memory", 0.0)), f"node {largest.host}")


def gpu_room(looks: "Mapping[str, Look]", gpus: float) -> Room | None:
    """Of the smallest GPU among the nodes: every actor of a run plans the same batches."""
    sizes = {host: look.gpu_bytes for host, look in looks.items() if look.gpu_bytes is not None}
    if not sizes:
        return None
    smallest = min(sizes, key=lambda host: sizes[host])
    return Room(int(sizes[smallest] * USABLE * min(1.0, gpus)), f"the GPU of node {smallest}")


@contextlib.contextmanager
def open_workers(
    spec: AuditSpec,
    run: RunDirectory,
    *,
    shards: int,
    memory: MemoryOf | None,
    local: bool,
    report: Callable[[str], None],
) -> Iterator[Workers]:
    """Workers for the time of the block, in which SIGINT and SIGTERM raise Interrupted.

    Args:
        shards: how many wait to be scored; a cluster is asked for no more actors.
        memory: what an actor takes on a device; None where no model will load, and then no cluster is taken.

    Raises PreflightError where the cluster cannot be reached, has no room, or does not see the run directory, or where
    an actor's memory does not suffice.
    """
    if local or memory is None:
        with interruptible():
            yield LocalWorkers(spec, run, memory, report)
        return
    from bds.distributed.session import connect

    with connect(spec.resources), interruptible():
        yield RayWorkers(spec, run, shards, memory, report)
