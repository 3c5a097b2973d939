"""Runs a batch with every weight frozen, asks a query of every module, and proves itself against autograd at the start.

Every module in scope is tapped (bds/scoring/gradients/taps.py), so that one `autograd.grad(loss.sum(), probes)` gives
the columns of the whole model, and nothing is stored on a module.

Shapes: B samples, T positions, C columns, D hidden.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bds.errors import PreflightError
from bds.scoring.gradients.modules import Coverage, cover
from bds.scoring.gradients.output_head import HeadLoss, OutputHead, output_head
from bds.scoring.gradients.products import accumulator
from bds.scoring.gradients.queries import Asked, ByParameter, Query, SquaredNorms
from bds.scoring.gradients.self_check import PARAMETERS_AT_ONCE, expect_equal_norms, tolerance_of
from bds.scoring.gradients.taps import Places, places_of, tapped


@dataclass(frozen=True)
class Batch:
    """Right-padded samples. Under a causal mask padding cannot reach a real token, so no attention mask is needed."""

    ids_BT: Tensor
    supervised_BT: Tensor
    """Whether the token at t is predicted with loss; never true at position 0 or on padding."""


def make_batch(samples: Sequence[tuple[Sequence[int], Sequence[bool]]], device: torch.device | str) -> Batch:
    """Pads (ids, supervised) pairs on the right with zeros."""
    longest = max(len(ids) for ids, _ in samples)
    ids_BT = torch.zeros(len(samples), longest, dtype=torch.long)
    supervised_BT = torch.zeros(len(samples), longest, dtype=torch.bool)
    for index, (ids, supervised) in enumerate(samples):
        ids_BT[index, : len(ids)] = torch.tensor(ids)
        supervised_BT[index, : len(ids)] = torch.tensor(supervised)
    supervised_BT[:, 0] = False
    return Batch(ids_BT.to(device), supervised_BT.to(device))


class PerSampleGradients:
    """Per-sample loss, gradient columns and hidden states of one causal language model.

    Args:
        model: any Hugging Face causal language model, PEFT-wrapped or not. Its weights are frozen here.
        scope: names of the parameters whose gradient counts.

    Raises:
        PreflightError: a parameter in scope cannot be covered, or the self-check does not agree with autograd.
    """

    def __init__(self, model: nn.Module, scope: frozenset[str]) -> None:
        self.model: Any = model.eval().requires_grad_(False)
        self.scope_everywhere = scope
        """With those of blocks that other processes hold (bds/scoring/spread/)."""
        self.scope = self._here(model, scope)
        base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
        self.decoder: Any = base.get_decoder()
        embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
        self.head: OutputHead = output_head(model, self.scope)
        self.coverage: Coverage = cover(model, self.scope, head)
        self._places: Places = places_of(model)
        self.tied: str | None = self.head.weight if embedding.weight is head.weight and self.head.in_scope else None
        self._has_position_embedding = has_position_embedding(model, embedding)
        self._check()

    def _here(self, model: nn.Module, scope: frozenset[str]) -> frozenset[str]:
        """Those of the scope that this process holds."""
        return scope

    @property
    def device(self) -> torch.device:
        return self.head.module.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.head.module.weight.dtype

    @property
    def hidden_states(self) -> int:
        """How many there are: what the embedding gives, and what every decoder block returns."""
        return int(self.model.config.get_text_config(decoder=True).num_hidden_layers) + 1

    def squared_norms(self) -> SquaredNorms:
        return SquaredNorms(tied=self.tied)

    def change_dtype(self, dtype: torch.dtype) -> None:
        """Changes the type of the weights, in which everything is then computed."""
        self.model.to(dtype)

    def write_elsewhere(self, run_uri: str, path: str) -> list[str]:
        """Has other processes write the anchors' gradients of their parameters beside the reference at `path`.

        Returns:
            Names of their files, in the reference's folder.
        """
        return []

    def read_elsewhere(self, run_uri: str, path: str) -> None:
        """Has other processes read the anchors' gradients of their parameters from the reference at `path`."""

    @contextmanager
    def _elsewhere(
        self, asked: Asked, probes: Sequence[Tensor], layers: Collection[int]
    ) -> Iterator[Mapping[int, Tensor]]:
        """The time of a forward pass. Where other processes hold blocks, they take their part in it.

        Args:
            probes: one a place; the backward pass gives those of blocks elsewhere their gradient.
            layers: indices of the hidden states wanted.

        Yields:
            Those [B, T, D] that were not computed here, by their index; filled by the pass.
        """
        yield {}

    def _decode(self, batch: Batch, layers: Collection[int]) -> Any:
        options: dict[str, Any] = {"use_cache": False, "output_hidden_states": bool(layers)}
        if self._has_position_embedding:
            options["position_ids"] = positions_of_each(batch.ids_BT)
        return self.decoder(input_ids=batch.ids_BT, **options)

    def _probes(self, batch: Batch, columns: int) -> list[Tensor]:
        return self._places.probes(len(batch.ids_BT), columns, accumulator(self.dtype), self.device)

    def run(
        self, batch: Batch, query: Query, *, layers: Collection[int] = ()
    ) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
        """One forward and one backward pass.

        Args:
            layers: indices of the hidden states wanted.

        Returns:
            Mean loss of each sample [B]; the query's columns [B, C], float32 (float64 for a float64 model); and the
            hidden states [B, T, D] wanted, by their index.
        """
        probes = self._probes(batch, query.columns)

        def probe_of(parameter: str) -> Tensor:
            return probes[self._places.of_parameter[parameter]]

        with (
            tapped(self.coverage, query, probe_of, len(batch.ids_BT)),
            self._elsewhere(query.asked, probes, layers) as others,
            torch.enable_grad(),
        ):
            decoded = self._decode(batch, layers)
            loss_B = HeadLoss.apply(
                decoded.last_hidden_state, probes[0], batch.ids_BT, batch.supervised_BT, self.head, query
            )
            columns = torch.autograd.grad(loss_B.sum(), probes, materialize_grads=True)
        return loss_B.detach(), torch.stack(columns).sum(0), _hidden_states(decoded, others, layers)

    @torch.no_grad()
    def run_forward(self, batch: Batch, *, layers: Collection[int] = ()) -> tuple[Tensor, dict[int, Tensor]]:
        """Mean loss of each sample [B] and the hidden states wanted by index, without a backward pass."""
        with self._elsewhere(Asked.NOTHING, [], layers) as others:
            decoded = self._decode(batch, layers)
        probe_BC = torch.zeros(len(batch.ids_BT), 0, device=self.device)
        loss_B = HeadLoss.apply(decoded.last_hidden_state, probe_BC, batch.ids_BT, batch.supervised_BT, self.head, None)
        return loss_B, _hidden_states(decoded, others, layers)

    def gradient(
        self, batch: Batch, weights_B: Tensor, names: Sequence[str], *, asked: Asked = Asked.PASSAGE
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses [B] and sum_i w_i g_i for the named parameters, by the model's own forward and ordinary autograd.

        Gradients are returned in the accumulator's type; one that the loss does not reach is zero.

        Args:
            asked: what processes that hold other blocks do with their own gradients.
        """
        parameters = {name: parameter for name, parameter in self.model.named_parameters() if name in set(names)}
        probes = self._probes(batch, 0)
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        try:
            with torch.enable_grad(), self._elsewhere(asked, probes, ()):
                loss_B = self._autograd_loss(batch)
                # The probes are asked for so that the pass reaches blocks elsewhere, whatever is asked for here.
                wanted = [*parameters.values(), *probes]
                grads = torch.autograd.grad((loss_B * weights_B).sum(), wanted, allow_unused=True)
        finally:
            for parameter in parameters.values():
                parameter.requires_grad_(False)
        kind = accumulator(self.dtype)
        return loss_B.detach(), {
            name: torch.zeros_like(parameter, dtype=kind) if grad is None else grad.to(kind)
            for (name, parameter), grad in zip(parameters.items(), grads[: len(parameters)], strict=True)
        }

    def gradient_sum(self, weighted: Iterable[tuple[Batch, Tensor]]) -> dict[str, Tensor]:
        """sum_i w_i g_i over the samples of all batches, for every parameter in scope, in main memory."""
        total: dict[str, Tensor] = {}
        for batch, weights_B in weighted:
            _, part = self.gradient(batch, weights_B, sorted(self.scope), asked=Asked.GRADIENT_SUM)
            total = {name: total[name] + grad if total else grad for name, grad in part.items()}
        return {name: grad.cpu() for name, grad in total.items()}

    def _autograd_loss(self, batch: Batch) -> Tensor:
        logits_BTV = self.model(input_ids=batch.ids_BT, use_cache=False).logits[:, :-1].to(accumulator(self.dtype))
        wanted_BT = batch.supervised_BT[:, 1:]
        token_loss = functional.cross_entropy(logits_BTV.flatten(0, 1), batch.ids_BT[:, 1:].flatten(), reduction="none")
        return (token_loss.view_as(wanted_BT) * wanted_BT).sum(1) / wanted_BT.sum(1).clamp_min(1)

    def _check(self) -> None:
        """Compares the squared gradient norm of every parameter on one short made-up sample with autograd's.

        A module that the formulas describe wrongly (a scaled embedding, an unusual norm, a weight used twice) is
        found here and named, before any row is scored.
        """
        batch = self._made_up_sample()
        names = sorted(self.scope)
        query = ByParameter(self.squared_norms(), {name: index for index, name in enumerate(names)})
        loss_B, columns_BC, _ = self.run(batch, query)
        model = type(self.model).__name__
        with torch.no_grad(), self._elsewhere(Asked.NOTHING, [], ()):
            own_loss = float(self._autograd_loss(batch))
        if abs(own_loss - float(loss_B)) > tolerance_of(self.dtype) * max(1.0, own_loss):
            raise PreflightError(
                f"the output head of {model} does something that bds does not know: its own loss on a sample is "
                f"{own_loss:.4f}, ours {float(loss_B):.4f}; this model cannot be audited yet, please report it"
            )
        found = {name: float(columns_BC[0, index]) for name, index in query.order.items()}
        for start in range(0, len(names), PARAMETERS_AT_ONCE):
            _, grads = self.gradient(batch, torch.ones_like(loss_B), names[start : start + PARAMETERS_AT_ONCE])
            autograd = {name: float(grad.square().sum()) for name, grad in grads.items()}
            expect_equal_norms(model, self.dtype, found, autograd)

    def _made_up_sample(self) -> Batch:
        vocabulary = self.head.module.weight.shape[0]
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, vocabulary, (9,), generator=generator).tolist()
        return make_batch([(ids, [False] * 4 + [True] * 5)], self.device)


def has_position_embedding(model: nn.Module, embedding: nn.Module) -> bool:
    """Whether the model looks positions up in a table, which is then an embedding beside that of tokens."""
    return any(isinstance(module, nn.Embedding) and module is not embedding for module in model.modules())


def positions_of_each(like_BT: Tensor) -> Tensor:
    """Positions [B, T]: looked up once for all samples, a position embedding would add their gradients together."""
    positions_T = torch.arange(like_BT.shape[1], device=like_BT.device)
    return positions_T.expand(like_BT.shape[:2]).contiguous()


def _hidden_states(decoded: Any, others: Mapping[int, Tensor], layers: Collection[int]) -> dict[int, Tensor]:
    return {index: (others[index] if index in others else decoded.hidden_states[index]).detach() for index in layers}
