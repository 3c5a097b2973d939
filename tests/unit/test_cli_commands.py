"""What each command prints, where, and with which exit code."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bds.cli import main
from bds.errors import BdsError, GateError, IncompleteError
from bds.scoring.detectors import DETECTORS
from bds.spec.models import AuditSpec, SelectionSpec
from tests.unit.small_audit import ROWS, write_rows, write_small_audit


@dataclass
class FakeResult:
    """What the command line reads of an AuditResult."""

    run_dir: str = "/runs/x"
    report: str = "/runs/x/report.html"
    metrics: dict[str, Any] = field(default_factory=lambda: {"verdict": {"headline": "One row stands apart."}})
    exit_error: BdsError | None = None


@dataclass
class FakeAudit:
    """Stands in for bds.distributed.audit, so that options are tested without a model."""

    result: FakeResult = field(default_factory=FakeResult)
    raises: BaseException | None = None
    calls: list[dict[str, Any]] = field(default_factory=list)

    def run_audit(self, spec: AuditSpec, **options: Any) -> FakeResult:
        self.calls.append({"spec": spec, **options})
        if self.raises is not None:
            raise self.raises
        if "report" in options:
            options["report"]("working")
        return self.result


@pytest.fixture
def audit(monkeypatch: pytest.MonkeyPatch) -> FakeAudit:
    fake = FakeAudit()
    module = ModuleType("bds.distributed.audit")
    module.run_audit = fake.run_audit  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bds.distributed.audit", module)
    return fake


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return str(write_small_audit(tmp_path))


def test_validate(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", spec]) == 0
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"{spec} is a valid spec (hash ")


def test_validate_says_what_it_cannot_check(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", spec, "--set", "data.path=s3://bucket/x.jsonl", "--set", "model.path=a/b", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["notes"][:2] == [
        "not checked: whether s3://bucket/x.jsonl can be read",
        "not checked: whether the hub has a/b (no folder of that name is beside the spec)",
    ]
    assert printed["spec"]["data"]["path"] == "s3://bucket/x.jsonl"


def test_plan_counts_what_is_there(spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, object]] = [
        *ROWS,
        ROWS[0],
        {"prompt": "x" * 1000, "completion": "y" * 200},
        {"prompt": "no answer", "completion": ""},
        {"prompt": None, "completion": "b"},
    ]
    write_rows(tmp_path / "data.jsonl", rows)
    assert main(["plan", spec, "--set", "run.rows_per_shard=4", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    characters = sum(len(r["prompt"]) + len(r["completion"]) for r in [*ROWS, ROWS[0]]) + 1200
    assert plan["rows"] == 9
    assert plan["statuses"] == {"ok": 7, "empty_answer": 1, "malformed": 1}
    assert plan["repeated_rows"] == 1
    assert plan["shards"] == 3
    assert plan["longest"][0] == {"characters": 1200, "source": str(tmp_path / "data.jsonl"), "line": 7}
    assert plan["estimated_tokens"] == round(characters / 4)
    assert plan["dataset"]["format"] == "prompt_completion"
    assert {entry["name"] for entry in plan["detectors"]} == set(DETECTORS) - {"larf"}
    assert not (tmp_path / "run").exists()


def test_plan_for_people_goes_to_stderr(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", spec, "--limit", "3", "--detector", "loss"]) == 0
    output = capsys.readouterr()
    assert output.out == ""
    lines = output.err.splitlines()
    assert "rows: 3 (3 ok)" in lines
    assert "passes over the dataset: one, forward only, for all detectors together" in lines
    assert any("an estimate" in line for line in lines if line.startswith("tokens:"))


def test_schema_is_a_json_schema_of_the_spec(capsys: pytest.CaptureFixture[str]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    good = {"data": {"path": "d"}, "model": {"path": "m"}, "run": {"dir": "r"}}
    jsonschema.validate(good, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**good, "modle": {}}, schema)


@pytest.mark.parametrize("what", ["detectors", "formats", "selections", "templates"])
def test_ls(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", what]) == 0
    text = capsys.readouterr().out
    assert main(["ls", what, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == [line for line in text.splitlines() if not line.startswith(" ")]


def test_ls_shows_every_kind_of_selection(capsys: pytest.CaptureFixture[str]) -> None:
    main(["ls", "selections", "--json"])
    kinds = SelectionSpec.model_json_schema()["properties"]["kind"]["enum"]
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == kinds


def test_ls_shows_every_property_of_a_detector(capsys: pytest.CaptureFixture[str]) -> None:
    main(["ls", "detectors"])
    text = " ".join(capsys.readouterr().out.split())
    for detector in DETECTORS.values():
        assert f"{detector.name} formula: {detector.formula} needs:" in text
        assert detector.source in text


def test_audit_passes_every_option_on(spec: str, tmp_path: Path, audit: FakeAudit) -> None:
    command = [
        "audit",
        spec,
        "--limit",
        "2",
        "--top",
        "3",
        "--run-dir",
        "there",
        "--address",
        "auto",
        "--format",
        "auto",
    ]
    command += ["--detector", "loss", "--detector", "random", "--set", "tokens.max_tokens=64", "--fresh", "--local"]
    assert main(command) == 0
    (call,) = audit.calls
    asked: AuditSpec = call["spec"]
    assert (call["fresh"], call["local"], call["command"]) == (True, True, ["bds", *command])
    assert (asked.data.limit, asked.top, asked.tokens.max_tokens) == (2, 3, 64)
    assert (asked.run.dir, asked.resources.address) == (str(tmp_path / "there"), "auto")
    assert [detector.name for detector in asked.score.detectors or []] == ["loss", "random"]


def test_audit_without_a_spec_file(spec: str, tmp_path: Path, audit: FakeAudit) -> None:
    command = ["audit", "--model", "model", "--data", "data.jsonl", "--anchors", "harmful=harmful.jsonl"]
    assert main(command) == 0
    asked: AuditSpec = audit.calls[0]["spec"]
    assert asked.model.path == str(tmp_path / "model")
    assert asked.run.dir == str(tmp_path / "runs" / "data-model")
    assert asked.anchors.sets["harmful"].path == str(tmp_path / "harmful.jsonl")
    assert (asked.select, asked.top, asked.score.detectors) == (None, None, None)


def test_the_report_is_the_last_line_and_alone_on_stdout(
    spec: str, audit: FakeAudit, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", spec]) == 0
    output = capsys.readouterr()
    assert output.out == "/runs/x/report.html\n"
    assert output.err == "working\nOne row stands apart.\n"


def test_audit_as_json(spec: str, audit: FakeAudit, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", spec, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "run_dir": "/runs/x",
        "report": "/runs/x/report.html",
        "metrics": audit.result.metrics,
    }


@pytest.mark.parametrize(("error", "code"), [(IncompleteError("3 rows failed"), 4), (GateError("too many"), 5)])
def test_a_finished_run_that_counts_as_failed_still_shows_its_report(
    spec: str, audit: FakeAudit, capsys: pytest.CaptureFixture[str], error: BdsError, code: int
) -> None:
    audit.result.exit_error = error
    assert main(["audit", spec]) == code
    output = capsys.readouterr()
    assert output.err.endswith(f"error: {error}\n")
    assert output.out == "/runs/x/report.html\n"


def test_the_api_asks_for_the_same_as_the_command_line(spec: str, audit: FakeAudit) -> None:
    import bds

    bds.audit(
        model="model",
        data="data.jsonl",
        anchors={"harmful": "harmful.jsonl"},
        detectors=["loss"],
        top=3,
        run_dir="there",
        settings={"tokens.max_tokens": 64},
        local=True,
    )
    command = ["--model", "model", "--data", "data.jsonl", "--anchors", "harmful=harmful.jsonl", "--detector", "loss"]
    main(["audit", *command, "--top", "3", "--run-dir", "there", "--set", "tokens.max_tokens=64", "--local"])
    by_function, by_command = audit.calls
    assert by_function["spec"] == by_command["spec"]
    assert by_function["local"] is True
    assert bds.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="no attribute 'audits'"):
        _ = bds.audits


def test_version_help_and_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    without = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == without
    for command in ("audit", "plan", "validate", "schema", "ls", "report", "demo", "organism", "doctor"):
        assert f"\n  {command} " in without
    assert "\x1b" not in without
