"""The fault harness notices what it is there to notice: each check is shown a run with the very thing wrong."""

import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from benchmarks.fault_harness.checks import Left, Table, complaints, digest_of, lines_of, sentence_complaints
from benchmarks.fault_harness.jobs import done_in
from benchmarks.fault_harness.processes import Family, kill
from benchmarks.fault_harness.scenarios import flip

ROWS = pl.DataFrame({"row": [0, 1, 2, 3], "score": [0.5, None, 0.25, 1.0]})


def left(rows: pl.DataFrame = ROWS, **fields: object) -> Left:
    whole = Left(
        tables={"scores": Table(rows, ("row",))},
        files={"scores.parquet": "aa"},
        done=Counter(["shard 0", "shard 1"]),
        begun=2,
    )
    return replace(whole, **fields)  # type: ignore[arg-type]


def test_nothing_is_wrong_with_an_equal_run() -> None:
    assert complaints(left(), left(ROWS.clone()), lost_work=0) == []


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (ROWS.filter(pl.col("row") != 2), "scores lost 1 of 4 rows, for example (2,)"),
        (pl.concat([ROWS, ROWS[1:2]]).sort("row"), "scores has 1 rows more than once, for example (1,)"),
        (ROWS.with_columns(row=pl.col("row").replace(3, 7)), "scores has 1 rows that nobody asked for"),
        (ROWS.reverse(), "scores has its rows in another order"),
        (ROWS.with_columns(score=pl.col("score").fill_null(0.0)), "scores has other values in score"),
        (ROWS.with_columns(more=pl.lit(1)), "scores has other columns: ['more']"),
        (ROWS.with_columns(pl.col("score").cast(pl.Float32)), "scores has other"),
        (ROWS.clear(), "scores lost 4 of 4 rows"),
    ],
    ids=["lost", "doubled", "foreign", "disordered", "changed", "another column", "another type", "empty"],
)
def test_a_wrong_table_is_noticed(rows: pl.DataFrame, said: str) -> None:
    told = complaints(left(), left(rows), lost_work=0)
    assert any(said in each for each in told), told


def test_a_row_lost_and_another_doubled_are_both_told() -> None:
    rows = pl.concat([ROWS[:3], ROWS[2:3]])
    told = complaints(left(), left(rows), lost_work=0)
    assert [said.split()[1] for said in told] == ["lost", "has"]


def test_missing_and_other_files_are_noticed() -> None:
    assert complaints(left(), left(tables={}), lost_work=0) == ["scores is not there"]
    assert complaints(left(), left(files={"scores.parquet": "ab"}), lost_work=0) == ["scores.parquet has other bytes"]
    assert complaints(left(), left(files={}), lost_work=0) == ["scores.parquet has other bytes"]
    extra = {"scores.parquet": "aa", "selections.parquet": "bb"}
    assert complaints(left(), left(files=extra), lost_work=0) == ["selections.parquet is there and should not be"]


def test_work_done_twice_left_out_or_begun_too_often_is_noticed() -> None:
    twice = Counter(["shard 0", "shard 1", "shard 1"])
    (said,) = complaints(left(), left(done=twice), lost_work=9)
    assert said == "1 finished pieces of work were done again, for example shard 1"
    (said,) = complaints(left(), left(done=Counter(["shard 1"])), lost_work=9)
    assert said == "1 pieces of work were never finished, for example shard 0"
    assert complaints(left(), left(begun=4), lost_work=2) == []
    (said,) = complaints(left(), left(begun=5), lost_work=2)
    assert said == "3 pieces of work were begun again, and the faults explain 2"


def test_a_stop_needs_its_reason_in_one_sentence() -> None:
    words = ["in use"]
    assert sentence_complaints(3, "the run directory r is in use since noon", words) == []
    assert sentence_complaints(0, "it is in use", words) == ["it ended as if nothing were wrong"]
    trace = "Traceback (most recent call last)\n  ...\nOSError: in use"
    assert sentence_complaints(1, trace, words) == ["it ended with a traceback"]
    assert sentence_complaints(3, "out of luck", words) == ["it did not say why it stopped, but: out of luck"]


def test_flipped_bytes_are_other_bytes_of_the_same_number(tmp_path: Path) -> None:
    for size in (1, 7, 4000):
        file = tmp_path / str(size)
        file.write_bytes(bytes(size))
        before = digest_of(file)
        flip(file, random.Random(size))
        assert digest_of(file) != before
        assert file.stat().st_size == size


def test_a_line_that_was_cut_off_is_no_line(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text('{"key": "a"}\n{"key": "b"}\n{"ke')
    assert [row["key"] for row in lines_of(file)] == ["a", "b"]


def test_a_process_whose_parent_died_is_left_over_until_it_is_ended() -> None:
    family = Family()
    child = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    parent = subprocess.run([sys.executable, "-c", child], env=dict(family.environment), check=True)
    assert parent.returncode == 0
    (said,) = family.leftovers(0.0)
    assert "time.sleep(60)" in said
    assert Family().leftovers(0.0) == []
    family.end()
    assert family.leftovers(0.0) == []


def test_a_victim_that_has_ended_is_no_kill() -> None:
    family = Family()
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=dict(family.environment))
    deadline = time.monotonic() + 10
    while not (found := family.titled(["time.sleep"])) and time.monotonic() < deadline:
        time.sleep(0.05)
    (victim,) = found
    assert kill(victim)
    process.wait()
    assert not kill(victim)


def test_a_receipt_counts_where_the_driver_died_before_it_told_of_it(tmp_path: Path) -> None:
    events = tmp_path / "events"
    receipts = tmp_path / "stages" / "score" / "receipts"
    trained = tmp_path / "runs" / "one" / "models" / "tiny" / "seed-0"
    for folder in (events, receipts, trained):
        folder.mkdir(parents=True)
    (events / "attempt-0001.jsonl").write_text('{"event": "shard", "shard": 0}\n{"event": "sha')
    (events / "attempt-0002.jsonl").write_text('{"event": "shard", "shard": 0}\n{"event": "shard", "shard": 2}\n')
    for shard in (0, 1):
        (receipts / f"{shard:05d}.json").write_text("{}")
    (trained / "receipt.json").write_text("{}")
    assert done_in(tmp_path) == Counter(
        {". shard 0": 2, ". shard 1": 1, ". shard 2": 1, "runs/one finetune tiny/seed-0": 1}
    )
