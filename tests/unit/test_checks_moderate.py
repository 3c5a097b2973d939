"""Checks of a moderation before any work: judges, files, the engine, the audit."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bds.checks_moderate import check_moderate_spec
from bds.errors import BdsError, PreflightError, SpecError
from bds.planning_moderate import moderation_plan_text, plan_moderation
from bds.spec.load import load_moderate_spec
from bds.spec.moderate import ModerateSpec
from tests.unit.small_finetune import write_audit_run
from tests.unit.small_moderation import write_small_moderation


def spec_in(folder: Path, *overrides: str, **blocks: Any) -> ModerateSpec:
    return load_moderate_spec(str(write_small_moderation(folder, **blocks)), overrides)


def test_a_good_spec_passes_and_a_hub_name_is_noted(tmp_path: Path) -> None:
    assert check_moderate_spec(spec_in(tmp_path)) == []
    notes = check_moderate_spec(spec_in(tmp_path, "judges.guard.model=owner/guard"))
    assert notes == ["not checked: whether the hub has owner/guard (no folder of that name is beside the spec)"]


@pytest.mark.parametrize(
    ("overrides", "error", "expected"),
    [
        (["judges.words.method=qi"], SpecError, "field judges.words: 'qi' is no known judge"),
        (["judges.words.model=x"], SpecError, "field judges.words: refusal_prefixes looks for phrases and takes no"),
        (
            ["judges.guard={method: llama_guard_3}"],
            SpecError,
            "is a model that judges; give its `model`, on the command line --judge llama_guard_3=MODEL (it is made for",
        ),
        (
            ["judges.guard={method: wildguard, endpoint: {url: 'http://x/v1', model: y}}"],
            SpecError,
            "field judges.guard.endpoint: a moderation runs the judge's model itself",
        ),
        (["judges.guard.method=harmbench"], SpecError, "so it would flag every good answer of an ordinary dataset"),
        (["judges.guard.method=strongreject_rubric"], SpecError, "take a guard, such as llama_guard_3"),
        (["judges.guard.threshold=0.9"], SpecError, "the judge llama_guard_3 reads no threshold"),
        (["judges.guard.method=shieldgemma"], SpecError, "the judge shieldgemma needs a policy"),
        (["judges.guard.policy=/no/such/policy.txt"], PreflightError, "the policy /no/such/policy.txt cannot be read"),
        (["judges.guard.model=./nowhere"], PreflightError, "field judges.guard.model: "),
        (["judges.guard.adapter=./nowhere"], PreflightError, "field judges.guard.adapter: "),
        (["data.path=no.jsonl"], PreflightError, "field data.path: "),
        (["data.format=alpacca"], SpecError, "field data.format: 'alpacca' is not a format; did you mean `alpaca`?"),
        (["engine.engine_args={max_model_len: 5}"], SpecError, "field engine.engine_args.max_model_len: this follows"),
        (["resources.gpus_per_actor=2"], SpecError, "field resources.gpus_per_actor: a judge runs on one GPU"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, overrides: list[str], error: type[BdsError], expected: str) -> None:
    with pytest.raises(error) as caught:
        check_moderate_spec(spec_in(tmp_path, *overrides))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def of_audit(folder: Path) -> ModerateSpec:
    return spec_in(folder, data=None, audit="audit", run={})


def empty(folder: Path) -> Path:
    shutil.rmtree(folder)
    return folder


def test_the_audit_must_be_one(tmp_path: Path) -> None:
    write_audit_run(tmp_path / "audit")
    assert check_moderate_spec(of_audit(tmp_path)) == []
    (tmp_path / "audit" / "spec.resolved.json").write_text(json.dumps({"kind": "finetune"}))
    with pytest.raises(PreflightError, match=r"field audit: .*another kind of run \(finetune\)"):
        check_moderate_spec(of_audit(tmp_path))
    write_audit_run(empty(tmp_path / "audit"))
    (tmp_path / "audit" / "scores.parquet").unlink()
    with pytest.raises(PreflightError, match=r"field audit: .*audit is not finished"):
        check_moderate_spec(of_audit(tmp_path))
    empty(tmp_path / "audit").mkdir()
    with pytest.raises(PreflightError, match=r"field audit: .*is not the run directory of an audit"):
        check_moderate_spec(of_audit(tmp_path))
    shutil.rmtree(tmp_path / "audit")
    with pytest.raises(PreflightError, match=r"field audit: .*audit does not exist; .*run `bds audit` first"):
        check_moderate_spec(of_audit(tmp_path))
    remote = spec_in(tmp_path, data=None, audit="s3://bucket/runs/a", run={})
    assert check_moderate_spec(remote) == ["not checked: whether s3://bucket/runs/a holds a finished audit"]


def test_a_plan_counts_the_answers_to_judge(tmp_path: Path) -> None:
    plan = plan_moderation(spec_in(tmp_path))
    assert (plan["rows"], plan["statuses"]) == (8, {"ok": 6, "empty_answer": 1, "malformed": 1})
    assert [judge["verdicts"] for judge in plan["judges"]] == [6, 6]
    text = moderation_plan_text(plan)
    assert "rows: 8 (6 ok, 1 empty_answer, 1 malformed)" in text
    assert "words: 6 answers by refusal_prefixes (keywords, no model)" in text
    write_audit_run(tmp_path / "audit")
    with pytest.raises(PreflightError, match="holds no audit"):
        plan_moderation(of_audit(tmp_path))
