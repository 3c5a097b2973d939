"""How much memory a fine-tune takes on one worker's device, from its model's configuration and its recipe alone."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bds.scoring.dry_run import UnknownMemoryError, dry_run, experts_of
from bds.scoring.loading import model_shell
from bds.scoring.memory import Room, gib
from bds.spec.finetune import FinetuneSpec, RecipeSpec, TrainedModelSpec
from bds.spec.models import LoraSpec
from bds.training.loading import precision_on


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes on one worker's device."""

    weights: int
    gradients: int
    optimiser: int
    """AdamW's two averages."""
    activations: int
    """What one forward and backward pass makes at most, where every row is as long as `tokens.max_tokens`."""
    rows: int
    """Of that pass."""

    @property
    def always(self) -> int:
        """What every step takes, however short its rows are."""
        return self.weights + self.gradients + self.optimiser

    @property
    def total(self) -> int:
        return self.always + self.activations

    def describe(self) -> str:
        """`12.3 GiB: weights 4.0, gradients 4.0, optimiser 2.0, activations of 8 rows of tokens.max_tokens 2.3`."""
        return (
            f"{gib(self.total)} GiB: weights {gib(self.weights)}, gradients {gib(self.gradients)}, optimiser "
            f"{gib(self.optimiser)}, activations of {self.rows} rows of tokens.max_tokens {gib(self.activations)}"
        )


def memory_of_finetune(spec: FinetuneSpec, device: str) -> TrainingMemory | None:
    """What one worker of the largest fine-tune takes on cpu or cuda; None where it cannot be said of these models.

    Raises PreflightError where a model's configuration cannot be read.
    """
    found = []
    for model in spec.models.values():
        for recipe in spec.recipes.values():
            try:
                found.append(_memory(spec, model, recipe, device))
            except UnknownMemoryError:
                continue
    return max(found, key=lambda each: each.total, default=None)


def may_not_fit(needed: TrainingMemory, room: Room) -> str | None:
    """A warning where long rows may end in a lack of memory; shorter ones may be all there are."""
    if needed.total <= room.size:
        return None
    return (
        f"{room.where} has {gib(room.size)} GiB for a worker, which may take {needed.describe()}; set a smaller "
        "micro_batch or gradient_checkpointing: true in the recipe if it runs out of memory"
    )


def too_little(needed: TrainingMemory, room: Room) -> str | None:
    """Why no step at all fits, with the way out; None where one does."""
    if needed.always <= room.size:
        return None
    return (
        f"{room.where} has {gib(room.size)} GiB for a worker, which takes {gib(needed.always)} for weights, gradients "
        "and optimiser alone; take a LoRA recipe, precision: bf16, resources.sharding: fsdp2 over more workers, or a "
        "machine with more memory"
    )


def _memory(spec: FinetuneSpec, trained: TrainedModelSpec, recipe: RecipeSpec, device: str) -> TrainingMemory:
    precision = precision_on(recipe, device)
    kept = torch.bfloat16 if precision == "bf16" else torch.float32
    computed = torch.float32 if precision == "float32" else torch.bfloat16
    lora = LoraSpec(rank=recipe.lora.rank, alpha=recipe.lora.alpha, target_modules=recipe.lora.target_modules)
    workers = spec.resources.workers
    rows = recipe.micro_batch or math.ceil(recipe.batch / workers)
    with dry_run(device, positions=1):
        model = model_shell(trained.aligned, "lora" if recipe.parameters == "lora" else "all", lora, computed)
        if recipe.parameters == "full":
            model.requires_grad_(True)
        else:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_("lora_" in name)
    numbers = sum(part.numel() for part in model.parameters())
    learned = sum(part.numel() for part in model.parameters() if part.requires_grad)
    shards = workers if spec.resources.sharding == "fsdp2" else 1
    activations = _pass(model, recipe, rows, spec.tokens.max_tokens, device)
    # Beside the weights in float32 autocast keeps those that it has made narrow.
    copies = numbers * computed.itemsize if precision == "bf16_mixed" else 0
    return TrainingMemory(
        weights=numbers * kept.itemsize // shards,
        gradients=learned * kept.itemsize // shards,
        optimiser=2 * learned * kept.itemsize // shards,
        activations=activations + copies,
        rows=rows,
    )


def _pass(model: nn.Module, recipe: RecipeSpec, rows: int, positions: int, device: str) -> int:
    """Bytes of one forward and backward pass beside the weights and their gradients."""
    model.train()
    if recipe.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]
        if recipe.parameters == "lora":
            model.enable_input_require_grads()  # type: ignore[operator]
    gradients = sum(part.numel() * part.element_size() for part in model.parameters() if part.requires_grad)
    with dry_run(device, positions=positions, experts=experts_of(model)) as alive:
        _loss(model, torch.empty(rows, positions, dtype=torch.long, device="meta")).backward()
    return max(0, alive.peak - gradients)


def _loss(model: nn.Module, ids_BT: Tensor) -> Tensor:
    """As in training: of float32 log-probabilities at supervised positions, here at all of them."""
    logits_BTV = model(input_ids=ids_BT, use_cache=False).logits
    log_prob_NV = torch.log_softmax(logits_BTV[:, :-1].flatten(0, 1).float(), dim=-1)
    return log_prob_NV.gather(1, ids_BT[:, 1:].reshape(-1, 1)).sum()
