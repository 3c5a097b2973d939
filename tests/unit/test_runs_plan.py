"""The plan: every row in exactly one shard, kept as it was, and frozen."""

import datetime
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bds.data.rows import Conversation, Message, Row
from bds.errors import PreflightError
from bds.runs.directory import RunDirectory
from bds.runs.plan import read_plan, read_shard, rows_of, write_plan

TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
CONVERSATIONS = st.none() | st.lists(
    st.builds(Message, st.sampled_from(["system", "user", "assistant"]), TEXT), max_size=3
).map(lambda messages: Conversation(tuple(messages)))


def row(index: int, **fields: Any) -> Row:
    made = Row(row_index=index, row_id=f"id{index}-0", source="data.jsonl", line=index + 1, status="ok")
    return replace(made, **fields)


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 60), rows_per_shard=st.integers(1, 70))
def test_any_cut_holds_each_row_exactly_once_in_order(
    rows: int, rows_per_shard: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = RunDirectory(str(tmp_path_factory.mktemp("run")))
    plan = write_plan(
        run, (row(i) for i in range(rows)), rows_per_shard=rows_per_shard, spec_sha256="s", data_format="messages"
    )
    tables = [read_shard(run, shard) for shard in plan.shards]

    assert [index for table in tables for index in table["row_index"]] == list(range(rows))
    assert plan.rows == rows == sum(shard.rows for shard in plan.shards)
    assert all(shard.rows == rows_per_shard for shard in plan.shards[:-1])
    assert [shard.first_row for shard in plan.shards] == [table["row_index"][0] for table in tables]
    assert read_plan(run) == plan


@settings(max_examples=60, deadline=None)
@given(record=st.dictionaries(TEXT, JSON, max_size=4), conversation=CONVERSATIONS)
def test_a_row_comes_back_as_it_was(
    record: dict[str, Any], conversation: Conversation | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = RunDirectory(str(tmp_path_factory.mktemp("run")))
    before = row(0, record=record, conversation=conversation)
    plan = write_plan(run, [before], rows_per_shard=5, spec_sha256="s", data_format="messages")
    (after,) = rows_of(read_shard(run, plan.shards[0]))
    assert after == before
    assert list(after.record) == list(record)


def test_values_that_json_lacks_come_back(tmp_path: Path) -> None:
    record = {
        "when": datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.UTC),
        "day": datetime.date(2024, 2, 29),
        "hour": datetime.time(1, 2, 3),
        "took": datetime.timedelta(seconds=1.5),
        "price": Decimal("1.10"),
        "raw": b"\x00\xff",
        "nested": [{"day": datetime.date(1999, 12, 31)}],
    }
    run = RunDirectory(str(tmp_path))
    plan = write_plan(run, [row(0, record=record)], rows_per_shard=5, spec_sha256="s", data_format="parquet")
    (after,) = rows_of(read_shard(run, plan.shards[0]))
    assert after.record == record


def test_half_a_surrogate_pair_in_a_reason_is_kept_as_its_escape(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))
    bad = row(0, status="malformed", reason="odd \ud800 text")
    plan = write_plan(run, [bad], rows_per_shard=5, spec_sha256="s", data_format="messages")
    assert read_shard(run, plan.shards[0])["reason"].to_list() == ["odd \\ud800 text"]


def test_the_fingerprint_is_of_the_content_not_of_the_cut_or_the_place(tmp_path: Path) -> None:
    def fingerprint(name: str, rows: list[Row], rows_per_shard: int) -> str:
        run = RunDirectory(str(tmp_path / name))
        return write_plan(run, rows, rows_per_shard=rows_per_shard, spec_sha256="s", data_format="x").data_sha256

    rows = [row(i) for i in range(7)]
    same = fingerprint("a", rows, 2)
    assert fingerprint("b", [replace(each, source="moved.jsonl") for each in rows], 5) == same
    assert fingerprint("c", [*rows[:-1], replace(rows[-1], row_id="changed-0")], 2) != same


def test_a_plan_cut_short_does_not_exist(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))

    def rows() -> Any:
        yield from (row(i) for i in range(10))
        raise OSError("the network is gone")

    with pytest.raises(OSError, match="network"):
        write_plan(run, rows(), rows_per_shard=3, spec_sha256="s", data_format="x")
    assert run.exists("rows/part-00000.parquet")
    assert read_plan(run) is None


def test_no_rows_and_lost_rows_are_refused(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))
    with pytest.raises(PreflightError, match="no rows"):
        write_plan(run, [], rows_per_shard=3, spec_sha256="s", data_format="x")
    with pytest.raises(ValueError, match="row 1 of the dataset came with row_index 2"):
        write_plan(run, [row(0), row(2)], rows_per_shard=3, spec_sha256="s", data_format="x")


def test_rows_that_changed_or_went_after_planning_are_noticed(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))
    plan = write_plan(run, [row(0)], rows_per_shard=3, spec_sha256="s", data_format="x")
    run.write_table(plan.shards[0].path, pl.DataFrame({"row_index": [0]}))
    with pytest.raises(PreflightError, match="changed after it was planned: start a new run with --fresh"):
        read_shard(run, plan.shards[0])
    run.delete(plan.shards[0].path)
    with pytest.raises(PreflightError, match="is gone"):
        read_shard(run, plan.shards[0])


def test_a_plan_of_another_version_is_named(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))
    run.write_json("plan.json", {"shards": [], "surprise": 1})
    with pytest.raises(PreflightError, match="another version of bds"):
        read_plan(run)
