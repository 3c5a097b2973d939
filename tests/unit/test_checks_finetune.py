"""What is found wrong with fine-tunes before a dataset is read or a model loads, each as one sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bds.checks_finetune import check_finetune_spec
from bds.errors import BdsError, PreflightError, SpecError
from bds.spec.load import load_finetune_spec
from tests.unit.small_finetune import write_model, write_small_finetune


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_small_finetune(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(folder: Path, *settings: str) -> list[str]:
    return check_finetune_spec(load_finetune_spec(str(folder / "finetune.yaml"), settings))


def sentence(kind: type[BdsError], folder: Path, *settings: str) -> str:
    """The error of the check, without the folder of its files."""
    with pytest.raises(kind) as caught:
        check(folder, *settings)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{folder}/", "")


def test_the_small_spec_passes_with_every_mitigation(folder: Path) -> None:
    """What the tests below break does pass."""
    write_model(folder / "base")
    (folder / "base" / "tokenizer.json").unlink()
    settings = [
        "models.small.base=base",
        "recipes.plain.parameters=lora",
        "mitigations={none: none, ema: ema, safe_lora: safe_lora, lora: lora, constrained: constrained_sft}",
        "mitigations.filter={method: filter, audit: audit, detector: loss}",
        "mitigations.lisa={method: lisa, refusals: refusals.jsonl}",
        "mitigations.mask={method: loss_mask, harmful: refusals.jsonl, safe: refusals.jsonl}",
        "datasets.rows.mix={into: data.jsonl, share: 0.5}",
        "then=[{data: {audit: audit, selection: top_3_loss}, recipe: recipe.yaml}]",
    ]
    assert check(folder, *settings) == []


def test_what_lies_elsewhere_is_noted(folder: Path) -> None:
    notes = check(
        folder,
        "models.small=owner/name",
        "datasets.rows=s3://b/x.jsonl",
        "datasets.top.audit=s3://b/audit",
        "mitigations.lisa={method: lisa, refusals: 's3://b/r.jsonl'}",
        "mitigations.filter={method: filter, audit: 's3://b/audit'}",
        "run.dir=s3://b/run",
    )
    assert notes == [
        "not checked: whether the hub has owner/name (no folder of that name is beside the spec)",
        "not checked: whether s3://b/x.jsonl can be read",
        "not checked: whether s3://b/audit holds the selection top_3_loss",
        "not checked: whether s3://b/r.jsonl can be read",
        "not checked: whether s3://b/audit has scores of gradient_bidirectional",
    ]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param(
            ["datasets.rows.format=alpacca"],
            "field datasets.rows.format: 'alpacca' is not a format; did you mean `alpaca`?",
            id="format",
        ),
        pytest.param(
            ["datasets.rows.mix={into: {path: data.jsonl, format: alpacca}, share: 0.5}"],
            "field datasets.rows.mix.into.format: 'alpacca' is not a format; did you mean `alpaca`?",
            id="format of what is mixed",
        ),
        pytest.param(
            ["resources.sharding=fsdp2"],
            "field resources.sharding: fsdp2 spreads a model over workers and there is one; set resources.workers to 2 "
            "or more, or sharding to ddp",
            id="one worker",
        ),
        pytest.param(
            ["resources.workers=2", "resources.finetunes_per_trainer=3"],
            "field resources.finetunes_per_trainer: 3 fine-tunes cannot share a trainer of 2 workers, where one that "
            "fails ends all the workers; set it to 1 or auto, or resources.workers to 1",
            id="several fine-tunes of two workers",
        ),
        pytest.param(
            ["resources.sharding=fsdp2", "resources.workers=2", "mitigations=[none, ema]"],
            "field mitigations.ema: ema needs all weights in one process, which fsdp2 spreads over workers; set "
            "resources.sharding to ddp, or leave the mitigation out",
            id="sharded ema",
        ),
        pytest.param(
            ["mitigations=[safe_lora]", "models.small.base=model"],
            "field mitigations.safe_lora: safe_lora projects an adapter, and recipe plain trains all parameters; set "
            "recipes.plain.parameters to lora, or leave one of the two out",
            id="safe_lora without an adapter",
        ),
        pytest.param(
            ["mitigations={projected: safe_lora}", "recipes.plain.parameters=lora"],
            "field models.small.base is missing; mitigation projected (safe_lora) takes the alignment direction from "
            "it, add `base: ...` under `models.small`",
            id="safe_lora without a base",
        ),
        pytest.param(
            ["models.small.adapter=model", "mitigations=[lora, none]"],
            "field models.small.adapter: recipe plain trains all parameters and the model has an adapter; merge the "
            "adapter into the model first, or take a LoRA recipe",
            id="adapter and full training",
        ),
    ],
)
def test_what_cannot_go_together(folder: Path, settings: list[str], expected: str) -> None:
    assert sentence(SpecError, folder, *settings) == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            ["models.small=./modle"],
            "field models.small.path: modle does not exist; did you mean model?, or give a Hugging Face name (owner/na",
        ),
        (["models.small.base=./none"], "field models.small.base: none does not exist; check the path, or give a"),
        (
            ["models.small.adapter=model", "recipes.plain.parameters=lora"],
            "field models.small.adapter: model has no adapter_config.json; name the folder that save_pretrained wrote",
        ),
        (["datasets.rows=dta.jsonl"], "field datasets.rows.path: dta.jsonl does not exist; did you mean data.jsonl?"),
        (
            ["datasets.rows.mix={into: dta.jsonl, share: 0.5}"],
            "field datasets.rows.mix.into.path: dta.jsonl does not exist; did you mean data.jsonl?",
        ),
        (
            ["then=[{data: dta.jsonl, recipe: recipe.yaml}]"],
            "field then.0.data.path: dta.jsonl does not exist; did you mean data.jsonl?",
        ),
        (
            ["datasets.top.audit=audti"],
            "field datasets.top.audit: audti does not exist; did you mean audit?, or run `bds audit` first",
        ),
        (
            ["datasets.top.audit=./model"],
            "field datasets.top.audit: model is not the run directory of an audit (it has no spec.resolved.json); run "
            "`bds audit` first",
        ),
        (
            ["datasets.top.audit=data.jsonl"],
            "field datasets.top.audit: data.jsonl is a file, not a run directory; did you mean",
        ),
        (
            ["datasets.top.selection=top_4_loss"],
            "field datasets.top.selection: the audit audit has no selection 'top_4_loss'; it has: top_3_loss",
        ),
        (
            ["mitigations.m={method: filter, audit: audit, detector: los}"],
            "field mitigations.m.detector: the audit audit has no scores of 'los'; did you mean `loss`?",
        ),
        (
            ["mitigations.m={method: filter, audit: audit}"],
            "field mitigations.m.detector: the audit audit has no scores of 'gradient_bidirectional'; choose one of "
            "loss",
        ),
        (
            ["mitigations.m={method: safety_mix, refusals: refusal.jsonl}"],
            "field mitigations.m.refusals: refusal.jsonl does not exist; did you mean refusals.jsonl?",
        ),
        (
            ["mitigations.m={method: loss_mask, harmful: refusals.jsonl, safe: no/safe.jsonl}"],
            "field mitigations.m.safe: no/safe.jsonl does not exist; its folder no does not exist either, check the",
        ),
        (["tokens.template=chat.jinja"], "field tokens.template: chat.jinja does not exist; write model or he2024, or"),
        (
            ["run.dir=data.jsonl"],
            "field run.dir: data.jsonl is a file; choose a folder, or one that does not exist yet",
        ),
    ],
)
def test_what_is_not_there(folder: Path, settings: list[str], expected: str) -> None:
    assert sentence(PreflightError, folder, *settings).startswith(expected)


FILTER = "mitigations.m={method: filter, audit: audit, detector: loss}"


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (
            lambda audit: (audit / "scores.parquet").unlink(),
            "field mitigations.m.audit: the audit audit is not finished (it has no scores.parquet); run it to its end",
        ),
        (
            lambda audit: (audit / "scores.parquet").write_bytes(b"PAR1"),
            "field mitigations.m.audit: audit/scores.parquet is damaged (",
        ),
        (
            lambda audit: (audit / "spec.resolved.json").write_text(json.dumps({"kind": "finetune"})),
            "field datasets.top.audit: audit holds fine-tunes, not an audit; name the run directory of an audit",
        ),
        (
            lambda audit: shutil.rmtree(audit / "selections"),
            "field datasets.top.selection: the audit audit has no selection 'top_3_loss'; it has: none",
        ),
    ],
)
def test_an_audit_that_cannot_be_used(folder: Path, break_it: Callable[[Path], Any], expected: str) -> None:
    break_it(folder / "audit")
    assert sentence(PreflightError, folder, FILTER).startswith(expected)
