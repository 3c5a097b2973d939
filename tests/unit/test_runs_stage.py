"""A stage with a folder of its own over the rows of a run."""

import pickle
from pathlib import Path

from bds.runs.directory import RunDirectory
from bds.runs.plan import read_shard
from bds.runs.receipts import read_parts, remaining, valid_receipts
from bds.runs.stage import StageDirectory
from tests.unit.runs_example import planned_run, rows
from tests.unit.test_runs_scoring import score_locally


def test_two_stages_score_the_same_rows_and_resume_apart(tmp_path: Path) -> None:
    run, plan = planned_run(tmp_path / "run")
    first, second = (StageDirectory(run, str(tmp_path / "run" / "private" / name)) for name in ("first", "second"))
    score_locally(first, list(plan.shards))
    score_locally(second, list(plan.shards[:2]))
    assert remaining(plan, first) == []
    assert [shard.index for shard in remaining(plan, second)] == list(range(2, 10))
    assert remaining(plan, run) == list(plan.shards)
    parts = read_parts(first, valid_receipts(plan, first).values(), "components")
    assert parts["row_id"].to_list() == [row.row_id for row in rows(plan.rows)]


def test_a_stage_may_be_in_another_run_and_goes_to_workers_as_it_is(tmp_path: Path) -> None:
    run, plan = planned_run(tmp_path / "audit")
    stage = pickle.loads(pickle.dumps(StageDirectory(run, str(tmp_path / "other" / "stage"))))
    assert isinstance(stage, StageDirectory)
    assert read_shard(stage, plan.shards[1]).equals(read_shard(run, plan.shards[1]))
    stage.write_bytes("kept", b"x")
    assert (tmp_path / "other" / "stage" / "kept").read_bytes() == stage.read_bytes("kept") == b"x"
    assert RunDirectory(str(tmp_path / "audit")).list("kept") == {}
    assert stage.url_of(plan.shards[0].path) == run.url_of(plan.shards[0].path)
    assert stage.url_of("kept") == str(tmp_path / "other" / "stage" / "kept")
