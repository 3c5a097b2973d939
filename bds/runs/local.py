"""Scoring in this process, without Ray: the same outcomes and bytes as on a cluster, one shard after another."""

from collections.abc import Callable, Iterable

from bds.runs.directory import RunDirectory
from bds.runs.execute import Scorer, ScorerFactory, ShardFailure, give_up, try_shard
from bds.runs.plan import Shard
from bds.runs.receipts import Receipt
from bds.runs.threads import limit_threads, limited_threads


def score_shards_locally(
    run: RunDirectory,
    shards: Iterable[Shard],
    scorer_factory: ScorerFactory,
    *,
    threads: int,
    attempt: int,
    on_receipt: Callable[[Receipt], None],
    on_failure: Callable[[ShardFailure], None],
    max_tries: int = 3,
) -> None:
    """Scores the shards in order; every one ends with a receipt.

    Args:
        threads: compute threads, `resources.cpus_per_actor`.
        on_receipt: called once a shard, also for one that is given up (its `failure` says why).
        on_failure: called for every try that raised.
        max_tries: how often a shard is tried before it is given up.

    Raises:
        BdsError: from the factory, the scorer or the storage; finished shards are kept.
    """
    with limited_threads(threads):
        scorer = scorer_factory()
        # The factory may just have loaded torch, which then takes its threads from here.
        limit_threads(threads)
        for shard in shards:
            on_receipt(_score(run, shard, scorer, attempt, on_failure, max_tries))


def _score(
    run: RunDirectory,
    shard: Shard,
    scorer: Scorer,
    attempt: int,
    on_failure: Callable[[ShardFailure], None],
    max_tries: int,
) -> Receipt:
    tries = 0
    while True:
        tries += 1
        outcome = try_shard(run, shard, scorer, attempt, tries)
        if isinstance(outcome, Receipt):
            return outcome
        on_failure(outcome)
        if tries >= max_tries:
            return give_up(run, shard, outcome, attempt)
