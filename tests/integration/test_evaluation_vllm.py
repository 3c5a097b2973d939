"""An evaluation of real models by the real engine: base, two adapters and a full fine-tune, through kills and all."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest
import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from bds.evaluation.generation import greedy_answers
from bds.evaluation.private import logged_rows
from bds.evaluation.suites import placeholder_suites
from bds.runs.directory import RunDirectory
from tests.integration.processes import VICTIMS, descendants
from tests.integration.test_audit_identity import end, wait_until
from tests.tiny_chat import tiny_chat

pytest.importorskip("vllm")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

PROMPTS = 40
TOKENS = 24
CONDITIONS = ("base", "left", "right", "full")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random chat model, two adapters on it, and the same model with other weights."""
    folder = tmp_path_factory.mktemp("models")
    model, tokenizer = tiny_chat(folder / "base", hidden=64)
    for seed, name in enumerate(("left", "right")):
        adapted = get_peft_model(
            AutoModelForCausalLM.from_pretrained(folder / "base"),
            LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM"),
        )
        torch.manual_seed(seed)
        for parameter_name, parameter in adapted.named_parameters():
            if "lora_" in parameter_name:
                torch.nn.init.normal_(parameter, std=0.3)
        adapted.save_pretrained(folder / name)
    torch.manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder / "full")
    tokenizer.save_pretrained(folder / "full")
    return folder


def write_spec(world: Path, folder: Path, **fields: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    base = str(world / "base")
    spec = {
        "kind": "evaluate",
        "models": {
            "base": base,
            "left": {"path": base, "adapter": str(world / "left")},
            "right": {"path": base, "adapter": str(world / "right")},
            "full": str(world / "full"),
        },
        "suites": [{"format": "placeholder", "only": "placeholder_refuse", "limit": PROMPTS}],
        "sampling": {"max_tokens": TOKENS},
        "serving": {"engine": "vllm", "max_model_len": 512},
        "statistics": {"bootstrap": 200},
        # A random model says nothing now and then.
        "run": {"dir": "run", "max_unscored_fraction": 1},
        **fields,
    }
    file = folder / "spec.yaml"
    file.write_text(yaml.safe_dump(spec, sort_keys=False))
    return file


def evaluate(spec: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bds", "evaluate", str(spec)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def answers_of(spec: Path) -> dict[str, dict[str, str]]:
    """Text by prompt, by condition."""
    found: dict[str, dict[str, str]] = {}
    for row in logged_rows(RunDirectory(str(spec.parent / "run")), "generations").values():
        assert row["status"] in {"ok", "empty"}, row
        found.setdefault(row["condition"], {})[row["prompt_id"]] = row["text"]
    return found


def expected_answers(world: Path, condition: str) -> dict[str, str]:
    """By transformers' generate."""
    tokenizer = AutoTokenizer.from_pretrained(world / "base")
    model = AutoModelForCausalLM.from_pretrained(world / ("full" if condition == "full" else "base"))
    if condition in {"left", "right"}:
        model = PeftModel.from_pretrained(model, world / condition).merge_and_unload()
    prompts = placeholder_suites()[0].prompts[:PROMPTS]
    texts = greedy_answers(model, tokenizer, [prompt.text for prompt in prompts], TOKENS)
    return {prompt.id: text for prompt, text in zip(prompts, texts, strict=True)}


def whole_text(text: str) -> str:
    return text.rstrip("\ufffd").strip()


@pytest.fixture(scope="module")
def whole(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The spec of an evaluation that nothing disturbed."""
    spec = write_spec(world, tmp_path_factory.mktemp("whole"))
    process = evaluate(spec)
    _, said = process.communicate(timeout=500)
    assert process.returncode == 0, said
    return spec


@pytest.mark.parametrize("condition", CONDITIONS)
def test_every_condition_answers_as_transformers_does(world: Path, whole: Path, condition: str) -> None:
    """Token by token; at the end of a text vLLM leaves out the bytes of a character that is not whole."""
    expected = {name: whole_text(text) for name, text in expected_answers(world, condition).items()}
    assert {name: whole_text(text) for name, text in answers_of(whole)[condition].items()} == expected


def test_the_conditions_differ_and_their_tables_are_whole(whole: Path) -> None:
    answers = answers_of(whole)
    assert len({tuple(sorted(answers[condition].items())) for condition in CONDITIONS}) == 4
    rows = pl.read_parquet(whole.parent / "run" / "rows.parquet")
    assert rows.filter(pl.col("judge") == "refusal_prefixes").height == 4 * PROMPTS


@pytest.mark.parametrize("victim", ["engine", "replica", "driver"])
def test_a_kill_while_answering_changes_nothing(world: Path, whole: Path, tmp_path: Path, victim: str) -> None:
    spec = write_spec(world, tmp_path, serving={"engine": "vllm", "max_model_len": 512, "max_concurrent": 2})
    process = evaluate(spec)
    run = RunDirectory(str(tmp_path / "run"))
    wait_until(lambda: len(logged_rows(run, "generations")) >= 15, process, 300)
    family = psutil.Process(process.pid).children(recursive=True)
    if victim == "driver":
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        end(family)
        process = evaluate(spec)
    else:
        victims = descendants(*VICTIMS[victim], of=process.pid)
        assert victims, "there is such a process"
        for each in victims:
            each.kill()
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert answers_of(spec) == answers_of(whole)
    lines = [
        line for file in (tmp_path / "run/private/generations").iterdir() for line in file.read_bytes().splitlines()
    ]
    assert len(lines) == 4 * PROMPTS, "every answer has one row"
