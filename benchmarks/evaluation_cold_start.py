"""Times `bds evaluate` from the command to the report, with no process up: 330 prompts by 4 conditions on vLLM.

    python benchmarks/evaluation_cold_start.py [--out FILE.json]

The conditions are the tiny model before alignment, two LoRA adapters with random weights on it, and the aligned model
as a full fine-tune of it. The prompts are the made-up suite's 330, judged by two keyword judges. What is timed is a
process of its own: imports, Ray, Serve, vLLM's engine, canaries, every answer, verdicts, tables and the report. The
models are made before the clock starts.

The baseline is an evaluation of one condition and one prompt: what it takes is the start of everything.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl
import torch
import yaml
from peft import LoraConfig, get_peft_model
from tiny_model import RESULTS, write_record
from transformers import AutoModelForCausalLM

from bds.organism import cached_organism
from bds.organism.layout import OrganismPaths
from bds.organism.recipe import Recipe

PROMPTS = 330
TOKENS = 32
TARGET_SECONDS = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "evaluation_cold_start.json")
    arguments = parser.parse_args()
    organism = cached_organism(Recipe(), print)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        base = str(organism.base)
        models: dict[str, Any] = {"base": base}
        for seed, name in enumerate(("left", "right")):
            _save_random_adapter(organism, folder / name, seed)
            models[name] = {"path": base, "adapter": str(folder / name)}
        models["full"] = str(organism.model)
        start = _timed(folder / "start", {"base": base}, prompts=1)
        whole = _timed(folder / "whole", models, prompts=PROMPTS)
        rows = pl.read_parquet(folder / "whole" / "run" / "rows.parquet")
    answers = rows.select("condition", "suite", "prompt_id", "sample").unique().height
    print(f"one condition, one prompt: {start:.1f} s")
    print(f"{len(models)} conditions, {answers} answers: {whole:.1f} s (target {TARGET_SECONDS})")
    write_record(
        arguments.out,
        {
            "conditions": list(models),
            "answers": answers,
            "max_tokens": TOKENS,
            "start_seconds": start,
            "seconds": whole,
            "share_that_is_start": start / whole,
            "target_seconds": TARGET_SECONDS,
        },
    )


def _save_random_adapter(organism: OrganismPaths, folder: Path, seed: int) -> None:
    """A LoRA of rank 8 on attention and feed-forward matrices that changes what the model says."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(organism.base)
    modules = ["q_proj", "v_proj", "down_proj"]
    adapted = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=modules, task_type="CAUSAL_LM"))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(folder)


def _timed(folder: Path, models: dict[str, Any], *, prompts: int) -> float:
    """Seconds of the whole command."""
    folder.mkdir()
    spec = {
        "kind": "evaluate",
        "models": models,
        "suites": [{"format": "placeholder", "only": "placeholder_refuse", "limit": prompts}],
        "sampling": {"max_tokens": TOKENS},
        "serving": {"engine": "vllm"},
        # A model with a random adapter says nothing now and then.
        "run": {"dir": "run", "max_unscored_fraction": 1},
    }
    file = folder / "spec.yaml"
    file.write_text(yaml.safe_dump(spec, sort_keys=False))
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "bds", "evaluate", str(file)], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


if __name__ == "__main__":
    main()
