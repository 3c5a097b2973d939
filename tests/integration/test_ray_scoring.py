"""Scoring on a real local Ray: the same bytes however it runs, and no shard lost or scored twice."""

import functools
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
import pytest

from bds.distributed.scoring import WorkerPool, run_once, score_shards
from bds.errors import BdsError, PreflightError
from bds.runs.directory import RunDirectory
from bds.runs.local import score_shards_locally
from bds.runs.plan import Plan, Shard
from bds.runs.receipts import read_parts, remaining, valid_receipts
from tests.integration.ray_scorers import Accidents, Scored, first_rows_called, load, load_nothing, load_with_a_bug
from tests.unit.runs_example import Log, load_score, part_bytes, planned_run, rows

pytestmark = pytest.mark.usefixtures("ray_session")


def pool(actors: int) -> WorkerPool:
    return WorkerPool(actors, cpus=1, gpus=0.0, memory=None)


def score_on_ray(
    run: RunDirectory,
    shards: Sequence[Shard],
    factory: Callable[[], Callable[[pl.DataFrame], Scored]],
    *,
    actors: int = 2,
    max_tries: int = 3,
) -> Log:
    log = Log()
    score_shards(
        run,
        shards,
        factory,
        pool(actors),
        attempt=1,
        on_receipt=log.receipts.append,
        on_failure=log.failure,
        max_tries=max_tries,
    )
    return log


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The parts of the same run, scored in this process."""
    run, plan = planned_run(tmp_path_factory.mktemp("expected"))
    score_shards_locally(
        run,
        plan.shards,
        load_score,
        threads=1,
        attempt=1,
        on_receipt=lambda receipt: None,
        on_failure=lambda failure: None,
    )
    return part_bytes(run)


def check_whole(run: RunDirectory, plan: Plan) -> None:
    components = read_parts(run, valid_receipts(plan, run).values(), "components")
    assert components["row_id"].to_list() == [row.row_id for row in rows(plan.rows)]


@pytest.mark.parametrize(("actors", "backwards"), [(1, False), (2, True), (3, False)])
def test_the_parts_are_the_same_bytes_for_any_pool_and_order(
    tmp_path: Path, expected: dict[str, bytes], actors: int, backwards: bool
) -> None:
    run, plan = planned_run(tmp_path / "run")
    shards = list(reversed(plan.shards)) if backwards else list(plan.shards)
    factory = functools.partial(load, str(tmp_path / "calls"), Accidents(seconds=0.3 if actors > 1 else 0.0))
    log = score_on_ray(run, shards, factory, actors=actors)

    assert part_bytes(run) == expected
    assert sorted(receipt.shard for receipt in log.receipts) == list(range(10))
    assert len({receipt.worker.pid for receipt in log.receipts}) == actors
    assert sorted(first_rows_called(str(tmp_path / "calls"))) == list(range(0, 50, 5))
    assert remaining(plan, run) == []
    check_whole(run, plan)


def test_an_actor_that_dies_in_a_shard_loses_nothing(tmp_path: Path, expected: dict[str, bytes]) -> None:
    run, plan = planned_run(tmp_path / "run")
    log = score_on_ray(
        run, plan.shards, functools.partial(load, str(tmp_path / "calls"), Accidents(die_once=20, raise_once=35))
    )
    assert part_bytes(run) == expected
    assert sorted(receipt.shard for receipt in log.receipts) == list(range(10))
    assert [(failure.shard, failure.tries, failure.reason) for failure in log.failures] == [
        (7, 1, "RuntimeError: a batch broke")
    ]
    calls = first_rows_called(str(tmp_path / "calls"))
    assert sorted(calls) == sorted([*range(0, 50, 5), 20, 35])


def test_shards_that_always_fail_are_given_up_and_the_others_finish(tmp_path: Path) -> None:
    run, plan = planned_run(tmp_path / "run")
    accidents = Accidents(die_always=5, raise_always=40)
    factory = functools.partial(load, str(tmp_path / "calls"), accidents)
    log = score_on_ray(run, plan.shards, factory, max_tries=2)

    given_up = {receipt.shard: receipt.failure for receipt in log.receipts if receipt.failure}
    assert given_up == {
        1: "its worker process died or failed in each of 2 tries",
        8: "RuntimeError: a batch broke",
    }
    calls = first_rows_called(str(tmp_path / "calls"))
    assert (calls.count(5), calls.count(40)) == (2, 2)
    check_whole(run, plan)
    components = read_parts(run, valid_receipts(plan, run).values(), "components")
    assert components.filter(status="failed")["row_index"].to_list() == [5, 6, 7, 8, 9, 40, 41, 42, 44]
    assert [shard.index for shard in remaining(plan, run)] == [1, 8]


def test_a_model_that_cannot_load_is_its_own_sentence_at_once(tmp_path: Path) -> None:
    run, plan = planned_run(tmp_path / "run")
    started = time.monotonic()
    with pytest.raises(PreflightError, match=r"^model\.path: there is no model in /nowhere$"):
        score_on_ray(run, plan.shards, functools.partial(load_nothing, str(tmp_path / "calls")))
    assert time.monotonic() - started < 60
    assert (tmp_path / "calls").read_text().count("load") <= 2
    assert remaining(plan, run) == list(plan.shards)

    with pytest.raises(BdsError, match=r"^load_with_a_bug failed with RuntimeError: size mismatch$"):
        score_on_ray(run, plan.shards, load_with_a_bug)


def test_a_user_mistake_inside_a_shard_stops_the_run_and_frees_the_actors(tmp_path: Path) -> None:
    import ray

    run, plan = planned_run(tmp_path / "run")
    factory = functools.partial(load, str(tmp_path / "calls"), Accidents(user_mistake=10, seconds=0.2))
    with pytest.raises(BdsError, match="the tokenizer of the model is gone"):
        score_on_ray(run, plan.shards, factory)
    assert plan.shards[2] in remaining(plan, run)

    deadline = time.monotonic() + 30
    while ray.available_resources().get("CPU", 0) < 4 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert ray.available_resources()["CPU"] == 4


def threads_seen() -> tuple[str | None, int]:
    import torch

    return os.environ.get("OMP_NUM_THREADS"), torch.get_num_threads()


def mistaken() -> None:
    raise PreflightError("anchors: the file has no rows")


def buggy() -> None:
    raise ValueError("a bug")


def test_run_once_has_the_actors_threads_and_raises_what_the_function_raised() -> None:
    assert run_once(threads_seen, WorkerPool(1, cpus=2, gpus=0.0, memory=None)) == ("2", 2)
    with pytest.raises(PreflightError, match=r"^anchors: the file has no rows$"):
        run_once(mistaken, pool(1))
    with pytest.raises(BdsError, match=r"^buggy failed with ValueError: a bug$"):
        run_once(buggy, pool(1))
