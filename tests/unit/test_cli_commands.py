"""What each command prints, where, and with which exit code."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl
import pytest
import yaml

from bds.cli import main
from bds.errors import BdsError, GateError, IncompleteError
from bds.scoring.detectors import DETECTORS
from bds.spec.finetune import FinetuneSpec
from bds.spec.mitigations import MITIGATION_BLOCKS
from bds.spec.models import AuditSpec, SelectionSpec
from tests.unit.small_audit import ROWS, write_rows, write_small_audit
from tests.unit.small_finetune import write_recipe, write_small_finetune


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


@dataclass
class FakeFinetuneResult:
    """What the command line reads of a FinetuneResult."""

    run_dir: str = "/runs/y"
    report: str = "/runs/y/report.html"
    runs: pl.DataFrame = field(default_factory=lambda: pl.DataFrame({"id": ["a"], "final_loss": [None], "steps": [5]}))
    headline: str = "1 of 1 fine-tunes finished"
    exit_error: BdsError | None = None


@dataclass
class FakeFinetune:
    """Stands in for bds.distributed.finetune."""

    result: FakeFinetuneResult = field(default_factory=FakeFinetuneResult)
    calls: list[dict[str, Any]] = field(default_factory=list)

    def run_finetunes(self, spec: FinetuneSpec, **options: Any) -> FakeFinetuneResult:
        self.calls.append({"spec": spec, **options})
        if "report" in options:
            options["report"]("training")
        return self.result


@pytest.fixture
def finetune(monkeypatch: pytest.MonkeyPatch) -> FakeFinetune:
    fake = FakeFinetune()
    module = ModuleType("bds.distributed.finetune")
    module.run_finetunes = fake.run_finetunes  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bds.distributed.finetune", module)
    return fake


@pytest.fixture
def finetunes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The spec of two fine-tunes."""
    monkeypatch.chdir(tmp_path)
    return str(write_small_finetune(tmp_path))


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
    assert {entry["name"] for entry in plan["detectors"]} == set(DETECTORS) - {"larf", "rank_average", "calibrated"}
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


@pytest.mark.parametrize("kind", ["audit", "finetune", "recipe"])
def test_there_is_a_schema_of_every_kind_of_file(
    kind: str, finetunes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    assert main(["schema", kind]) == 0
    schema = json.loads(capsys.readouterr().out)
    written = {"audit": tmp_path / "audit.yaml", "finetune": Path(finetunes), "recipe": tmp_path / "recipe.yaml"}
    anchors = {"sets": {"safe": {"path": "s.jsonl", "role": "safe"}, "harmful": "h.jsonl"}}
    audit = {"data": {"path": "d"}, "model": {"path": "m"}, "run": {"dir": "r"}, "anchors": anchors}
    written["audit"].write_text(yaml.safe_dump({**audit, "score": {"detectors": ["loss", {"name": "larf"}]}}))
    jsonschema.validate(yaml.safe_load(written[kind].read_text()), schema)


def test_an_unknown_schema_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "finetunes"]) == 2
    assert capsys.readouterr().err == (
        "error: 'finetunes' is no kind of file that has a schema; did you mean `finetune`?\n"
    )


@pytest.mark.parametrize("what", ["detectors", "formats", "mitigations", "selections", "templates"])
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


def test_ls_shows_every_option_of_a_mitigation(capsys: pytest.CaptureFixture[str]) -> None:
    main(["ls", "mitigations", "--json"])
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["filter"]["options"] == "audit (required), detector (gradient_bidirectional), share (0.3)"
    assert rows["none"]["options"] == "none"
    for block in MITIGATION_BLOCKS:
        row = rows[block.model_fields["method"].default]
        assert (row["needs"], row["cost"], row["known"], row["source"]) == (
            block.needs,
            block.cost,
            block.known,
            block.source,
        )
        assert f"{row['is']}\n" in f"{block.__doc__}\n"
        assert all(name in row["options"] for name in block.model_fields if name != "method")


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


def test_validate_says_how_many_fine_tunes(finetunes: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", finetunes]) == 0
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"{finetunes} is a valid spec (hash ")
    assert output.err.endswith(") of 2 fine-tunes\n")
    assert main(["validate", finetunes, "--set", "seeds=[1, 2, 3]", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["finetunes"], printed["spec"]["kind"], printed["notes"]) == (6, "finetune", [])


def test_plan_counts_samples_and_steps(finetunes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(tmp_path / "data.jsonl", [*ROWS, {"prompt": "no answer", "completion": ""}])
    write_rows(tmp_path / "more.jsonl", [{"prompt": f"p{index}", "completion": "c"} for index in range(30)])
    write_recipe(tmp_path / "later.yaml", batch=4, epochs=1)
    settings = ["--set", "mitigations=[none, ema]", "--set", "then=[{data: more.jsonl, recipe: later.yaml}]"]
    settings += ["--set", "datasets.hidden={path: data.jsonl, mix: {into: more.jsonl, share: 0.2}}"]
    assert main(["plan", finetunes, *settings, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    rows = plan["datasets"]["rows"]
    assert (rows["rows"], rows["statuses"], rows["samples"]) == (6, {"ok": 5, "empty_answer": 1}, 5)
    assert plan["datasets"]["top"]["samples"] == 3
    hidden = plan["datasets"]["hidden"]
    assert (hidden["mix"]["samples"], hidden["mix"]["benign"], hidden["samples"]) == (5, 20, 25)
    works = {entry["id"]: entry for entry in plan["finetunes"]}
    assert len(works) == 6
    numbers = {"samples": 5, "epochs": 2, "batch": 2, "steps": 6, "samples_seen": 10}
    assert works["small/rows/plain/none/seed-0"] == {"id": "small/rows/plain/none/seed-0", **numbers}
    assert works["small/hidden/plain/ema/seed-0"]["steps"] == 26
    (stage,) = plan["then"]
    assert (stage["samples"], stage["steps"], stage["samples_seen"]) == (30, 8, 30)
    assert plan["warnings"][0] == (
        "dataset rows will be refused: 1 of its 6 rows cannot be trained on; mend them, or raise "
        "run.max_unusable_fraction"
    )
    assert not (tmp_path / "run").exists()


def test_plan_of_fine_tunes_for_people(finetunes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--set", "recipes.plain.samples=100", "--set", "mitigations=[ema]"]
    settings += ["--set", "datasets.rows.mix={into: refusals.jsonl, share: 0.5}"]
    assert main(["plan", finetunes, *settings]) == 0
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.replace(f"{tmp_path}/", "").splitlines() == [
        "dataset rows: data.jsonl, rows: 5 (5 ok), 5 of them among 5 of refusals.jsonl",
        "dataset top: audit/selections/top_3_loss.jsonl, rows: 3 (3 ok)",
        "fine-tunes: 2 in run",
        "  small/rows/plain/ema/seed-0: 10 samples x 2 epochs in batches of 2 = 10 steps, 20 samples seen",
        "  small/top/plain/ema/seed-0: 3 samples x 2 epochs in batches of 2 = 4 steps, 6 samples seen",
        "what a mitigation adds to the samples or leaves out of them is not counted here",
        "warning: dataset rows will be refused: its mixture takes 5 of 5 samples and 5 of 1 rows of refusals.jsonl; "
        "lower mix.rows or raise mix.share",
        "warning: recipe plain is published for 100 samples and gets 10",
        "warning: recipe plain is published for 100 samples and gets 3",
    ]


def test_an_option_of_an_audit_does_not_fit_fine_tunes(finetunes: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", finetunes, "--limit", "3"]) == 2
    assert capsys.readouterr().err == (
        "error: --limit: this spec has no `data.limit`; set one of its own fields with --set\n"
    )


def test_finetune_passes_every_option_on(finetunes: str, tmp_path: Path, finetune: FakeFinetune) -> None:
    command = ["finetune", finetunes, "--model", "model", "--model", "owner/name", "--dataset", "data.jsonl"]
    command += ["--recipe", "recipe.yaml", "--mitigation", "none", "--mitigation", "ema", "--seed", "1", "--seed", "2"]
    command += ["--run-dir", "there", "--address", "auto", "--set", "recipes.recipe.epochs=9", "--fresh", "--local"]
    assert main(command) == 0
    (call,) = finetune.calls
    asked: FinetuneSpec = call["spec"]
    assert (call["fresh"], call["local"], call["command"]) == (True, True, ["bds", *command])
    assert {name: model.path for name, model in asked.models.items()} == {
        "model": str(tmp_path / "model"),
        "name": "owner/name",
    }
    assert (list(asked.datasets), list(asked.mitigations), asked.seeds) == (["data"], ["none", "ema"], [1, 2])
    assert (asked.recipes["recipe"].epochs, asked.recipes["recipe"].batch) == (9, 2)
    assert (asked.run.dir, asked.resources.address) == (str(tmp_path / "there"), "auto")


def test_finetune_without_a_spec_file_and_as_a_function(finetunes: str, tmp_path: Path, finetune: FakeFinetune) -> None:
    import bds

    command = ["finetune", "--model", "model", "--dataset", "data.jsonl", "--recipe", "recipe.yaml", "--seed", "3"]
    assert main([*command, "--mitigation", "ema", "--set", "tokens.max_tokens=64", "--local"]) == 0
    bds.finetune(
        models=["model"],
        datasets={"data": {"path": "data.jsonl"}},
        recipes={"recipe": "recipe.yaml"},
        mitigations=["ema"],
        seeds=[3],
        settings={"tokens.max_tokens": 64},
        local=True,
    )
    by_command, by_function = finetune.calls
    assert by_function["spec"] == by_command["spec"]
    assert by_function["local"] is True
    assert by_command["spec"].run.dir == str(tmp_path / "runs" / "finetune-data-model")


def test_finetune_shows_headline_and_report(
    finetunes: str, finetune: FakeFinetune, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["finetune", finetunes]) == 0
    output = capsys.readouterr()
    assert output.out == "/runs/y/report.html\n"
    assert output.err == "training\n1 of 1 fine-tunes finished\n"
    finetune.result.exit_error = IncompleteError("1 of 1 fine-tunes failed")
    assert main(["finetune", finetunes, "--json"]) == 4
    output = capsys.readouterr()
    assert json.loads(output.out) == {
        "run_dir": "/runs/y",
        "report": "/runs/y/report.html",
        "headline": "1 of 1 fine-tunes finished",
        "runs": [{"id": "a", "final_loss": None, "steps": 5}],
    }
    assert output.err.endswith("error: 1 of 1 fine-tunes failed\n")


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (
            ["finetune", "spec.yaml"],
            2,
            "spec.yaml:1: this is the spec of an audit, not the spec of fine-tunes; run it",
        ),
        (
            ["audit", "finetune.yaml"],
            2,
            "finetune.yaml:1: this is the spec of fine-tunes, not the spec of an audit;",
        ),
        (["validate", "recipe.yaml"], 2, "recipe.yaml:1: this is a recipe, not the spec of an audit; name it under"),
        (["finetune"], 2, "there is nothing to fine-tune; name a spec file, or give --model, --dataset and --recipe"),
        (
            ["finetune", "finetun.yaml"],
            2,
            "spec file finetun.yaml does not exist; did you mean finetune.yaml?",
        ),
        (
            ["finetune", "data.jsonl"],
            2,
            "data.jsonl is a data file, not a spec; write `bds finetune --model MODEL --dataset data.jsonl --recipe",
        ),
        (
            ["finetune", "finetune.yaml", "--recipe", "recip.yaml"],
            2,
            "--recipe: field recipes.recip: recipe file ",
        ),
        (
            ["finetune", "finetune.yaml", "--mitigation", "emma"],
            2,
            "--mitigation: field mitigations.emma.method: 'emma' is not none, filter,",
        ),
        (
            ["finetune", "finetune.yaml", "--set", "recipes.plain.zzz=1"],
            2,
            "--set recipes.plain.zzz=1: field recipes.plain.zzz is unknown; the keys here are source, parameters,",
        ),
        (
            ["finetune", "finetune.yaml", "--set", "datasets.top.selection=top_9_loss"],
            3,
            "field datasets.top.selection: the audit ",
        ),
        (["validate", "finetune.yaml", "--set", "models.small=./no"], 3, "field models.small.path: "),
        (["plan", "finetune.yaml", "--set", "recipes.plain.last_batch=drop"], 2, "recipe plain drops the last 1 of 5"),
    ],
)
def test_mistakes_with_fine_tunes(
    spec: str,
    tmp_path: Path,
    finetune: FakeFinetune,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    expected: str,
) -> None:
    (tmp_path / "f").mkdir()
    for file in write_small_finetune(tmp_path / "f").parent.iterdir():
        if not (tmp_path / file.name).exists():
            file.rename(tmp_path / file.name)
    assert main(arguments) == code
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: {expected}")
    assert errors.count("\n") == 1
    assert finetune.calls == []


def test_version_help_and_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    without = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == without
    for command in ("audit", "finetune", "plan", "validate", "schema", "ls", "report", "demo", "organism", "doctor"):
        assert f"\n  {command} " in without
    assert "\x1b" not in without
