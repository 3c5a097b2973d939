"""Scoring on Ray Data: one dataset row is one shard, a fixed pool of actors, and only receipts travel.

Ray Data replaces an actor whose process died and gives its shard to another. Exceptions are not deaths: they come back
as data, so that one bad shard never aborts the others.
"""

import functools
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import pyarrow as pa
import ray
import ray.data
from ray.data.exceptions import ExecutionTimeoutError

from bds.distributed import metrics
from bds.errors import BdsError
from bds.runs.directory import RunDirectory
from bds.runs.execute import ScorerFactory, ShardFailure, give_up, try_shard
from bds.runs.messages import first_line
from bds.runs.plan import Shard
from bds.runs.receipts import STAGE, Receipt, read_receipt
from bds.runs.threads import limit_threads

_Result = TypeVar("_Result")

_NO_PROGRESS_SECONDS_GPU = 2 * 3600.0
_NO_PROGRESS_SECONDS_CPU = 12 * 3600.0
"""A shard is minutes of work: a pool that finishes none for this long has lost a node and no longer fits."""

_FATAL_DEVICE_ERRORS = (
    "CUDA error: device-side assert",
    "CUDA error: an illegal memory access",
    "CUDA error: unspecified launch failure",
    "CUDA error: uncorrectable ECC error",
    "CUDA error: misaligned address",
    "CUDA error: invalid program counter",
    "CUDA error: the launch timed out",
)
"""After one of these every further CUDA call of the process fails: only a new process helps."""


@dataclass(frozen=True)
class WorkerPool:
    """The actors that score, and what each of them takes. None of it changes a result except `cpus`, its threads."""

    actors: int
    cpus: int
    gpus: float
    memory: int | None
    """Bytes."""
    parts: int = 1
    """Processes of an actor: its own, and those it starts for the other parts of its model. Each takes the same."""


def score_shards(
    run: RunDirectory,
    shards: Sequence[Shard],
    scorer_factory: ScorerFactory,
    pool: WorkerPool,
    *,
    attempt: int,
    on_receipt: Callable[[Receipt], None],
    on_failure: Callable[[ShardFailure], None],
    max_tries: int = 3,
) -> None:
    """Scores the shards on the connected Ray; every one ends with a receipt, written by its worker.

    Args:
        scorer_factory: called once an actor; picklable, with paths as its arguments and never tensors.
        on_receipt: called once a shard as it finishes, also for one that is given up (its `failure` says why).
        on_failure: called for every try that raised.
        max_tries: how often a shard is tried before it is given up; a worker that died over it counts as a try.

    Raises:
        BdsError: from the factory, the scorer or the storage, as itself; or where Ray failed. Finished shards are kept.
    """
    waiting = {shard.index: shard for shard in shards}
    while waiting:
        again: dict[int, Shard] = {}
        for outcome in _outcomes(run, list(waiting.values()), scorer_factory, pool, attempt, max_tries):
            shard = waiting.pop(outcome.shard)
            if isinstance(outcome, Receipt):
                on_receipt(outcome)
                continue
            on_failure(outcome)
            if outcome.tries < max_tries:
                again[shard.index] = shard
            else:
                given_up = give_up(run, shard, outcome, attempt)
                metrics.shard_given_up(given_up, tries=outcome.tries)
                on_receipt(given_up)
        if waiting:
            raise BdsError(f"Ray ended without shards {sorted(waiting)}: run the same command again to score them")
        waiting = again


def run_once(function: Callable[[], _Result], pool: WorkerPool) -> _Result:
    """Runs a picklable function as one Ray task with an actor's resources and threads.

    Raises its BdsError as itself, any other exception as a BdsError of one sentence.
    """
    task = ray.remote(_guarded).options(
        num_cpus=pool.cpus, num_gpus=pool.gpus, memory=pool.memory, max_retries=2, name=_name_of(function)
    )
    try:
        result: _Result | BdsError = ray.get(task.remote(function, pool.cpus))
    except ray.exceptions.RayError as error:
        raise BdsError(f"{_name_of(function)} did not finish on Ray ({first_line(error)})") from error
    if isinstance(result, BdsError):
        raise result
    return result


class ShardWorker:
    """One actor: the scorer, loaded once, and the shards Ray Data hands it."""

    def __init__(
        self, run: RunDirectory, scorer_factory: ScorerFactory, threads: int, attempt: int, max_tries: int
    ) -> None:
        self.run = run
        self.attempt = attempt
        self.max_tries = max_tries
        # A model that cannot load is every shard's outcome: raised here it would arrive wrapped in Ray's own traceback.
        self.scorer = _guarded(scorer_factory, threads)

    def __call__(self, batch: pa.Table) -> pa.Table:
        outcomes = [self._outcome(Shard(**fields)) for fields in batch.to_pylist()]
        return pa.table({"outcome": pa.array([pickle.dumps(outcome) for outcome in outcomes], pa.binary())})

    def _outcome(self, shard: Shard) -> Receipt | ShardFailure | BdsError:
        if isinstance(self.scorer, BdsError):
            return self.scorer
        try:
            return self._score(shard)
        except BdsError as error:
            return error

    def _score(self, shard: Shard) -> Receipt | ShardFailure:
        # Ray runs a task again when the node that held its result is lost; the receipt says that the work is done.
        committed = read_receipt(self.run, shard.index)
        if committed is not None and committed.attempt == self.attempt and not committed.failure:
            return committed
        tries = _count_try(self.run, shard, self.attempt)
        if tries > self.max_tries:
            reason = f"its worker process died or failed in each of {self.max_tries} tries"
            return ShardFailure(shard.index, tries, reason, trace="")
        outcome = try_shard(self.run, shard, self.scorer, self.attempt, tries)
        if isinstance(outcome, Receipt):
            operations = getattr(self.scorer, "operations_per_token", None)
            metrics.shard_scored(outcome, tries=tries, operations_per_token=operations)
        if isinstance(outcome, ShardFailure) and any(text in outcome.trace for text in _FATAL_DEVICE_ERRORS):
            os._exit(1)
        return outcome


def _outcomes(
    run: RunDirectory,
    shards: list[Shard],
    scorer_factory: ScorerFactory,
    pool: WorkerPool,
    attempt: int,
    max_tries: int,
) -> Iterator[Receipt | ShardFailure]:
    """One pass of the actor pool, in the order the shards finish. Raises the BdsError that stopped a worker."""
    with ray.data.DataContext.current(data_context(pool)):
        dataset = ray.data.from_items([asdict(shard) for shard in shards], override_num_blocks=len(shards)).map_batches(
            ShardWorker,
            batch_size=1,
            batch_format="pyarrow",
            # One shard at a time on an actor: a second one queued behind a slow one would wait beside an idle actor.
            compute=ray.data.ActorPoolStrategy(size=min(pool.actors, len(shards)), max_tasks_in_flight_per_actor=1),
            fn_constructor_args=(run, scorer_factory, pool.cpus, attempt, max_tries),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
            memory=pool.memory,
            udf_modifying_row_count=False,
        )
    executor = None
    try:
        # Ray Data's iterators over rows and batches send the metadata of all shards to its statistics, again and again:
        # of 39,000 shards that is most of what a driver can do. Its iterator over blocks does not give actors back.
        bundles, _, executor = dataset._execute_to_iterator()
        for bundle in bundles:
            for block in bundle.blocks:
                for packed in ray.get(block.ref)["outcome"].to_pylist():
                    outcome: Receipt | ShardFailure | BdsError = pickle.loads(packed)
                    if isinstance(outcome, BdsError):
                        raise outcome
                    yield outcome
    except ExecutionTimeoutError as error:
        raise BdsError(
            "no shard finished for hours, so the cluster has probably lost what an actor needs: "
            "check it and run the same command again; finished shards are kept"
        ) from error
    except ray.exceptions.RayError as error:
        raise BdsError(
            f"Ray stopped the scoring ({first_line(error)}): run the same command again; finished shards are kept"
        ) from error
    finally:
        if executor is not None:
            executor.shutdown(force=True)


def data_context(pool: WorkerPool) -> ray.data.DataContext:
    """Ray Data's settings for a pool whose model is loaded once an actor: fail early, drop nothing, wait for hours."""
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = _NO_PROGRESS_SECONDS_GPU if pool.gpus else _NO_PROGRESS_SECONDS_CPU
    context.max_consecutive_actor_init_deaths = 3
    context.actor_init_retry_on_errors = False
    context.max_errored_blocks = 0
    return context


def _count_try(run: RunDirectory, shard: Shard, attempt: int) -> int:
    """Counts before the work, on storage: a shard that kills its worker cannot report that it did."""
    name = f"{STAGE}/tries/attempt-{attempt:04d}/{shard.index:05d}.json"
    try:
        tries = int(run.read_json(name)) + 1
    except FileNotFoundError:
        tries = 1
    run.write_json(name, tries)
    return tries


def _guarded(function: Callable[[], Any], threads: int) -> Any:
    """The function's result under the given number of threads, or its error as a BdsError."""
    limit_threads(threads)
    try:
        result = function()
    except BdsError as error:
        return error
    except Exception as error:
        return BdsError(f"{_name_of(function)} failed with {type(error).__name__}: {first_line(error)}")
    # The function may just have loaded torch, which then takes its threads from here.
    limit_threads(threads)
    return result


def _name_of(function: Callable[..., Any]) -> str:
    if isinstance(function, functools.partial):
        return _name_of(function.func)
    return getattr(function, "__qualname__", type(function).__qualname__)
