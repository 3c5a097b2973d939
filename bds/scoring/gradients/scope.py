"""Which parameters a gradient is taken over: all, the LoRA adapter's, or those of the last N decoder blocks."""

import re

from torch import nn

from bds.errors import SpecError


def parameter_scope(model: nn.Module, parameters: str) -> frozenset[str]:
    """Names of the parameters that `score.parameters` means in this model.

    `last_layers:N` takes the last N decoder blocks, the final norm, and the output head unless it is tied to the
    embedding.

    Raises:
        SpecError: the model has no LoRA adapter, or fewer blocks than asked for.
    """
    names = [name for name, _ in model.named_parameters()]
    if parameters == "all":
        return frozenset(names)
    if parameters == "lora":
        lora = frozenset(name for name in names if "lora_" in name)
        if not lora:
            raise SpecError(
                "score.parameters is lora but the model has no LoRA adapter; set model.adapter or score.lora"
            )
        return lora
    wanted = int(parameters.partition(":")[2])
    block_of = {
        name: int(found.group(1))
        for name in names
        if (found := re.search(r"\.(?:layers|h|blocks)\.(\d+)\.", f".{name}"))
    }
    blocks = 1 + max(block_of.values(), default=-1)
    if wanted > blocks:
        raise SpecError(f"score.parameters asks for the last {wanted} layers but the model has {blocks}; ask for fewer")
    base = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    embedding = base.get_input_embeddings().weight  # type: ignore[operator]
    last_block = max((index for index, name in enumerate(names) if name in block_of), default=-1)
    return frozenset(
        name
        for index, (name, parameter) in enumerate(model.named_parameters())
        if (block_of.get(name, -1) >= blocks - wanted or (name not in block_of and index > last_block))
        and parameter is not embedding
    )
