"""What a fine-tune takes: estimated on the meta device, against what torch's allocator gave out in a real pass."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bds.scoring.loading import load_weights, new_adapter
from bds.scoring.memory import Room
from bds.spec.finetune import FinetuneSpec
from bds.spec.models import LoraSpec, ModelSpec
from bds.training.memory import TrainingMemory, may_not_fit, memory_of_finetune, too_little
from bds.training.trainer import supervised_tokens
from tests.unit.test_scoring_memory import CONFIGS, given_out, saved

GIB = 2**30
ROWS, POSITIONS = 4, 128


def spec_of(model: ModelSpec, recipe: dict[str, Any], **resources: Any) -> FinetuneSpec:
    return FinetuneSpec.model_validate(
        {
            "models": {"tiny": {"path": model.path}},
            "datasets": {"rows": {"path": "/rows"}},
            "recipes": {"own": {"learning_rate": 1e-4, "epochs": 1, "batch": 2 * ROWS, "micro_batch": ROWS, **recipe}},
            "tokens": {"max_tokens": POSITIONS},
            "resources": resources,
            "run": {"dir": "/run"},
        }
    )


def trained(model: ModelSpec, recipe: dict[str, Any]) -> nn.Module:
    loaded = load_weights(model, torch.float32, "cpu")
    if recipe.get("parameters") == "lora":
        loaded = new_adapter(loaded, LoraSpec(), dropout=0.0, where="test")
    else:
        loaded.requires_grad_(True)
    if recipe.get("gradient_checkpointing"):
        loaded.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]
    return loaded.train()


def one_pass(model: nn.Module) -> None:
    ids_BT = torch.randint(0, 4000, (ROWS, POSITIONS), generator=torch.Generator().manual_seed(0))
    tokens = supervised_tokens(
        model,
        {
            "input_ids": ids_BT,
            "attention_mask": torch.ones_like(ids_BT),
            "loss_weights": torch.ones(ROWS, POSITIONS),
            "samples": torch.arange(ROWS),
        },
    )
    tokens.log_prob_N.sum().backward()


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("llama_untied", {}),
        ("llama_tied", {"gradient_checkpointing": True}),
        ("gpt_neox", {}),
        ("mixtral", {}),
        ("llama_untied", {"parameters": "lora"}),
    ],
)
def test_the_estimate_is_what_the_allocator_gives_out(tmp_path: Path, name: str, recipe: dict[str, Any]) -> None:
    model = saved(tmp_path, name)
    estimate = memory_of_finetune(spec_of(model, recipe), "cpu")
    assert estimate is not None
    real = trained(model, recipe)
    measured = given_out(lambda: one_pass(real))
    assert 0.95 * measured <= estimate.gradients + estimate.activations <= 1.25 * measured
    learned = sum(part.numel() for part in real.parameters() if part.requires_grad)
    assert (estimate.gradients, estimate.optimiser) == (4 * learned, 8 * learned)
    assert estimate.weights == 4 * sum(part.numel() for part in real.parameters())


def test_checkpointing_takes_less(tmp_path: Path) -> None:
    model = saved(tmp_path, "llama_untied")
    plain = memory_of_finetune(spec_of(model, {}), "cpu")
    spared = memory_of_finetune(spec_of(model, {"gradient_checkpointing": True}), "cpu")
    assert plain is not None
    assert spared is not None
    assert spared.activations < plain.activations


def test_types_and_shards_by_hand(tmp_path: Path) -> None:
    model = saved(tmp_path, "llama_untied")
    numbers = sum(part.numel() for part in trained(model, {}).parameters())
    cpu = memory_of_finetune(spec_of(model, {"precision": "bf16"}), "cpu")
    narrow = memory_of_finetune(spec_of(model, {"precision": "bf16"}), "cuda")
    mixed = memory_of_finetune(spec_of(model, {}), "cuda")
    shared = memory_of_finetune(spec_of(model, {}, workers=2, sharding="fsdp2"), "cpu")
    assert [None if each is None else each.always for each in (cpu, narrow, mixed, shared)] == [
        16 * numbers,
        8 * numbers,
        16 * numbers,
        8 * numbers,
    ]


def test_a_model_that_has_only_a_configuration(tmp_path: Path) -> None:
    CONFIGS["llama_untied"]().save_pretrained(tmp_path)
    found = memory_of_finetune(spec_of(ModelSpec(path=str(tmp_path)), {}), "cpu")
    assert found is not None
    assert found.rows == ROWS


def test_long_rows_are_warned_of_and_weights_alone_are_refused() -> None:
    needed = TrainingMemory(weights=4 * GIB, gradients=4 * GIB, optimiser=8 * GIB, activations=3 * GIB, rows=8)
    gpu = "the GPU of node a"
    assert too_little(needed, Room(16 * GIB, gpu)) is None
    assert may_not_fit(needed, Room(19 * GIB, gpu)) is None
    assert may_not_fit(needed, Room(18 * GIB, gpu)) == (
        "the GPU of node a has 18.0 GiB for a worker, which may take 19.0 GiB: weights 4.0, gradients 4.0, optimiser "
        "8.0, activations of 8 rows of tokens.max_tokens 3.0; set a smaller micro_batch or gradient_checkpointing: "
        "true in the recipe if it runs out of memory"
    )
    told = too_little(needed, Room(15 * GIB, gpu))
    assert told is not None
    assert told.startswith("the GPU of node a has 15.0 GiB for a worker, which takes 16.0 for weights, gradients and")
