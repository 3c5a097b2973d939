"""Where an audit's work runs: on a pool of Ray actors, or in this process. Both give the same bytes."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from bds.runs.directory import RunDirectory
from bds.runs.execute import ScorerFactory, ShardFailure
from bds.runs.interrupts import interruptible
from bds.runs.local import score_shards_locally
from bds.runs.plan import Shard
from bds.runs.receipts import Receipt
from bds.runs.threads import limited_threads
from bds.scoring.loading import gpu_memory_needed, memory_needed
from bds.scoring.spread.chain import Spread
from bds.spec.models import AuditSpec

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

    def __init__(self, threads: int) -> None:
        self._threads = threads

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

    def __init__(self, spec: AuditSpec, run: RunDirectory, shards: int, report: Callable[[str], None]) -> None:
        from bds.distributed.nodes import check_nodes
        from bds.distributed.parts import open_chain
        from bds.distributed.preflight import plan_pool

        parts = spec.resources.parts_per_model
        self._pool = plan_pool(
            spec.resources,
            shards=max(1, shards),
            memory_needed=_share(memory_needed(spec.model), parts),
            say=report,
            parts=parts,
        )
        check_nodes(run, self._pool, inputs=_inputs(spec), gpu_bytes=_share(gpu_memory_needed(spec.model), parts))
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


def _share(needed: int | None, parts: int) -> int | None:
    """Of one process; blocks cannot be cut, so that the largest has a little more."""
    return None if needed is None else needed // parts


def _inputs(spec: AuditSpec) -> dict[str, str]:
    """What an actor reads, by field; the rows it reads from the run directory."""
    found = {"model.path": spec.model.path, "tokens.template": spec.tokens.template}
    if spec.model.adapter is not None:
        found["model.adapter"] = spec.model.adapter
    return found | {f"anchors.sets.{name}.path": entry.path for name, entry in spec.anchors.sets.items()}


@contextlib.contextmanager
def open_workers(
    spec: AuditSpec, run: RunDirectory, *, shards: int, local: bool, report: Callable[[str], None]
) -> Iterator[Workers]:
    """Workers for the time of the block, in which SIGINT and SIGTERM raise Interrupted.

    Args:
        shards: how many wait to be scored; a cluster is asked for no more actors.

    Raises PreflightError where the cluster cannot be reached, has no room, or does not see the run directory.
    """
    if local:
        with interruptible():
            yield LocalWorkers(spec.resources.cpus_per_actor)
        return
    from bds.distributed.session import connect

    with connect(spec.resources), interruptible():
        yield RayWorkers(spec, run, shards, report)
