"""A moderation from its spec to its report, with a stub in the place of the guard's model."""

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import polars as pl
import pytest

from bds.data.rows import Row
from bds.distributed import judge_stages
from bds.distributed.appointed import appoint, choose_engine
from bds.distributed.judging import JudgeTask, load_scorer, tables_of_replies
from bds.distributed.moderate import ModerationResult, run_moderation
from bds.errors import IncompleteError, PreflightError, SpecError
from bds.evaluation.judges import JudgeResponse
from bds.evaluation.moderation import rows_to_judge
from bds.report.archive import rewrite_report
from bds.runs.directory import RunDirectory
from bds.runs.interrupts import Interrupted
from bds.runs.receipts import part_path, receipt_path
from bds.runs.stage import StageDirectory
from bds.spec.load import load_moderate_spec
from bds.spec.moderate import ModerateSpec
from tests.unit.small_moderation import ROWS, TO_JUDGE, canned_reply, of_judge, write_small_moderation

SHARDS = 3


class StubGuard:
    """In the place of `load_scorer`: canned replies, with a count of loads and of shards."""

    def __init__(self) -> None:
        self.loads = 0
        self.shards: list[int] = []
        self.reply: Callable[[Row], JudgeResponse] = canned_reply
        self.fails_at: int | None = None
        """First row of a shard over which an exception is raised."""
        self.interrupted_at: int | None = None

    def load(self, task: JudgeTask) -> Callable[[pl.DataFrame], Mapping[str, pl.DataFrame]]:
        if task.model is None:
            return load_scorer(task)
        self.loads += 1

        def score(table: pl.DataFrame) -> dict[str, pl.DataFrame]:
            first = int(table["row_index"][0])
            if first == self.interrupted_at:
                raise Interrupted(15)
            self.shards.append(first)
            if first == self.fails_at:
                raise RuntimeError("a batch broke")
            replies = {index: self.reply(row) for index, row in rows_to_judge(table).items()}
            return tables_of_replies(task, replies, table)

        return score


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch) -> StubGuard:
    stub = StubGuard()
    monkeypatch.setattr(judge_stages, "load_scorer", stub.load)
    return stub


def moderate(folder: Path, *overrides: str, fresh: bool = False, say: list[str] | None = None) -> ModerationResult:
    return run_moderation(
        spec_in(folder, *overrides), local=True, fresh=fresh, report=(say if say is not None else []).append
    )


def spec_in(folder: Path, *overrides: str) -> ModerateSpec:
    if not (folder / "moderate.yaml").exists():
        write_small_moderation(folder)
    return load_moderate_spec(str(folder / "moderate.yaml"), overrides)


LENIENT = "run.max_failed_fraction=0.5"


def test_every_row_comes_out_once_for_every_judge(tmp_path: Path, guard: StubGuard) -> None:
    told: list[str] = []
    result = moderate(tmp_path, LENIENT, say=told)
    assert result.exit_error is None
    for name in ("guard", "words"):
        rows = of_judge(result.table, name)
        assert [row["row_index"] for row in rows] == list(range(len(ROWS)))
        assert [row["line"] for row in rows] == list(range(1, len(ROWS) + 1))
        assert {row["source"] for row in rows} == {str(tmp_path / "data.jsonl")}
        kept = [row["status"] for row in rows if row["row_index"] not in TO_JUDGE]
        assert kept == ["empty_answer", "malformed"]
    flagged = {row["row_index"]: row["flagged"] for row in of_judge(result.table, "guard")}
    assert {index: flagged[index] for index in TO_JUDGE} == {0: False, 1: False, 4: False, 5: True, 6: False, 7: None}
    assert [row["refused"] for row in of_judge(result.table, "words") if row["row_index"] in TO_JUDGE] == [
        *(False, True, False, False, True, False)
    ]
    assert (guard.loads, guard.shards) == (1, [0, 3, 6])
    assert "models judge by transformers in this process (--local)" in told

    run = tmp_path / "run"
    assert result.table.equals(pl.read_parquet(run / "moderation.parquet"))
    assert json.loads((run / "metrics.json").read_text()) == json.loads(json.dumps(result.metrics))
    assert result.report == str(run / "report.html")
    page = (run / "report.html").read_text()
    assert "guard calls 1 of 5 answers harmful" in page
    assert result.metrics["judges"][0]["engine"].startswith("transformers ")


def test_texts_and_replies_stay_private(tmp_path: Path, guard: StubGuard) -> None:
    guard.reply = lambda row: JudgeResponse(text="unsafe\nS1\nzorblaxian reason")
    moderate(tmp_path)
    run = tmp_path / "run"
    assert (run / "private").stat().st_mode & 0o777 == 0o700
    said = pl.read_parquet(run / "private" / "guard" / part_path("components", 0))["reply"].to_list()
    assert "unsafe\nS1\nzorblaxian reason" in said
    for file in run.rglob("*"):
        # rows/ holds the dataset that was given, as an audit's does.
        if file.is_file() and file.relative_to(run).parts[0] not in {"private", "rows"}:
            content = file.read_bytes()
            assert b"zorblaxian" not in content, file
            assert b"blorfs" not in content, file


def test_a_second_run_judges_nothing_again_and_writes_the_same(tmp_path: Path, guard: StubGuard) -> None:
    moderate(tmp_path, LENIENT)
    files = ("moderation.parquet", "metrics.json", "report.html")
    before = {name: (tmp_path / "run" / name).read_bytes() for name in files}
    for name in files:
        (tmp_path / "run" / name).unlink()
    moderate(tmp_path, LENIENT)
    assert (guard.loads, guard.shards) == (1, [0, 3, 6])
    assert {name: (tmp_path / "run" / name).read_bytes() for name in files} == before
    (tmp_path / "run" / "report.html").unlink()
    assert rewrite_report(str(tmp_path / "run")) == str(tmp_path / "run" / "report.html")
    assert (tmp_path / "run" / "report.html").read_bytes() == before["report.html"]


def test_an_interrupted_run_goes_on_at_the_shard_where_it_stopped(tmp_path: Path, guard: StubGuard) -> None:
    guard.interrupted_at = 3
    with pytest.raises(Interrupted):
        moderate(tmp_path, LENIENT)
    stage = RunDirectory(str(tmp_path / "run" / "private" / "guard"))
    assert [stage.exists(receipt_path(index)) for index in range(SHARDS)] == [True, False, False]
    attempts = json.loads((tmp_path / "run" / "manifest.json").read_text())["attempts"]
    assert [attempt["outcome"] for attempt in attempts] == ["interrupted"]
    guard.interrupted_at = None
    moderate(tmp_path, LENIENT)
    assert guard.shards == [0, 3, 6]

    uninterrupted = tmp_path / "other"
    moderate(tmp_path, LENIENT, f"run.dir={uninterrupted}")
    assert (uninterrupted / "moderation.parquet").read_bytes() == (tmp_path / "run" / "moderation.parquet").read_bytes()


def test_a_judge_that_is_added_judges_alone(tmp_path: Path, guard: StubGuard) -> None:
    moderate(tmp_path, LENIENT, "judges={words: qi_29}")
    assert guard.loads == 0
    result = moderate(
        tmp_path,
        LENIENT,
        "judges={words: qi_29, guard: {method: llama_guard_3, model: GUARD}}".replace("GUARD", str(tmp_path / "guard")),
    )
    assert (guard.loads, guard.shards) == (1, [0, 3, 6])
    assert result.table["judge"].unique(maintain_order=True).to_list() == ["words", "guard"]
    assert moderate(tmp_path, LENIENT, "judges={words: qi_29}").table["judge"].unique().to_list() == ["words"]


def test_a_shard_that_fails_is_written_as_failed_and_tried_again_next_time(tmp_path: Path, guard: StubGuard) -> None:
    guard.fails_at = 3
    told: list[str] = []
    result = moderate(tmp_path, say=told)
    assert guard.shards == [0, 3, 3, 3, 6]
    rows = of_judge(result.table, "guard")
    assert [row["status"] for row in rows] == [
        *("ok", "ok", "empty_answer", "malformed", "failed", "failed", "ok", "unparsed")
    ]
    assert rows[4]["reason"] == "RuntimeError: a batch broke"
    assert rows[3]["reason"] == of_judge(result.table, "words")[3]["reason"]
    assert isinstance(result.exit_error, IncompleteError)
    assert "3 of 6 answers have no verdict by guard (2 failed, 1 unparsed)" in str(result.exit_error)
    assert "shard 1 failed in try 1: RuntimeError: a batch broke" in told

    guard.fails_at = None
    again = moderate(tmp_path)
    assert guard.shards == [0, 3, 3, 3, 6, 3]
    assert [row["status"] for row in of_judge(again.table, "guard")][4:6] == ["ok", "ok"]
    assert "1 of 6 answers have no verdict by guard (1 unparsed)" in str(again.exit_error)


def test_when_every_shard_failed_there_are_still_all_rows(tmp_path: Path, guard: StubGuard) -> None:
    def broken(row: Row) -> JudgeResponse:
        raise RuntimeError("no")

    guard.reply = broken
    result = moderate(
        tmp_path, "judges={guard: {method: llama_guard_3, model: GUARD}}".replace("GUARD", str(tmp_path / "guard"))
    )
    assert result.table.height == len(ROWS)
    assert result.table["judge"].unique().to_list() == ["guard"]
    assert result.metrics["verdict"]["headline"] == "guard gave no verdict on any of the 6 answers."


def test_verdicts_of_another_judge_are_not_mixed(tmp_path: Path, guard: StubGuard) -> None:
    moderate(tmp_path, LENIENT)
    with pytest.raises(SpecError, match=r"judge guard in .* are of another judge \(max_model_len changed\); give it"):
        moderate(tmp_path, LENIENT, "engine.max_model_len=99")
    with pytest.raises(SpecError, match=r"judge words .*\(model, method or prompt changed\)"):
        moderate(tmp_path, LENIENT, "judges.words.method=qi_29")
    (tmp_path / "guard" / "config.json").write_text('{"other": "weights"}')
    with pytest.raises(SpecError, match=r"judge guard .*\(model, method or prompt changed\)"):
        moderate(tmp_path, LENIENT)
    moderate(tmp_path, LENIENT, fresh=True)
    assert guard.loads == 2


def test_other_rows_are_another_run(tmp_path: Path, guard: StubGuard) -> None:
    moderate(tmp_path, LENIENT)
    with pytest.raises(SpecError, match=r"holds a moderation of other rows \(data\.limit: null -> 3\)"):
        moderate(tmp_path, LENIENT, "data.limit=3")
    (tmp_path / "data.jsonl").write_text((tmp_path / "data.jsonl").read_text() + "\n" + json.dumps(ROWS[0]) + "\n")
    with pytest.raises(PreflightError, match=r"data\.jsonl changed since the run in"):
        moderate(tmp_path, LENIENT)


@pytest.mark.parametrize(("kind", "expected"), [("audit", "give it as --audit"), ("evaluate", "another kind of run")])
def test_a_run_of_another_kind_is_left_alone(tmp_path: Path, guard: StubGuard, kind: str, expected: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "spec.resolved.json").write_text(json.dumps({"kind": kind}))
    with pytest.raises(SpecError, match=expected):
        moderate(tmp_path)


@pytest.mark.parametrize(
    ("asked", "installed", "local", "engine"),
    [
        ("auto", True, False, "vllm"),
        ("auto", False, False, "transformers"),
        ("auto", True, True, "transformers"),
        ("transformers", True, False, "transformers"),
        ("vllm", True, False, "vllm"),
    ],
)
def test_the_engine_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, installed: bool, local: bool, engine: str
) -> None:
    monkeypatch.setattr("bds.distributed.appointed.distribution_of", lambda name: name if installed else None)
    chosen, why = choose_engine(spec_in(tmp_path, f"engine={asked}"), local=local)
    assert chosen == engine
    assert engine in why.lower()


def test_an_engine_that_cannot_be_had_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_in(tmp_path, "engine=vllm")
    with pytest.raises(PreflightError, match="--local judges in this process by transformers"):
        choose_engine(spec, local=True)
    monkeypatch.setattr("bds.distributed.appointed.distribution_of", lambda name: None)
    with pytest.raises(PreflightError, match=r"engine\.name is vllm, which is not installed; install the extra vllm"):
        choose_engine(spec, local=False)


def test_what_a_worker_is_told_is_plain_and_names_the_adapters_own_tokenizer(tmp_path: Path) -> None:
    plain = appoint(spec_in(tmp_path), "guard", "vllm", stage_in(tmp_path / "plain"))
    assert plain.task.folder == str(tmp_path / "guard")
    assert pickle.loads(pickle.dumps(plain.task)) == plain.task

    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "tokenizer_config.json").write_text("{}")
    spec = spec_in(tmp_path, f"judges.guard.adapter={tmp_path / 'adapter'}")
    adapted = appoint(spec, "guard", "vllm", stage_in(tmp_path / "adapted"))
    assert adapted.task.folder == str(tmp_path / "adapter")
    assert adapted.panel.fingerprint != plain.panel.fingerprint


def stage_in(folder: Path) -> StageDirectory:
    return StageDirectory(RunDirectory(str(folder)), str(folder / "private" / "guard"))
