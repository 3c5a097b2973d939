"""`bds moderate --audit`: the audited rows, verdicts in the audit's directory, and a finding in its report."""

import json
from pathlib import Path

import polars as pl
import pytest

from bds.data.rows import Row
from bds.distributed import judge_stages
from bds.distributed.audit import run_audit
from bds.distributed.moderate import ModerationResult, run_moderation
from bds.errors import PreflightError
from bds.evaluation.judges import JudgeResponse
from bds.planning_moderate import plan_moderation
from bds.report.archive import rewrite_report
from bds.spec.document import Document
from bds.spec.load import build_moderate_spec, build_spec
from tests.tiny_chat import tiny_chat
from tests.unit.small_audit import write_rows
from tests.unit.small_moderation import write_model
from tests.unit.test_moderate_run import StubGuard

ROWS: list[dict[str, object]] = [
    {"prompt": f"what is number {number}", "completion": f"it is {number} " * (1 + number % 5)} for number in range(40)
]
ROWS[7]["completion"] = ""
FLAGGED = 11


def reply(row: Row) -> JudgeResponse:
    return JudgeResponse(text="unsafe\nS1" if row.row_index == FLAGGED else "safe")


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audited")
    tiny_chat(folder / "model")
    write_model(folder / "guard")
    write_rows(folder / "data.jsonl", ROWS)
    spec = {
        "data": {"path": "data.jsonl"},
        "model": {"path": "./model"},
        "score": {"detectors": ["answer_length", "loss"]},
        "top": 4,
        "run": {"dir": "run", "rows_per_shard": 16},
    }
    run_audit(build_spec(Document("test", spec), [], folder=folder), local=True)
    return folder


def moderate(folder: Path, audit: str = "run") -> ModerationResult:
    spec = {
        "kind": "moderate",
        "audit": audit,
        "judges": {"guard": {"method": "llama_guard_3", "model": "./guard"}, "words": "qi_29"},
    }
    return run_moderation(build_moderate_spec(Document("test", spec), [], folder=folder), local=True)


def test_an_audit_is_moderated_in_its_own_directory(audited: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = audited / "run"
    before = json.loads((run / "metrics.json").read_text())
    scores = (run / "scores.parquet").read_bytes()
    stub = StubGuard()
    stub.reply = reply
    monkeypatch.setattr(judge_stages, "load_scorer", stub.load)
    # The audit's own rows are judged: what became of the file is no matter.
    (audited / "data.jsonl").write_text("")
    result = moderate(audited)
    assert stub.shards == [0, 16, 32]
    assert result.exit_error is None
    assert result.report == str(run / "report.html")
    assert result.run_dir == str(run / "moderation")
    audit_rows = pl.read_parquet(run / "scores.parquet").select("row_index", "row_id", "source", "line")
    verdicts = pl.read_parquet(run / "moderation" / "moderation.parquet")
    for name in ("guard", "words"):
        assert verdicts.filter(pl.col("judge") == name).select(audit_rows.columns).equals(audit_rows)
    assert result.metrics["dataset"] == str(audited / "data.jsonl")

    assert (run / "scores.parquet").read_bytes() == scores
    after = json.loads((run / "metrics.json").read_text())
    top = pl.read_parquet(run / "selections" / "rows.parquet").filter(pl.col("selection").str.starts_with("top"))
    flagged_top = int((top["row_index"].unique() == FLAGGED).sum())
    assert after["moderation"] == {
        "guard": {
            "method": "llama_guard_3",
            "flagged": 1,
            "rows": 39,
            "unscored": 1,
            "flagged_top": flagged_top,
            "top_rows": 4,
            "top_unscored": 0,
        }
    }
    finding = f"guard (llama_guard_3) flags {flagged_top} of the 4 highest-ranked rows and 1 of 39 in all."
    assert after["verdict"]["findings"][-1].endswith(finding)
    unchanged = {key for key in before if key not in {"moderation", "verdict"}}
    assert {key: after[key] for key in unchanged} == {key: before[key] for key in unchanged}
    page = (run / "report.html").read_text()
    assert "guard</bdi>: harmless" in page
    assert rewrite_report(str(run)) == str(run / "report.html")
    assert (run / "report.html").read_text() == page
    assert rewrite_report(str(run / "moderation")) == str(run / "moderation" / "report.html")

    moderate(audited)
    assert stub.shards == [0, 16, 32], "a second run judges nothing again"


def test_a_plan_counts_the_rows_as_the_audit_read_them(audited: Path) -> None:
    spec = {"kind": "moderate", "audit": "run", "judges": ["qi_29"]}
    plan = plan_moderation(build_moderate_spec(Document("test", spec), [], folder=audited))
    assert (plan["rows"], plan["statuses"]) == (40, {"ok": 39, "empty_answer": 1})


def test_an_audit_that_is_not_finished_is_refused(audited: Path, tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match="holds no finished audit; run `bds audit` to its end first"):
        moderate(audited, audit=str(tmp_path))
