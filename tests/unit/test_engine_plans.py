"""Which models share an engine."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from bds.evaluation.engines.plan import EngineSettings, ServedModel, engine_plans
from tests.tiny_chat import tiny_chat

SETTINGS = EngineSettings()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "base"
    tiny_chat(folder)
    return folder


@pytest.fixture
def copy(base: Path, tmp_path: Path) -> Path:
    """A folder with the same files as the base."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in base.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def change(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def groups(*models: ServedModel) -> list[list[str]]:
    return [[model.name for model in plan.models] for plan in engine_plans(models, SETTINGS)]


def model(name: str, path: Path | str, adapter: Path | str | None = None, **fields: Any) -> ServedModel:
    return ServedModel(name, str(path), None if adapter is None else str(adapter), f"print of {name}", **fields)


def test_adapters_stand_beside_their_base_and_fine_tunes_of_its_shape_take_turns_with_it(
    base: Path, copy: Path, tmp_path: Path
) -> None:
    models = [model("base", base), model("a", base, tmp_path / "a"), model("tuned", copy), model("b", base, tmp_path)]
    assert groups(*models) == [["base", "a", "tuned", "b"]]


@pytest.mark.parametrize(
    ("file", "fields"),
    [
        ("config.json", {"rms_norm_eps": 1e-5}),
        ("config.json", {"eos_token_id": 3}),
        ("generation_config.json", {"eos_token_id": [3, 4]}),
        ("config.json", {"quantization_config": {"bits": 4}}),
        ("tokenizer_config.json", {"eos_token": "<user>"}),
    ],
)
def test_what_changes_an_answer_keeps_models_apart(base: Path, copy: Path, file: str, fields: dict[str, Any]) -> None:
    change(copy / file, **fields)
    assert groups(model("base", base), model("tuned", copy)) == [["base"], ["tuned"]]


@pytest.mark.parametrize(
    ("file", "fields"),
    [
        ("config.json", {"_name_or_path": "elsewhere", "transformers_version": "1", "dtype": "bfloat16"}),
        ("tokenizer_config.json", {"model_max_length": 77}),
        ("tokenizer.json", {"truncation": None, "padding": {"strategy": "BatchLongest"}}),
    ],
)
def test_what_changes_no_answer_does_not(base: Path, copy: Path, file: str, fields: dict[str, Any]) -> None:
    change(copy / file, **fields)
    assert groups(model("base", base), model("tuned", copy)) == [["base", "tuned"]]


def test_another_chat_template_does_not_either(base: Path, copy: Path) -> None:
    (copy / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert groups(model("base", base), model("tuned", copy)) == [["base", "tuned"]]


@pytest.mark.parametrize("name", ["model.norm.weight", "lm_head.weight"])
def test_other_tensors_keep_models_apart(base: Path, copy: Path, name: str) -> None:
    tensors = load_file(copy / "model.safetensors")
    tensors[name] = tensors["model.norm.weight"][:16].clone()
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    assert groups(model("base", base), model("tuned", copy)) == [["base"], ["tuned"]]


def test_an_adapter_with_another_vocabulary_has_an_engine_of_its_own(base: Path, tmp_path: Path) -> None:
    for folder in ("same", "other"):
        (tmp_path / folder).mkdir()
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (tmp_path / folder / name).write_bytes((base / name).read_bytes())
    change(tmp_path / "other" / "tokenizer.json", pre_tokenizer=None)
    models = [model("base", base), model("same", base, tmp_path / "same"), model("other", base, tmp_path / "other")]
    assert groups(*models) == [["base", "same"], ["other"]]
    assert engine_plans(models, SETTINGS)[1].models[0].folder == str(tmp_path / "other")


def test_what_is_no_folder_or_damaged_shares_an_engine_with_its_own_adapters_only(copy: Path, tmp_path: Path) -> None:
    (copy / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    models = [
        model("hub", "owner/name"),
        model("pinned", "owner/name", revision="abc"),
        model("damaged", copy),
        model("adapted", "owner/name", tmp_path),
    ]
    assert groups(*models) == [["hub", "adapted"], ["pinned"], ["damaged"]]


def test_plans_have_names_of_their_own_and_absolute_paths(
    base: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(copy / "config.json", rms_norm_eps=1e-5)
    monkeypatch.chdir(base.parent)
    plans = engine_plans([model("base", "base"), model("adapted", "base", "adapter"), model("tuned", copy)], SETTINGS)
    assert len({plan.id for plan in plans}) == 2
    assert [each.path for each in plans[0].models] == [str(base), str(base)]
    assert [each.name for each in plans[0].adapters] == ["adapted"]
    assert plans[0].models[1].adapter == str(base.parent / "adapter")
    assert [plan.id for plan in engine_plans([model("tuned", copy)], SETTINGS)] == [plans[1].id]
