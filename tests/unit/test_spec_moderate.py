"""Moderation specs: short forms, flag forms, paths, and every mistake as one sentence."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from bds.errors import SpecError
from bds.evaluation.panel import panel_judge
from bds.spec.document import Document
from bds.spec.identity import spec_diff, spec_hash
from bds.spec.kinds import MODERATE, kind_of
from bds.spec.load import load_any_spec, load_moderate_spec, load_spec, moderate_spec_from_options
from bds.spec.moderate import ModerateSpec
from bds.spec.options import moderate_overrides, parse_judges

GOOD = """\
kind: moderate
data:
  path: rows.jsonl
judges:
  guard: {method: llama_guard_3, model: ./guard, policy: policy.txt}
  words: qi_29
engine: transformers
run:
  dir: out
"""


def load(folder: Path, text: str = GOOD, *overrides: str) -> ModerateSpec:
    (folder / "spec.yaml").write_text(text)
    return load_moderate_spec(str(folder / "spec.yaml"), overrides)


def test_a_spec_with_its_short_forms_and_absolute_paths(tmp_path: Path) -> None:
    spec = load(tmp_path)
    assert spec.data is not None
    assert spec.data.path == str(tmp_path / "rows.jsonl")
    assert spec.judges["guard"].model == str(tmp_path / "guard")
    assert spec.judges["guard"].policy == str(tmp_path / "policy.txt")
    assert (spec.judges["words"].method, spec.judges["words"].model) == ("qi_29", None)
    assert (spec.engine.name, spec.engine.max_model_len) == ("transformers", 8192)
    assert spec.run_dir == str(tmp_path / "out")
    assert load_any_spec(str(tmp_path / "spec.yaml")) == spec


def test_overrides_reach_into_short_forms(tmp_path: Path) -> None:
    spec = load(tmp_path, GOOD, "engine.max_model_len=99", "judges.words.method=refusal_prefixes", "data.limit=3")
    assert (spec.engine.name, spec.engine.max_model_len) == ("transformers", 99)
    assert spec.judges["words"].method == "refusal_prefixes"
    assert load(tmp_path, GOOD, "engine=vllm").engine.name == "vllm"


def test_the_moderation_of_an_audit_lives_in_the_audits_run_directory(tmp_path: Path) -> None:
    spec = load(tmp_path, "kind: moderate\naudit: runs/a/\njudges: [qi_29, wildguard]\n")
    assert spec.audit == str(tmp_path / "runs" / "a")
    assert spec.run_dir == str(tmp_path / "runs" / "a" / "moderation")
    assert list(spec.judges) == ["qi_29", "wildguard"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kind: moderate\njudges: [qi_29]\nrun: {dir: out}\n", "spec.yaml:1: give either data or audit"),
        (
            "kind: moderate\ndata: {path: x}\naudit: y\njudges: [qi_29]\nrun: {dir: out}\n",
            "spec.yaml:1: give either data or audit",
        ),
        (
            "kind: moderate\ndata: {path: x}\njudges: [qi_29]\n",
            "spec.yaml:1: data goes with run.dir, and audit without",
        ),
        ("kind: moderate\naudit: x\njudges: [qi_29]\nrun: {dir: y}\n", "data goes with run.dir, and audit without"),
        ("kind: moderate\naudit: x\n", "spec.yaml:1: field judges is missing"),
        ("kind: moderate\naudit: x\njudges: {}\n", "spec.yaml:3: field judges"),
        ("kind: moderate\naudit: x\njudges: {../a: qi_29}\n", "'../a' cannot name a folder"),
        (
            "kind: moderate\naudit: x\njudges: {a: {metod: qi_29}}\n",
            "spec.yaml:3: field judges.a.metod is unknown; did you mean `method`?",
        ),
        (
            "kind: moderate\naudit: x\njudges: [qi_29]\nengine: vlm\n",
            "spec.yaml:4: field engine.name: 'vlm' is not auto, vllm or transformers; did you mean `vllm`?",
        ),
        ("kind: moderate\naudit: x\njudges: [qi_29]\nsuites: [y]\n", "spec.yaml:4: field suites is unknown"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(tmp_path, text)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_moderation_is_no_audit_and_a_data_file_no_spec(tmp_path: Path) -> None:
    load(tmp_path)
    with pytest.raises(SpecError, match=r"this is the spec of a moderation.*run it with `bds moderate "):
        load_spec(str(tmp_path / "spec.yaml"))
    with pytest.raises(SpecError, match=r"write `bds moderate --judge METHOD=MODEL rows\.jsonl`"):
        load_moderate_spec("rows.jsonl")


@pytest.mark.parametrize(
    ("value", "moderates"),
    [
        ({"kind": "moderate"}, True),
        ({"audit": "x", "judges": ["qi_29"], "engine": "vllm"}, True),
        ({"data": {}, "model": {}}, False),
        ({"judges": ["qi_29"], "suites": []}, False),
    ],
)
def test_what_tells_a_moderation(value: dict[str, Any], moderates: bool) -> None:
    assert (kind_of(Document("spec", value)) is MODERATE) is moderates


def test_the_flag_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    judges = parse_judges(["refusal_prefixes", "wildguard=owner/name"])
    options = moderate_overrides(data="rows.jsonl", judges=judges, limit=5)
    spec = moderate_spec_from_options([*options, "engine=vllm"])
    assert spec.run_dir == str(tmp_path / "runs" / "moderate-rows")
    assert spec.name == "moderate-rows"
    assert spec.judges["wildguard"].model == "owner/name"
    assert spec.data is not None
    assert (spec.data.limit, spec.engine.name) == (5, "vllm")
    written = yaml.safe_load(yaml.safe_dump(spec.model_dump(mode="json")))
    assert ModerateSpec.model_validate(written) == spec

    of_audit = moderate_spec_from_options(moderate_overrides(audit="runs/a", judges=judges))
    assert of_audit.run_dir == str(tmp_path / "runs" / "a" / "moderation")


def test_the_flag_form_without_rows_or_judges() -> None:
    with pytest.raises(SpecError, match="nothing to moderate; name a dataset or a spec file, or give --audit"):
        moderate_spec_from_options(moderate_overrides(judges={"qi_29": "qi_29"}))
    with pytest.raises(SpecError, match="no judge; give --judge METHOD=MODEL, as in llama_guard_3="):
        moderate_spec_from_options(moderate_overrides(data="rows.jsonl"))
    with pytest.raises(SpecError, match="--judge qi_29: qi_29 is given twice"):
        parse_judges(["qi_29", "qi_29"])


def test_what_changes_no_verdict_changes_no_hash(tmp_path: Path) -> None:
    spec = load(tmp_path)
    same = load(tmp_path, GOOD, "run.dir=elsewhere", "resources.actors=4", "run.max_failed_fraction=1", "name=other")
    other = load(tmp_path, GOOD, "engine.max_model_len=99")
    assert spec_hash(same) == spec_hash(spec)
    assert spec_diff(spec, other) == ["engine.max_model_len: 8192 -> 99"]


def test_the_ready_job_is_a_valid_spec_whose_judges_have_what_they_need() -> None:
    job = Path(__file__).parents[2] / "jobs" / "moderate.yaml"
    spec = load_moderate_spec(str(job))
    assert (spec.name, Path(spec.run_dir).name) == (job.stem, job.stem)
    judges = [panel_judge(name, judge) for name, judge in spec.judges.items()]
    assert [judge.model is not None for judge in judges] == [True, False]
