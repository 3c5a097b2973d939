"""What every row is compared with, prepared once a run: the anchors' gradients and hidden states, and chosen layers.

Anchor gradients are taken in float32 whatever the model's type (30 samples cost nothing, and the error of a cosine in a
bfloat16 run falls five-fold). As published, an anchor's gradient sees only its first answer tokens (He et al. 2024
use 10), and a set's direction is the mean of its unit gradients, not normalised again.

Shapes: M anchors of all sets in order, T positions, D hidden, L hidden-state layers, K sets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bds.data.anchors import AnchorSample
from bds.data.rows import SCORED_STATUSES
from bds.data.tokens import ConversationTokenizer, TokenizedRow
from bds.errors import PreflightError
from bds.scoring.batching import length_batches
from bds.scoring.gradients.anchors import AnchorDots, AnchorRecorder, AnchorRows
from bds.scoring.gradients.engine import Batch, PerSampleGradients, make_batch
from bds.scoring.gradients.queries import NormsAndDirectionDots, Query, SquaredNorms, Together, with_expert_views
from bds.scoring.layers import compliance_direction


@dataclass(frozen=True)
class ReferencePlan:
    """What the detectors of a run need of the anchors. Layers count from 0 (the embedding)."""

    gradients: bool
    per_sample: bool
    """Keep every anchor apart, or one mean a set."""
    hidden_layers: tuple[int, ...]
    larf_layer: int | None
    compliance: bool
    compliance_layer: int | None
    first_answer_tokens: int | None


DENSE_NUMBERS = 1 << 28
"""Single anchors are kept as dense gradients up to so many numbers in all (1 GiB of float32), beyond it as factors.
Dense ones cost a row M I O multiplications a module, factored ones T S (I + O) over all S anchor tokens: far more for
a small model, far less memory for a large one."""


@dataclass
class Reference:
    """Everything about the anchors that scoring a row needs."""

    counts: dict[str, int]
    """Anchors of each set, in order; M is their sum."""
    plan: ReferencePlan
    anchor_norms_M: Tensor | None = None
    """Gradient norms."""
    rows: AnchorRows | None = None
    """The anchors' gradients in factored form, where every anchor is kept apart and dense ones would take too much."""
    directions: dict[str, Tensor] = field(default_factory=dict)
    """Dense directions [K, ...] by parameter: every anchor's unit gradient (K = M), or each set's mean of them."""
    hidden_MD: dict[int, Tensor] = field(default_factory=dict)
    """By layer: the hidden state at the answer's last token, scaled to unit length, float32."""
    compliance_layer: int | None = None
    compliance_direction_D: Tensor | None = None
    compliance_scores_L: list[float] = field(default_factory=list)

    def slices(self) -> dict[str, slice]:
        """Where each set's anchors stand among the M."""
        found, start = {}, 0
        for name, count in self.counts.items():
            found[name] = slice(start, start + count)
            start += count
        return found


class AnchorGradients:
    """What a process holds of the anchors' gradients, those of its own parameters, ready to be compared with."""

    def __init__(self, reference: Reference, device: torch.device, dtype: torch.dtype) -> None:
        self.rows = None if reference.rows is None else reference.rows.to(device, dtype)
        self._directions = with_expert_views(
            {name: tensor.to(device, dtype) for name, tensor in reference.directions.items()}
        )

    def query(self, *, tied: str | None) -> Query:
        """Squared norms, and the dots with every anchor or set where the run compares gradients. Serves one batch."""
        if self.rows is not None:
            return Together([SquaredNorms(tied=tied), AnchorDots(self.rows)])
        if self._directions:
            return NormsAndDirectionDots(self._directions, tied=tied)
        return SquaredNorms(tied=tied)


def prepare_reference(
    engine: PerSampleGradients,
    tokenize: ConversationTokenizer,
    anchors: Mapping[str, Sequence[AnchorSample]],
    roles: Mapping[str, str],
    plan: ReferencePlan,
    token_budget: int,
) -> Reference:
    """Runs the model over the anchors.

    Raises:
        PreflightError: an anchor has no answer left under the template and `tokens.max_tokens`, or a gradient of zero.
    """
    reference = Reference({name: len(samples) for name, samples in anchors.items()}, plan)
    tokenized = tokenized_anchors(tokenize, anchors)
    if not tokenized:
        return reference
    if plan.hidden_layers or plan.compliance:
        _add_hidden_states(reference, engine, tokenized, roles, token_budget)
    if plan.gradients:
        narrow = engine.dtype
        engine.change_dtype(torch.promote_types(narrow, torch.float32))
        try:
            _add_gradients(
                reference, engine, [first_tokens(row, plan.first_answer_tokens) for row in tokenized], token_budget
            )
        finally:
            engine.change_dtype(narrow)
    return reference


def tokenized_anchors(
    tokenize: ConversationTokenizer, anchors: Mapping[str, Sequence[AnchorSample]]
) -> list[TokenizedRow]:
    """All of them, set after set. Raises PreflightError where one has no answer left."""
    return [_tokenized(tokenize, name, sample) for name, samples in anchors.items() for sample in samples]


def _tokenized(tokenize: ConversationTokenizer, name: str, sample: AnchorSample) -> TokenizedRow:
    row = tokenize(sample.conversation)
    if row.status not in SCORED_STATUSES:
        raise PreflightError(
            f"anchor set {name}, line {sample.line}: {row.reason}; mend the anchor or raise tokens.max_tokens"
        )
    return row


def first_tokens(row: TokenizedRow, count: int | None) -> tuple[list[int], list[bool]]:
    """Loss on the first `count` supervised tokens. What follows the last of them cannot matter and is cut off."""
    labels = [position for position, supervised in enumerate(row.supervised) if supervised][:count]
    end = labels[-1] + 1
    kept = set(labels)
    return row.input_ids[:end], [position in kept for position in range(end)]


def _add_hidden_states(
    reference: Reference,
    engine: PerSampleGradients,
    rows: Sequence[TokenizedRow],
    roles: Mapping[str, str],
    token_budget: int,
) -> None:
    wanted = range(engine.hidden_states) if reference.plan.compliance else reference.plan.hidden_layers
    ends: dict[int, dict[int, Tensor]] = {layer: {} for layer in reference.plan.hidden_layers}
    means: dict[int, Tensor] = {}
    for indices in length_batches([len(row.input_ids) for row in rows], token_budget):
        batch = make_batch([(rows[index].input_ids, rows[index].supervised) for index in indices], engine.device)
        _, layers = engine.run_forward(batch, layers=wanted)
        for place, index in enumerate(indices):
            start, end = rows[index].answer_positions
            for layer in ends:
                ends[layer][index] = layers[layer][place, end - 1].float()
            if reference.plan.compliance:
                means[index] = torch.stack([layer[place, start:end].float().mean(0) for layer in layers.values()])
    for layer, found in ends.items():
        stacked_MD = torch.stack([found[index] for index in range(len(rows))])
        reference.hidden_MD[layer] = torch.nn.functional.normalize(stacked_MD, dim=1).cpu()
    if reference.plan.compliance:
        means_MLD = torch.stack([means[index] for index in range(len(rows))])
        by_role = {
            role: torch.cat([means_MLD[part] for name, part in reference.slices().items() if roles[name] == role])
            for role in ("harmful", "safe")
        }
        chosen = compliance_direction(by_role["harmful"], by_role["safe"], layer=reference.plan.compliance_layer)
        reference.compliance_layer = chosen.layer
        reference.compliance_direction_D = chosen.direction_D.cpu()
        reference.compliance_scores_L = chosen.scores_L.tolist()


def _add_gradients(
    reference: Reference, engine: PerSampleGradients, samples: Sequence[tuple[list[int], list[bool]]], token_budget: int
) -> None:
    recorder = AnchorRecorder()
    norms = []
    factored = reference.plan.per_sample and len(samples) * _scope_numbers(engine) > DENSE_NUMBERS
    for batch, count in _in_order(samples, engine, token_budget):
        _, columns_BC, _ = engine.run(batch, engine.squared_norms())
        norms.append(columns_BC[:, 0])
        if factored:
            engine.run(batch, recorder)
            recorder.batch_done(count)
    norms_M = torch.cat(norms).sqrt()
    if not bool((norms_M > 0).all()):
        raise PreflightError(
            f"anchor {int((norms_M > 0).int().argmin()) + 1} has a gradient of zero under score.parameters; "
            "it points nowhere, so take it out or choose other parameters"
        )
    reference.anchor_norms_M = norms_M.cpu()
    if factored:
        reference.rows = recorder.rows().to("cpu", torch.float32)
        return
    groups = (
        [slice(j, j + 1) for j in range(len(samples))] if reference.plan.per_sample else reference.slices().values()
    )
    means = [mean_unit_gradient(engine, samples[group], norms_M[group], token_budget) for group in groups]
    reference.directions = {name: torch.stack([mean[name] for mean in means]) for name in means[0]}


def _scope_numbers(engine: PerSampleGradients) -> int:
    return sum(part.numel() for name, part in engine.model.named_parameters() if name in engine.scope_everywhere)


def mean_unit_gradient(
    engine: PerSampleGradients, samples: Sequence[tuple[list[int], list[bool]]], norms_M: Tensor, token_budget: int
) -> dict[str, Tensor]:
    """(1/M) sum_j g_j / ||g_j|| per parameter, by one weighted backward pass a batch (He et al. 2024)."""
    weights_M = (1 / (norms_M * len(samples))).to(engine.device)
    batches = _in_order(samples, engine, token_budget)
    weights = weights_M.split([count for _, count in batches])
    return engine.gradient_sum((batch, weights_B) for (batch, _), weights_B in zip(batches, weights, strict=True))


def _in_order(
    samples: Sequence[tuple[list[int], list[bool]]], engine: PerSampleGradients, token_budget: int
) -> list[tuple[Batch, int]]:
    """Batches of consecutive samples: the factored rows must keep the anchors' order."""
    groups: list[list[int]] = []
    longest = 0
    for index, (ids, _) in enumerate(samples):
        longest = max(longest, len(ids))
        if groups and longest * (len(groups[-1]) + 1) <= token_budget:
            groups[-1].append(index)
        else:
            groups.append([index])
            longest = len(ids)
    return [(make_batch([samples[index] for index in group], engine.device), len(group)) for group in groups]
