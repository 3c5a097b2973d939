"""How much memory a scoring actor takes on its device, from the model's configuration and the spec alone.

The passes of an audit are run dry (bds/scoring/dry_run.py) over the model on the meta device, so every architecture,
scope and query counts as it is. What is kept between the passes is added up here. No pass runs beside another:

    scoring     weights + anchors + activations at the end of the forward pass + what the backward pass makes
    preparing   weights in float32 + the anchors' pass + their gradients
    checking    weights + gradients of the engine's self-check, taken of 64 parameters at a time
    storing     on a CPU: weights + the anchors three times, as tensors, as their bytes and as bytes of the file

Shapes: B samples, T positions, K directions, M anchors.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from bds.data.anchors import AnchorSample
from bds.data.tokens import ConversationTokenizer
from bds.errors import PreflightError
from bds.scoring.collection import Collection
from bds.scoring.dry_run import dry_run, experts_of
from bds.scoring.gradients.anchors import AnchorDots, AnchorRecorder, AnchorRows, Rows
from bds.scoring.gradients.engine import Batch, PerSampleGradients
from bds.scoring.gradients.queries import NormsAndDirectionDots, Query, Together, with_expert_views
from bds.scoring.gradients.scope import parameter_scope
from bds.scoring.gradients.self_check import PARAMETERS_AT_ONCE
from bds.scoring.loading import choose_dtype, model_shell
from bds.scoring.reference import DENSE_NUMBERS, first_tokens, tokenized_anchors
from bds.spec.models import AuditSpec

GIB = 1 << 30
_KERNELS = 0.05
"""Of the workspace: what kernels take for themselves, which no operator shows (2 % was the most that was measured)."""
_SHORT_ROWS = 64
"""Positions of a batch of many short rows; where gradients are formed sample by sample, it takes more than long rows
do."""


@dataclass(frozen=True)
class AnchorTokens:
    """The anchors as the gradients see them: cut after their last supervised token."""

    lengths: tuple[int, ...]
    """Positions of each, set after set."""
    supervised: tuple[int, ...]
    """Positions with loss of each."""
    sets: tuple[int, ...]
    """Anchors of each set."""


@dataclass(frozen=True)
class ScoringMemory:
    """Bytes on the device of one process of an actor, by what takes them."""

    token_budget: int
    parameters: int
    """Numbers, not bytes."""
    weights: int
    anchors: int
    activations: int
    """Alive at the end of the forward pass, hidden states that are kept among them."""
    workspace: int
    """What the backward pass and the logits need at most beside the activations."""
    preparing: int
    """All that the anchors' gradients take, the float32 weights among it; 0 where no gradient of theirs is taken."""
    checking: int
    """All that the engine's self-check takes."""
    storing: int
    """All that it takes to write the anchors' file; main memory does that, so on a GPU nothing."""

    @property
    def scoring(self) -> int:
        return self.weights + self.anchors + self.activations + self.workspace

    @property
    def total(self) -> int:
        return max(self.scoring, self.preparing, self.checking, self.storing)

    def spread_over(self, processes: int) -> "ScoringMemory":
        """What each of so many processes takes that share the decoder blocks evenly. The workspace stays: the hub has
        the logits, and any process its largest module."""

        def share(size: int) -> int:
            return -(-size // processes)

        return replace(
            self,
            weights=share(self.weights),
            anchors=share(self.anchors),
            activations=share(self.activations),
            preparing=share(self.preparing),
            checking=share(self.checking),
            storing=share(self.storing),
        )

    def describe(self) -> str:
        """`12.3 GiB: weights 8.0, anchors 1.1, activations of 8,192 tokens 3.0, workspace 0.2`, and the pass that takes
        more than scoring, if one does."""
        text = (
            f"{gib(self.total)} GiB: weights {gib(self.weights)}, anchors {gib(self.anchors)}, activations of "
            f"{self.token_budget:,} tokens {gib(self.activations)}, workspace {gib(self.workspace)}"
        )
        others = {
            "preparing the anchors in float32": self.preparing,
            "the engine's self-check": self.checking,
            "writing the anchors' file": self.storing,
        }
        name = max(others, key=lambda each: others[each])
        return text if others[name] <= self.scoring else f"{text}; {name} takes {gib(others[name])}"


def gib(size: int) -> str:
    """A size in GiB, short: `12.3`, and `0.045` below one."""
    if size == 0:
        return "0"
    return f"{size / GIB:.1f}" if size >= GIB else f"{size / GIB:.3f}"


class _Unchecked(PerSampleGradients):
    """A dry pass has no numbers that could agree or disagree with autograd's."""

    def _check(self) -> None:
        pass


class MemoryModel:
    """What the passes of one audit take, at any token budget.

    Args:
        collection: what the audit collects.
        anchors: as the tokenizer makes them; none where no anchor's gradient is taken.
        device: cpu or cuda, where the actors run.

    Raises:
        PreflightError: no configuration can be read, or the gradient engine cannot cover the model.
        SpecError: the model has no such parameters as `score.parameters` says.
        UnknownMemoryError: from here or a method, for a model whose passes cannot be run dry.
    """

    def __init__(self, spec: AuditSpec, collection: Collection, anchors: AnchorTokens, device: str) -> None:
        self._spec, self._collection, self._anchors, self._device = spec, collection, anchors, device
        self._dtype = choose_dtype(spec.model, device)
        with dry_run(device, positions=1):
            model = model_shell(spec.model, spec.score.parameters, spec.score.lora, self._dtype)
            scope = parameter_scope(model, spec.score.parameters) if collection.gradients else frozenset()
            self._engine = _Unchecked(model, scope)
        self._experts = experts_of(model)
        self._sizes = {name: part.numel() for name, part in model.named_parameters() if name in scope}
        self._kept = list({id(part): part for part in [*model.parameters(), *model.buffers()]}.values())

    def at(self, token_budget: int) -> ScoringMemory:
        """What each process of an actor takes with batches of at most `token_budget` padded tokens, or of one row of
        `max_tokens`."""
        weights = self._weights
        directions, rows, numbers = self._reference
        stored = numbers * torch.float32.itemsize
        anchors = numbers * self._dtype.itemsize
        if self._device == "cpu" and self._dtype != torch.float32:
            # What was read stays beside what the pass takes.
            anchors += stored
        longest = self._spec.tokens.max_tokens
        passes = [
            self._scoring(max(1, token_budget // positions), positions, directions, rows)
            for positions in dict.fromkeys((longest, min(_SHORT_ROWS, longest)))
        ]
        activations, workspace = max(passes, key=sum)
        whole = ScoringMemory(
            token_budget=token_budget,
            parameters=sum(part.numel() for part in self._engine.model.parameters()),
            weights=weights,
            anchors=anchors,
            activations=activations,
            workspace=workspace,
            preparing=self._preparing(token_budget),
            checking=weights + self._checked_at_once(),
            storing=weights + 3 * stored if self._device == "cpu" else 0,
        )
        return whole.spread_over(self._spec.resources.parts_per_model)

    def main(self) -> int:
        """Main memory that each process of an actor on a GPU takes: the weights while they load, then the anchors'
        file as bytes and as tensors. Only the one task that writes that file takes it three times, when no other actor
        is up."""
        whole = max(self._weights, 2 * self._reference[2] * torch.float32.itemsize)
        return -(-whole // self._spec.resources.parts_per_model)

    @property
    def _weights(self) -> int:
        return sum(part.numel() * part.element_size() for part in self._kept)

    @cached_property
    def _reference(self) -> tuple[dict[str, Tensor], AnchorRows | None, int]:
        """The anchors' gradients as scoring holds them, and how many numbers they are."""
        if not self._collection.anchor_gradients or not self._anchors.lengths:
            return {}, None, 0
        if self._factored:
            rows = self._rows()
            return {}, rows, sum(tensor.numel() for tensor in rows.to_tensors().values())
        count = self._directions
        directions = {
            name: torch.empty(count, *part.shape, dtype=self._dtype, device="meta")
            for name, part in self._engine.model.named_parameters()
            if name in self._sizes
        }
        return with_expert_views(directions), None, count * sum(self._sizes.values())

    @property
    def _per_sample(self) -> bool:
        return self._spec.anchors.gradients == "per_sample"

    @property
    def _factored(self) -> bool:
        return self._per_sample and len(self._anchors.lengths) * sum(self._sizes.values()) > DENSE_NUMBERS

    @property
    def _directions(self) -> int:
        return len(self._anchors.lengths) if self._per_sample else len(self._anchors.sets)

    def _rows(self) -> AnchorRows:
        """Recorded of one long sample, because padding is not kept."""
        recorder = AnchorRecorder()
        positions = sum(self._anchors.lengths)
        with dry_run(self._device, positions=positions, experts=self._experts):
            self._engine.run(_batch(1, positions), recorder)
        recorder.batch_done(len(self._anchors.lengths))
        rows = recorder.rows()
        rows.head = {name: _first(each, sum(self._anchors.supervised)) for name, each in rows.head.items()}
        # Every position goes to a few experts, by chance to each as often.
        chosen = int(getattr(self._engine.model.config.get_text_config(), "num_experts_per_tok", None) or 1)
        routed = -(-positions * chosen // self._experts)
        rows.linear = {name: _first(each, routed) if "#" in name else each for name, each in rows.linear.items()}
        rows.vector = {name: grad.new_empty(rows.count, grad.shape[1]) for name, grad in rows.vector.items()}
        return rows

    def _scoring(
        self, samples: int, positions: int, directions: dict[str, Tensor], rows: AnchorRows | None
    ) -> tuple[int, int]:
        """Bytes at the end of the forward pass, and what is added to them at most."""
        engine = self._engine
        # The first stands for the one that the anchors will choose.
        layers = {*self._collection.hidden_layers, *((0,) if self._collection.compliance else ())}
        query: Query = engine.squared_norms()
        if rows is not None:
            query = Together([query, AnchorDots(rows)])
        elif directions:
            query = NormsAndDirectionDots(directions, tied=engine.tied)
        after_forward = []
        with dry_run(self._device, positions=positions, experts=self._experts) as alive:
            hook = engine.decoder.register_forward_hook(lambda *_: after_forward.append(alive.now))
            try:
                batch = _batch(samples, positions)
                if self._collection.gradients:
                    engine.run(batch, query, layers=layers)
                else:
                    engine.run_forward(batch, layers=layers)
            finally:
                hook.remove()
        return after_forward[0], int((alive.peak - after_forward[0]) * (1 + _KERNELS))

    def _preparing(self, token_budget: int) -> int:
        if not self._collection.anchor_gradients or not self._anchors.lengths:
            return 0
        engine, wide = self._engine, torch.promote_types(self._dtype, torch.float32)
        engine.model.to(wide)
        try:
            weights = sum(part.numel() for part in self._kept) * wide.itemsize
            scope = sum(self._sizes.values()) * wide.itemsize
            longest = max(self._anchors.lengths)
            most = max(1, token_budget // longest)
            batch = min(len(self._anchors.lengths), most), longest
            norms = self._over_anchors(*batch, lambda sample: engine.run(sample, engine.squared_norms()))
            if self._factored:
                kept = self._reference[2] * wide.itemsize
                recorded = self._over_anchors(*batch, lambda sample: engine.run(sample, AnchorRecorder()))
                before = kept if len(self._anchors.lengths) > most else 0
                return weights + max(norms, before + recorded, 2 * kept)
            largest = 1 if self._per_sample else max(self._anchors.sets)
            names = sorted(self._sizes)
            gradient = self._over_anchors(
                min(largest, most),
                longest,
                lambda sample: engine.gradient(sample, torch.empty(len(sample.ids_BT), device="meta"), names),
            )
            # A second batch's gradient is added to that of the first into a third of the same size.
            sums = 2 * scope if largest > most else 0
            # They are collected in main memory, and then joined into new tensors.
            directions = self._directions * scope if self._device == "cpu" else 0
            return weights + max(norms, gradient + sums + directions, 2 * directions)
        finally:
            engine.model.to(self._dtype)

    def _over_anchors(self, samples: int, positions: int, run: Callable[[Batch], object]) -> int:
        # A pass over anchors has loss on few positions; but how many tokens reach an expert is asked by the same call.
        asked = max(self._anchors.supervised) if self._experts == 1 else positions
        with dry_run(self._device, positions=asked, experts=self._experts) as alive:
            run(_batch(samples, positions))
        return alive.peak

    def _checked_at_once(self) -> int:
        """Gradients of the most numbers that the self-check takes together, and their copies in float32."""
        each = self._dtype.itemsize + (4 if self._dtype.itemsize < 4 else 0)
        names = sorted(self._sizes)
        starts = range(0, len(names), PARAMETERS_AT_ONCE)
        parts = [sum(self._sizes[name] for name in names[at : at + PARAMETERS_AT_ONCE]) for at in starts]
        return max(parts, default=0) * each


def anchor_tokens(
    tokenize: ConversationTokenizer, anchors: Mapping[str, Sequence[AnchorSample]], first_answer_tokens: int | None
) -> AnchorTokens:
    """What the tokenizer makes of the anchors. Raises PreflightError where one has no answer left."""
    cut = [first_tokens(row, first_answer_tokens) for row in tokenized_anchors(tokenize, anchors)]
    return AnchorTokens(
        lengths=tuple(len(ids) for ids, _ in cut),
        supervised=tuple(sum(supervised) for _, supervised in cut),
        sets=tuple(len(samples) for samples in anchors.values()),
    )


def _first(rows: Rows, count: int) -> Rows:
    return Rows(rows.left[:count], rows.grad_SO[:count], rows.owner_S[:count])


def _batch(samples: int, positions: int) -> Batch:
    ids_BT = torch.empty(samples, positions, dtype=torch.long, device="meta")
    return Batch(ids_BT, torch.empty(samples, positions, dtype=torch.bool, device="meta"))


@dataclass(frozen=True)
class Room:
    """What one actor may take of a device."""

    size: int
    """Bytes."""
    where: str
    """What has them, for example `the GPU of node a`."""


def fit(model: MemoryModel, spec: AuditSpec, room: Room) -> ScoringMemory:
    """The memory at the largest token budget that fits: the one asked for, or it halved as often as it takes.

    Raises PreflightError where not even one row of `tokens.max_tokens` fits; the sentence has the parts.
    """
    budget = spec.score.token_budget
    found = model.at(budget)
    while found.total > room.size and budget // 2 >= spec.tokens.max_tokens:
        budget //= 2
        found = model.at(budget)
    if found.total <= room.size:
        return found
    raise PreflightError(
        f"{room.where} has {gib(room.size)} GiB for an actor, which takes {found.describe()}; {_way_out(spec)}"
    )


def fit_again(model: MemoryModel, budget: int, room: Room) -> ScoringMemory:
    """The memory at the token budget that a run began with. Raises PreflightError where it does not fit."""
    found = model.at(budget)
    if found.total <= room.size:
        return found
    raise PreflightError(
        f"{room.where} has {gib(room.size)} GiB for an actor, and the run began with batches for which an actor takes "
        f"{found.describe()}; resume it on a machine with more memory, or give --fresh to start anew with smaller "
        "batches"
    )


def lowered(found: ScoringMemory, spec: AuditSpec, room: Room) -> str | None:
    """What a user should know of a lowered token budget; None where it is the one asked for."""
    if found.token_budget == spec.score.token_budget:
        return None
    return (
        f"batches hold {found.token_budget:,} padded tokens instead of score.token_budget {spec.score.token_budget:,}, "
        f"because {room.where} has {gib(room.size)} GiB for an actor, which then takes {found.describe()}"
    )


def _way_out(spec: AuditSpec) -> str:
    ways = ["shorter tokens.max_tokens"]
    if spec.score.parameters == "all":
        ways.append("score.parameters: lora or last_layers:N")
    if spec.anchors.sets:
        ways.append("fewer anchors")
        if spec.anchors.gradients == "per_sample":
            ways.append("anchors.gradients: direction")
    if spec.model.dtype not in ("bfloat16", "float16"):
        ways.append("model.dtype: bfloat16")
    if spec.score.parameters != "lora" and spec.model.adapter is None:
        ways.append(f"resources.parts_per_model: {2 * spec.resources.parts_per_model} to spread it over more processes")
    return f"take {', '.join(ways)}, or a machine with more memory"
