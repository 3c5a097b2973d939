"""Scoring shards without Ray: receipts as commits, resume, failures as data."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from bds.errors import BdsError, PreflightError
from bds.runs.directory import RunDirectory
from bds.runs.execute import run_shard
from bds.runs.local import score_shards_locally
from bds.runs.plan import Plan, Shard
from bds.runs.receipts import part_path, read_parts, receipt_path, remaining, valid_receipts
from tests.unit.runs_example import Log, load_score, part_bytes, planned_run, rows, score

Scored = dict[str, pl.DataFrame]


def score_locally(
    run: RunDirectory,
    shards: list[Shard],
    scorer_factory: Callable[[], Callable[[pl.DataFrame], Scored]] = load_score,
    *,
    attempt: int = 1,
) -> Log:
    log = Log()
    score_shards_locally(
        run,
        shards,
        scorer_factory,
        threads=1,
        attempt=attempt,
        on_receipt=log.receipts.append,
        on_failure=log.failure,
    )
    return log


def test_every_row_is_scored_once_and_in_order_whatever_the_order_of_shards(tmp_path: Path) -> None:
    run, plan = planned_run(tmp_path / "forward", count=48)
    score_locally(run, list(plan.shards))
    backward, _ = planned_run(tmp_path / "backward", count=48)
    score_locally(backward, list(reversed(plan.shards)))

    assert part_bytes(run) == part_bytes(backward)
    receipts = valid_receipts(plan, run)
    components = read_parts(run, receipts.values(), "components")
    assert components["row_id"].to_list() == [row.row_id for row in rows(48)]
    assert sum(receipt.rows_ok for receipt in receipts.values()) == 43
    assert sum(receipt.rows_not_ok for receipt in receipts.values()) == 5
    assert sum(receipt.tokens for receipt in receipts.values()) == 48 * 5
    assert read_parts(run, receipts.values(), "hidden")["row_index"].to_list() == list(range(48))


def test_a_second_run_has_nothing_left(tmp_path: Path) -> None:
    run, plan = planned_run(tmp_path)
    assert remaining(plan, run) == list(plan.shards)
    score_locally(run, list(plan.shards[:4]))
    assert [shard.index for shard in remaining(plan, run)] == [4, 5, 6, 7, 8, 9]
    score_locally(run, remaining(plan, run), attempt=2)
    assert remaining(plan, run) == []


def test_only_a_receipt_with_its_whole_parts_and_its_own_rows_counts(tmp_path: Path) -> None:
    run, plan = planned_run(tmp_path)
    score_locally(run, list(plan.shards))
    run.delete(part_path("components", 1))
    run.write_bytes(part_path("hidden", 2), run.read_bytes(part_path("hidden", 2))[:-1])
    run.delete(receipt_path(3))
    run.write_bytes(receipt_path(4), b'{"shard": 4')
    run.write_json(receipt_path(5), {"shard": 5, "of another version": True})
    run.write_json(receipt_path(6), [])
    of_other_rows = replace(plan, shards=(*plan.shards[:7], replace(plan.shards[7], sha256="else"), *plan.shards[8:]))

    assert [shard.index for shard in remaining(of_other_rows, run)] == [1, 2, 3, 4, 5, 6, 7]


def test_a_flipped_byte_in_a_part_is_found_when_it_is_read(tmp_path: Path) -> None:
    run, plan = planned_run(tmp_path)
    score_locally(run, list(plan.shards))
    content = bytearray(run.read_bytes(part_path("components", 2)))
    content[len(content) // 2] ^= 1
    run.write_bytes(part_path("components", 2), bytes(content))
    receipts = valid_receipts(plan, run)
    with pytest.raises(PreflightError, match=r"part-00002\.parquet is damaged: run the same command again"):
        read_parts(run, receipts.values(), "components")
    assert [shard.index for shard in remaining(plan, run)] == [2], "the same command scores it again"


def test_nothing_counts_before_the_receipt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, plan = planned_run(tmp_path)
    written: list[str] = []
    whole = RunDirectory.write_bytes

    def write(self: RunDirectory, name: str, content: bytes) -> None:
        written.append(name)
        whole(self, name, content)

    monkeypatch.setattr(RunDirectory, "write_bytes", write)
    run_shard(run, plan.shards[0], score, attempt=1)
    assert written == [part_path("components", 0), part_path("hidden", 0), receipt_path(0)]


def drop_a_row(table: pl.DataFrame) -> Scored:
    return {"components": score(table)["components"].head(-1)}


def swap_rows(table: pl.DataFrame) -> Scored:
    return {"components": score(table)["components"].reverse()}


def no_components(table: pl.DataFrame) -> Scored:
    return {"hidden": score(table)["hidden"]}


@pytest.mark.parametrize("scorer", [drop_a_row, swap_rows, no_components])
def test_a_scorer_that_loses_or_moves_rows_is_not_believed(
    tmp_path: Path, scorer: Callable[[pl.DataFrame], Scored]
) -> None:
    run, plan = planned_run(tmp_path)
    with pytest.raises(ValueError, match="the scorer"):
        run_shard(run, plan.shards[0], scorer, attempt=1)
    assert remaining(plan, run) == list(plan.shards)


class Flaky:
    """Fails a shard the given number of times."""

    def __init__(self, first_row: int, failures: int) -> None:
        self.first_row = first_row
        self.failures = failures

    def __call__(self, table: pl.DataFrame) -> Scored:
        if table["row_index"][0] == self.first_row and self.failures > 0:
            self.failures -= 1
            raise RuntimeError("a batch broke\nwith details")
        return score(table)


def test_a_shard_that_fails_twice_is_scored_in_the_end(tmp_path: Path) -> None:
    run, plan = planned_run(tmp_path)
    log = score_locally(run, list(plan.shards), lambda: Flaky(10, failures=2))
    assert [(failure.shard, failure.tries) for failure in log.failures] == [(2, 1), (2, 2)]
    assert "a batch broke" in log.failures[0].trace
    assert all(not receipt.failure for receipt in log.receipts)
    assert remaining(plan, run) == []


def test_a_shard_that_always_fails_is_written_out_as_failed_and_tried_again_next_time(tmp_path: Path) -> None:
    run, plan = planned_run(tmp_path)
    log = score_locally(run, list(plan.shards), lambda: Flaky(0, failures=99))
    assert [failure.tries for failure in log.failures] == [1, 2, 3]
    assert [receipt.shard for receipt in log.receipts if receipt.failure] == [0]

    components = read_parts(run, valid_receipts(plan, run).values(), "components")
    assert components["row_id"].to_list() == [row.row_id for row in rows(50)]
    given_up = components.head(5)
    assert given_up["status"].to_list() == ["failed", "failed", "failed", "no_answer", "failed"]
    assert given_up["reason"].to_list() == ["RuntimeError: a batch broke"] * 3 + ["no assistant turn"] + [
        "RuntimeError: a batch broke"
    ]
    assert given_up["loss"].null_count() == 5
    assert components.columns == score_columns(run, plan)

    assert [shard.index for shard in remaining(plan, run)] == [0]
    score_locally(run, remaining(plan, run), attempt=2)
    clean, _ = planned_run(tmp_path / "clean")
    score_locally(clean, list(plan.shards))
    assert part_bytes(run) == part_bytes(clean)


def score_columns(run: RunDirectory, plan: Plan) -> list[str]:
    return run.read_table(part_path("components", plan.shards[-1].index)).columns


def test_a_user_mistake_stops_the_run_at_once_as_itself(tmp_path: Path) -> None:
    run, plan = planned_run(tmp_path)

    def load() -> Callable[[pl.DataFrame], Scored]:
        raise PreflightError("model.path: there is no model in /nowhere")

    with pytest.raises(PreflightError, match="no model in /nowhere"):
        score_locally(run, list(plan.shards), load)

    def full(table: pl.DataFrame) -> Scored:
        raise BdsError("the disk is full")

    with pytest.raises(BdsError, match="the disk is full"):
        score_locally(run, list(plan.shards), lambda: full)
