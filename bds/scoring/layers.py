"""Which layer a detector looks at: LARF's most safety-sensitive block, DataShield's best-separating direction.

Layers count as transformers' hidden_states do: 0 is the embedding, i + 1 the output of decoder block i.

Shape suffixes: N harmful anchors, M safe anchors, L layers, D hidden size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bds.errors import PreflightError
from bds.evaluation.generation import greedy_answers
from bds.evaluation.refusals import is_refusal

LARF_FACTORS = (0.7, 0.8, 0.9, 1.1, 1.2, 1.3)


@dataclass(frozen=True)
class BlockProbe:
    """What scaling one decoder block did to the refusals."""

    layer: int
    """The block's output in hidden_states: block index + 1."""
    refusals: tuple[int, ...]
    """Refused prompts for every factor."""
    change: float
    """Mean over the factors of |refused prompts - refused prompts of the unscaled model|."""


@dataclass(frozen=True)
class LayerChoice:
    """LARF's layer, and the evidence."""

    layer: int
    prompts: int
    refusals: int
    """Refused prompts of the unscaled model."""
    factors: tuple[float, ...]
    curve: tuple[BlockProbe, ...]
    """One entry a decoder block, from the first."""


def choose_larf_layer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    factors: Sequence[float] = LARF_FACTORS,
    max_new_tokens: int = 16,
) -> LayerChoice:
    """The layer whose decoder block moves the refusals most when its weights are scaled.

    Every parameter of one block at a time is multiplied by each factor, the model answers the over-refusal prompts
    greedily, and refusals are counted. The block with the largest mean absolute change wins; ties go to the earliest.
    LARF's own code then reads hidden_states[i] for block i, which is that block's INPUT; here it is its output,
    hidden_states[i + 1]. Costs (blocks x factors + 1) generations of all prompts. The model's weights are bit for bit
    those it came with afterwards, also when generation fails. Source: Li et al. 2025, LARF, arXiv 2507.18631.

    Raises:
        PreflightError: no prompt, or no block changed any refusal, so that there is nothing to choose by.
    """
    if not prompts:
        raise PreflightError(
            "larf's probe_prompts hold no prompt; add over-refusal prompts or set the detector's layer"
        )

    def refusals() -> int:
        return sum(is_refusal(answer) for answer in greedy_answers(model, tokenizer, prompts, max_new_tokens))

    unscaled = refusals()
    curve = []
    for index, block in enumerate(decoder_blocks(model)):
        counts = []
        for factor in factors:
            with scaled(block, factor):
                counts.append(refusals())
        change = sum(abs(count - unscaled) for count in counts) / len(counts)
        curve.append(BlockProbe(index + 1, tuple(counts), change))
    most_sensitive = max(curve, key=lambda probe: probe.change)
    if most_sensitive.change == 0:
        raise PreflightError(
            f"larf cannot choose its layer: whichever decoder block is scaled, {unscaled} of the {len(prompts)} probe"
            " prompts are refused; set the detector's layer, or give prompts that the model refuses only in part"
        )
    return LayerChoice(most_sensitive.layer, len(prompts), unscaled, tuple(factors), tuple(curve))


def decoder_blocks(model: nn.Module) -> nn.ModuleList:
    """The model's decoder blocks in order: its outermost list of as many modules as the configuration has layers.

    Raises:
        PreflightError: there is no such list.
    """
    configuration = model.config.get_text_config(decoder=True)  # type: ignore[union-attr, operator]
    wanted = configuration.num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == wanted:
            return module
    raise PreflightError(
        f"{type(model).__name__} keeps its {wanted} decoder blocks in no list that bds finds; set the detector's layer"
    )


@contextmanager
def scaled(block: nn.Module, factor: float) -> Iterator[None]:
    """Multiply every parameter of a block for the time of the context; afterwards each has its very bits back."""
    originals = [(parameter, parameter.detach().clone()) for parameter in block.parameters()]
    try:
        with torch.no_grad():
            for parameter, _ in originals:
                parameter.mul_(factor)
        yield
    finally:
        with torch.no_grad():
            for parameter, original in originals:
                parameter.copy_(original)


class ComplianceDirection(NamedTuple):
    """The comply-minus-refuse direction of one layer."""

    layer: int
    direction_D: Tensor
    """float32, unit length."""
    scores_L: Tensor
    """float64, the compliance-aware score of every layer, 0 to 1."""


def compliance_direction(
    answer_means_harmful_NLD: Tensor, answer_means_safe_MLD: Tensor, *, layer: int | None = None
) -> ComplianceDirection:
    """DataShield's direction from refusing to complying answers, at the layer where it separates them best.

    With x_i the hidden state of anchor answer i averaged over its tokens (complying: harmful anchors; refusing: safe
    anchors), at every layer

        v   = unit(mean over complying of x_i - mean over refusing of x_i)
        CAS = v' S_b v / v' S_t v,   S_b = sum_c n_c (m_c - m)(m_c - m)',   S_t = sum_i (z_i - m)(z_i - m)'

    over the two classes c, where z_i is x_i with every feature standardised over all anchors (as the published code
    does; a constant feature counts as 0), m_c the mean of class c and m of all. CAS is the share of the projections'
    variance that lies between the classes, from 0 to 1. The decoder block with the largest CAS is taken, the earliest
    among equals, unless `layer` says which. The embedding is scored but never taken unasked: it tells any two sets of
    differently worded answers apart. Source: DataShield (NWPU), arXiv 2606.00160.

    Args:
        answer_means_harmful_NLD: Mean hidden states of the complying answers, any float dtype; L is all hidden states,
            the embedding first.
        answer_means_safe_MLD: The same for the refusing answers; the counts may differ.
        layer: Take this layer (0 to L - 1) whatever its score.

    Raises:
        PreflightError: the two classes have the same mean at the layer, or at every one.
    """
    harmful_NLD, safe_MLD = answer_means_harmful_NLD.double(), answer_means_safe_MLD.double()
    difference_LD = harmful_NLD.mean(0) - safe_MLD.mean(0)
    length_L = difference_LD.norm(dim=-1)
    # A layer that overflowed in half precision has no direction, like one where the classes agree.
    usable_L = torch.isfinite(length_L) & (length_L > 0)
    direction_LD = torch.where(usable_L[:, None], difference_LD / length_L[:, None], 0.0)
    scores_L = torch.where(usable_L, _between_share(harmful_NLD, safe_MLD, direction_LD), 0.0)
    chosen = 1 + int(scores_L[1:].argmax()) if layer is None else layer
    if not usable_L[chosen]:
        where = "at any decoder block" if layer is None else f"at layer {layer}"
        raise PreflightError(
            f"compliance_shift finds no difference between harmful and safe anchor answers {where};"
            " check that the two sets hold different answers"
        )
    return ComplianceDirection(chosen, direction_LD[chosen].float(), scores_L)


def _between_share(harmful_NLD: Tensor, safe_MLD: Tensor, direction_LD: Tensor) -> Tensor:
    """v' S_b v / v' S_t v of every layer, by projecting first: the scatter matrices are never built."""
    all_ALD = torch.cat([harmful_NLD, safe_MLD])
    spread_LD = all_ALD.std(0)
    weight_LD = torch.where(spread_LD > 0, direction_LD / spread_LD, 0.0)
    centred_AL = ((all_ALD - all_ALD.mean(0)) * weight_LD).sum(-1)
    total_L = centred_AL.square().sum(0)
    classes = centred_AL.split([len(harmful_NLD), len(safe_MLD)])
    between_L = sum((len(projected) * projected.mean(0).square() for projected in classes), torch.zeros_like(total_L))
    return torch.where(total_L > 0, between_L / total_L, 0.0)
