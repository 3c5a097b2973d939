"""What answers, and what makes it the same thing: contents of files, never their place."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from bds.errors import PreflightError, SpecError
from bds.evaluation.answers import questions
from bds.evaluation.conditions import Condition, conditions_of, with_fingerprint
from bds.evaluation.fingerprint import folder_fingerprint
from bds.evaluation.suites.suite import Suite, SuitePrompt, one_turn
from bds.spec.evaluate import EvaluateSpec, SamplingSpec


def model_folder(folder: Path, *, first: float = 0.0, template: str = "{{ messages }}", name: str = "here") -> Path:
    folder.mkdir(parents=True)
    weights = {f"layer.{index}": np.zeros((256, 2048), np.float32) for index in range(3)}
    weights["layer.0"][0, 0] = first
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "_name_or_path": name}))
    (folder / "chat_template.jinja").write_text(template)
    (folder / "README.md").write_text(f"a card that names {folder}")
    return folder


def spec_of(**fields: Any) -> EvaluateSpec:
    return EvaluateSpec.model_validate({"suites": ["placeholder"], "run": {"dir": "runs/x"}, **fields})


def test_a_copy_elsewhere_is_the_same_model(tmp_path: Path) -> None:
    here = model_folder(tmp_path / "here")
    elsewhere = model_folder(tmp_path / "elsewhere", name="elsewhere")
    assert folder_fingerprint(here) == folder_fingerprint(elsewhere)


@pytest.mark.parametrize("change", [{"first": 1e-6}, {"template": "{{ messages }} "}])
def test_one_weight_or_one_space_in_the_template_is_another_model(tmp_path: Path, change: dict[str, Any]) -> None:
    """The weight that differs lies in the middle of nothing that a look at a file's ends would see."""
    assert folder_fingerprint(model_folder(tmp_path / "a")) != folder_fingerprint(
        model_folder(tmp_path / "b", **change)
    )


def test_a_setting_of_generation_that_differs_is_another_model(tmp_path: Path) -> None:
    one, other = model_folder(tmp_path / "a"), model_folder(tmp_path / "b")
    (other / "generation_config.json").write_text('{"eos_token_id": 3}')
    assert folder_fingerprint(one) != folder_fingerprint(other)


def test_an_adapter_is_a_condition_of_its_own_wherever_it_lies(tmp_path: Path) -> None:
    base = model_folder(tmp_path / "base")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file({"a": np.ones((2, 2), np.float32)}, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 8, "base_model_name_or_path": str(base)}))
    moved = shutil.copytree(adapter, tmp_path / "moved")
    (moved / "adapter_config.json").write_text(json.dumps({"r": 8, "base_model_name_or_path": "somewhere"}))

    def fingerprint(adapter: Path | None) -> str:
        condition = Condition("c", "c", None, str(base), adapter=None if adapter is None else str(adapter))
        return with_fingerprint(condition, lambda name, revision: "unused").fingerprint

    assert fingerprint(adapter) == fingerprint(moved)
    assert len({fingerprint(adapter), fingerprint(None)}) == 2


def test_a_hub_model_is_its_commit() -> None:
    def fingerprint(commit: str) -> str:
        return with_fingerprint(Condition("c", "c", None, "owner/name"), lambda name, revision: commit).fingerprint

    assert fingerprint("abc") == fingerprint("abc")
    assert fingerprint("abc") != fingerprint("abd")


def test_two_models_of_one_name_share_no_answer_and_the_same_model_under_two_names_answers_for_each() -> None:
    suite = Suite("s", "refuse", (SuitePrompt("s/1", one_turn("How do I make a vorble?")),), "made up", "none")

    def keys(*conditions: Condition) -> list[str]:
        return [each.key for each in questions(conditions, [suite], SamplingSpec(), lambda condition: "engine 1")]

    one, other = (Condition("tuned", "tuned", None, "m", fingerprint=print_) for print_ in ("f1", "f2"))
    assert keys(one) != keys(other)
    renamed = Condition("renamed", "renamed", None, "elsewhere", fingerprint="f1")
    assert keys(one) == keys(renamed)
    assert len(set(keys(one, renamed))) == 2, "served again, it answers again: an A/A comparison measures noise"


@pytest.mark.parametrize(
    "change", [{"temperature": 0.7}, {"max_tokens": 8}, {"system_prompt": "Be kind."}, {"seed": 1}]
)
def test_another_way_of_sampling_is_another_answer(change: dict[str, Any]) -> None:
    suite = Suite("s", "refuse", (SuitePrompt("s/1", one_turn("hello")),), "made up", "none")
    condition = Condition("c", "c", None, "m", fingerprint="f")
    (plain,) = questions([condition], [suite], SamplingSpec(), lambda each: "engine 1")
    (changed,) = questions([condition], [suite], SamplingSpec(**change), lambda each: "engine 1")
    (engine,) = questions([condition], [suite], SamplingSpec(), lambda each: "engine 2")
    assert len({plain.key, changed.key, engine.key}) == 3


def finetuned(run: Path, results: list[dict[str, Any]]) -> str:
    run.mkdir()
    (run / "finetunes.json").write_text(json.dumps({"results": results, "failures": [], "curves": {}}))
    return str(run)


def result(dataset: str, seed: int, output: str = "model", mitigation: str = "none") -> dict[str, Any]:
    names = {"model": "llama", "dataset": dataset, "recipe": "full", "mitigation": mitigation, "seed": seed}
    key = f"llama/{dataset}/full/{mitigation}/seed-{seed}"
    return {**names, "id": key, "output": output, "base_model": "/models/llama", "base_revision": None}


def test_fine_tunes_are_named_by_what_tells_them_apart_and_grouped_over_seeds(tmp_path: Path) -> None:
    run = finetuned(tmp_path / "run", [result(dataset, seed) for dataset in ("top", "random") for seed in (0, 1)])
    found = conditions_of(spec_of(models={"base": "owner/llama"}, finetunes=[run]))
    assert [(each.name, each.group, each.seed) for each in found] == [
        ("base", "base", None),
        ("top.seed-0", "top", 0),
        ("top.seed-1", "top", 1),
        ("random.seed-0", "random", 0),
        ("random.seed-1", "random", 1),
    ]
    assert found[1].path == f"{run}/models/llama/top/full/none/seed-0/model"


def test_an_adapter_of_a_fine_tune_stands_on_its_base(tmp_path: Path) -> None:
    run = finetuned(tmp_path / "run", [result("top", 0, "adapter")])
    (only,) = conditions_of(spec_of(finetunes=[run]))
    assert (only.name, only.path) == ("top", "/models/llama")
    assert only.adapter == f"{run}/models/llama/top/full/none/seed-0/adapter"


def test_names_that_collide_are_refused(tmp_path: Path) -> None:
    run = finetuned(tmp_path / "run", [result("top", 0)])
    with pytest.raises(SpecError, match="two conditions would be named top"):
        conditions_of(spec_of(models={"top": "owner/llama"}, finetunes=[run]))


@pytest.mark.parametrize("made", [False, True])
def test_a_run_without_fine_tunes_is_refused(tmp_path: Path, made: bool) -> None:
    run = finetuned(tmp_path / "run", []) if made else str(tmp_path / "run")
    with pytest.raises(PreflightError, match=r"^field finetunes: "):
        conditions_of(spec_of(finetunes=[run]))
