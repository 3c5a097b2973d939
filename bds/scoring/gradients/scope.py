"""Which parameters a gradient is taken over: all, the LoRA adapter's, or those of the last N decoder blocks."""

from torch import nn

from bds.errors import SpecError
from bds.scoring.layers import decoder_blocks


def parameter_scope(model: nn.Module, parameters: str) -> frozenset[str]:
    """Names of the parameters that `score.parameters` means in this model.

    `last_layers:N` takes the last N decoder blocks and what follows them: the final norm, and the output head unless
    it is tied to the embedding.

    Raises:
        SpecError: the model has no LoRA adapter, or fewer blocks than asked for.
    """
    names = frozenset(name for name, _ in model.named_parameters())
    if parameters == "all":
        return names
    if parameters == "lora":
        lora = frozenset(name for name in names if "lora_" in name)
        if not lora:
            raise SpecError(
                "score.parameters is lora but the model has no LoRA adapter; set model.adapter or score.lora"
            )
        return lora
    wanted = int(parameters.partition(":")[2])
    blocks = decoder_blocks(model)
    if wanted > len(blocks):
        raise SpecError(
            f"score.parameters asks for the last {wanted} layers but the model has {len(blocks)}; ask for fewer"
        )
    before = [*blocks[: len(blocks) - wanted], *(part for part in model.modules() if isinstance(part, nn.Embedding))]
    left_out = {id(parameter) for part in before for parameter in part.parameters()}
    return frozenset(name for name, parameter in model.named_parameters() if id(parameter) not in left_out)
