"""The judges at work: keywords and --local in this process, models on Ray, each resuming by its own receipts."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

from bds.distributed.appointed import Appointed
from bds.distributed.judging import load_scorer
from bds.runs.events import EventLog
from bds.runs.execute import ShardFailure
from bds.runs.interrupts import interruptible
from bds.runs.lease import Lease
from bds.runs.local import score_shards_locally
from bds.runs.plan import Plan, Shard
from bds.runs.progress import Meter, show_progress
from bds.runs.receipts import Receipt, remaining
from bds.scoring.loading import weights_needed
from bds.spec.moderate import ModerateSpec
from bds.spec.named_paths import hub_names

OnReceipt = Callable[[Receipt], None]
OnFailure = Callable[[ShardFailure], None]


def judge_missing(
    spec: ModerateSpec,
    plan: Plan,
    judges: Sequence[Appointed],
    lease: Lease,
    log: EventLog,
    *,
    local: bool,
    report: Callable[[str], None],
) -> None:
    """Gets every verdict that is not there yet; keywords first. Ray is connected when the first model needs it.

    Raises:
        PreflightError: a model, the storage or the resources cannot do it.
        BdsError: an engine stopped; finished shards are kept.
        Interrupted: SIGINT or SIGTERM.
    """
    with contextlib.ExitStack() as opened:
        opened.enter_context(interruptible())
        for appointed in sorted(judges, key=lambda each: each.engine != "keywords"):
            left = remaining(plan, appointed.stage)
            if not left:
                continue
            report(f"judge {appointed.name}: {appointed.panel.method} by {appointed.engine_shown}")
            on_ray = appointed.engine != "keywords" and not local
            if on_ray:
                opened.enter_context(_connected(spec))
            judge = functools.partial(_judge_on_ray, report=report) if on_ray else _judge_here
            with _watched(plan, appointed, left, lease, log, report) as (on_receipt, on_failure):
                judge(spec, appointed, left, lease.record.attempt, on_receipt, on_failure)


@contextlib.contextmanager
def _connected(spec: ModerateSpec) -> Iterator[None]:
    from bds.distributed.session import connect

    # Again, because Ray puts a handler of SIGTERM of its own in place of the one that is there.
    with connect(spec.resources), interruptible():
        yield


@contextlib.contextmanager
def _watched(
    plan: Plan,
    appointed: Appointed,
    left: Sequence[Shard],
    lease: Lease,
    log: EventLog,
    report: Callable[[str], None],
) -> Iterator[tuple[OnReceipt, OnFailure]]:
    """Progress and events of one judge: what to call for each shard that is done and each try that failed."""
    meter = Meter(
        shards=len(plan.shards),
        rows=plan.rows,
        shards_before=len(plan.shards) - len(left),
        rows_before=plan.rows - sum(shard.rows for shard in left),
    )
    meter.label = f"judging by {appointed.name}"
    with show_progress(meter) as show:

        def on_receipt(receipt: Receipt) -> None:
            lease.check()
            meter.add(receipt)
            show()
            log.add("shard", {"judge": appointed.name, "shard": receipt.shard, "seconds": receipt.seconds})

        def on_failure(failure: ShardFailure) -> None:
            report(f"shard {failure.shard} failed in try {failure.tries}: {failure.reason}")
            log.add("failure", {"judge": appointed.name, **asdict(failure)})

        yield on_receipt, on_failure


def _judge_here(
    spec: ModerateSpec,
    appointed: Appointed,
    left: Sequence[Shard],
    attempt: int,
    on_receipt: OnReceipt,
    on_failure: OnFailure,
) -> None:
    score_shards_locally(
        appointed.stage,
        left,
        functools.partial(load_scorer, appointed.task),
        threads=spec.resources.cpus_per_actor,
        attempt=attempt,
        on_receipt=on_receipt,
        on_failure=on_failure,
    )


def _judge_on_ray(
    spec: ModerateSpec,
    appointed: Appointed,
    left: Sequence[Shard],
    attempt: int,
    on_receipt: OnReceipt,
    on_failure: OnFailure,
    *,
    report: Callable[[str], None],
) -> None:
    from bds.distributed.nodes import check_nodes
    from bds.distributed.preflight import plan_pool
    from bds.distributed.scoring import score_shards

    task, stage = appointed.task, appointed.stage
    assert task.model is not None, "keywords need no Ray"
    pool = plan_pool(spec.resources, shards=len(left), memory_needed=weights_needed(task.model, "cpu"), say=report)
    judge = f"judges.{task.name}.model"
    hub = [name for name in hub_names(spec) if name.field.startswith(f"judges.{task.name}.")]
    on_gpu = weights_needed(task.model, "cuda") if pool.gpus else None
    check_nodes(stage, pool, inputs={judge: task.model.path}, hub=hub, gpu_bytes=on_gpu)
    gpus = f", {pool.gpus:g} GPU" if pool.gpus else ""
    report(f"Ray: {pool.actors} actors of {pool.cpus} CPU{gpus} each")
    if appointed.engine == "vllm":
        from bds.distributed.batch_engine import judge_shards

        judge_shards(
            stage, left, task, spec.engine, pool, attempt=attempt, on_receipt=on_receipt, on_failure=on_failure
        )
        return
    score_shards(
        stage,
        left,
        functools.partial(load_scorer, task),
        pool,
        attempt=attempt,
        on_receipt=on_receipt,
        on_failure=on_failure,
    )
