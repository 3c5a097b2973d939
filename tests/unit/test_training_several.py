"""Fine-tunes that share a process: how they are spread, what is recorded of each, what a next process takes up."""

import math
import pickle
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bds.errors import PreflightError
from bds.runs.directory import RunDirectory
from bds.training.data import FrozenData
from bds.training.plan import RECEIPT, Assignment, Finetune
from bds.training.several import Failure, Outcome, Series, failure_of, spread


def some(count: int) -> list[Assignment]:
    data = FrozenData("data/rows", "rows.jsonl", "0" * 64, 1, {"ok": 1}, None)
    return [Assignment(Finetune("m", "d", "r", "none", seed), f"{seed:064}", data, ()) for seed in range(count)]


def ended_well(run: RunDirectory, assignment: Assignment) -> None:
    """The receipt that a real training leaves."""
    run.write_json(f"{assignment.task.folder}/{RECEIPT}", {"key": assignment.key, "files": {}})


def seeds(assignments: list[Assignment]) -> list[int]:
    return [each.task.seed for each in assignments]


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(str(tmp_path))


@pytest.mark.parametrize(
    ("count", "most", "at_a_time", "sizes"),
    [
        pytest.param(18, 16, 2, [9, 9], id="even over what runs at a time"),
        pytest.param(3, 16, 2, [1, 2], id="nobody idle"),
        pytest.param(1, 16, 4, [1], id="no empty part"),
        pytest.param(36, 16, 2, [9, 9, 9, 9], id="more than two trainers may take"),
        pytest.param(4, 1, 2, [1, 1, 1, 1], id="each its own"),
        pytest.param(0, 16, 2, [], id="nothing"),
    ],
)
def test_finetunes_are_spread_evenly(count: int, most: int, at_a_time: int, sizes: list[int]) -> None:
    assert [len(part) for part in spread(some(count), most=most, at_a_time=at_a_time)] == sizes


@given(st.integers(0, 200), st.integers(1, 40), st.integers(1, 20))
def test_spreading_keeps_every_finetune_in_order_and_the_limit(count: int, most: int, at_a_time: int) -> None:
    assignments = some(count)
    parts = spread(assignments, most=most, at_a_time=at_a_time)
    assert list(chain.from_iterable(parts)) == assignments
    sizes = [len(part) for part in parts]
    assert all(1 <= size <= most for size in sizes)
    assert max(sizes, default=0) - min(sizes, default=0) <= 1
    assert len(parts) >= min(count, at_a_time)
    assert len(parts) <= at_a_time * math.ceil(count / (most * at_a_time))


def test_one_that_fails_is_recorded_and_the_next_begins(run: RunDirectory) -> None:
    series = Series(run, "trainers", some(3))
    for_the_worker = pickle.loads(pickle.dumps(series))
    begun: list[int] = []
    told: list[Outcome] = []

    def train(assignment: Assignment) -> None:
        # What ended before is known while the rest is still under way.
        told.extend(series.news())
        begun.append(assignment.task.seed)
        if assignment.task.seed == 1:
            raise ValueError("no good\nat all")
        ended_well(run, assignment)

    for_the_worker.train(train)
    assert begun == [0, 1, 2]
    assert seeds([outcome.assignment for outcome in told]) == [0, 1]
    told.extend(series.news())
    assert seeds([outcome.assignment for outcome in told]) == [0, 1, 2]
    assert [outcome.failure and outcome.failure.reason for outcome in told] == [None, "ValueError: no good", None]
    assert told[1].failure is not None
    assert "Traceback" in told[1].failure.trace
    assert series.news() == []
    assert series.left == []


@pytest.mark.parametrize("recorded", [True, False], ids=["after the record", "between receipt and record"])
def test_a_next_process_takes_up_what_is_left(run: RunDirectory, recorded: bool) -> None:
    series = Series(run, "trainers", some(4))
    sent = pickle.dumps(series)

    def die_in_the_third(assignment: Assignment) -> None:
        if assignment.task.seed == 0:
            raise PreflightError("no data")
        if assignment.task.seed == 2:
            raise KeyboardInterrupt
        ended_well(run, assignment)
        if not recorded:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pickle.loads(sent).train(die_in_the_third)
    assert seeds([outcome.assignment for outcome in series.news()]) == ([0, 1] if recorded else [0])
    assert seeds(series.left) == ([2, 3] if recorded else [1, 2, 3])

    begun: list[int] = []
    pickle.loads(sent).train(lambda assignment: begun.append(assignment.task.seed))
    assert begun == [2, 3]
    assert all(outcome.failure is None for outcome in series.news())
    assert series.left == []


def test_the_rest_can_be_left_to_another_process_after_a_failure(run: RunDirectory) -> None:
    series = Series(run, "trainers", some(3))

    def fail_in_the_second(assignment: Assignment) -> None:
        if assignment.task.seed == 1:
            raise RuntimeError("CUDA error: device-side assert triggered")

    series.train(fail_in_the_second, stop_at_failure=True)
    series.news()
    assert seeds(series.left) == [2]


def test_two_series_of_the_same_finetunes_share_no_record(run: RunDirectory) -> None:
    first, second = Series(run, "trainers", some(1)), Series(run, "trainers", some(1))
    first.train(lambda assignment: None)
    assert seeds([outcome.assignment for outcome in first.news()]) == [0]
    assert first.left == []
    assert second.news() == []
    assert seeds(second.left) == [0]


def test_a_users_mistake_is_told_in_its_own_words() -> None:
    def mistake() -> None:
        raise PreflightError("mend the data")

    failure = failure_of(mistake)
    assert isinstance(failure, Failure)
    assert failure.reason == "mend the data"
    assert failure_of(lambda: None) is None
