"""Runs a batch with every weight frozen, asks a query of every module, and proves itself against autograd at the start.

Every module in scope passes its output through `_Tap`, an identity whose second input is a leaf [B, C] of zeros, the
probe. The backward of a tap returns the query's columns of that module as "the gradient of the probe", and autograd
adds them up over modules. So one `autograd.grad(loss.sum(), probe)` gives the columns of the whole model, and nothing
is stored on a module.

Shapes: B samples, T positions, C columns, D hidden.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bds.errors import PreflightError
from bds.scoring.gradients.experts import (
    replaced_forward,
    tapped_experts_forward,
    tapped_router_forward,
)
from bds.scoring.gradients.modules import Coverage, Source, cover, linear_source
from bds.scoring.gradients.output_head import HeadLoss, OutputHead, output_head
from bds.scoring.gradients.products import accumulator
from bds.scoring.gradients.queries import ByParameter, Query, SquaredNorms

PARAMETERS_CHECKED_AT_ONCE = 64
"""Whose gradients the self-check holds together."""


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


class _Tap(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, output: Tensor, probe_BC: Tensor, inputs: Tensor, columns: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        ctx.save_for_backward(inputs)
        ctx.columns = columns
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (inputs,) = ctx.saved_tensors
        return grad_outputs[0], ctx.columns(inputs, grad_outputs[0]), None, None


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
        self.scope = scope
        base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
        self.decoder: Any = base.get_decoder()
        embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
        self.head: OutputHead = output_head(model, scope)
        self.coverage: Coverage = cover(model, scope, head)
        self.tied: str | None = self.head.weight if embedding.weight is head.weight and self.head.in_scope else None
        self._has_position_embedding = any(
            isinstance(module, nn.Embedding) and module is not embedding for module in model.modules()
        )
        self._check()

    @property
    def device(self) -> torch.device:
        return self.head.module.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.head.module.weight.dtype

    def squared_norms(self) -> SquaredNorms:
        return SquaredNorms(tied=self.tied)

    @contextmanager
    def _tapped(self, query: Query, probe_BC: Tensor) -> Iterator[None]:
        samples = len(probe_BC)

        def hook(source: Source) -> Callable[..., Tensor]:
            def tap(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
                return _Tap.apply(
                    output,
                    probe_BC,
                    inputs[0].detach(),
                    lambda seen, grads: source.contribution(query, seen, grads, samples),
                )

            return tap

        def tap_rows(
            output: Tensor, rows: Tensor, pad: Callable[[Tensor], Tensor], parameter: str, transposed: bool
        ) -> Tensor:
            return _Tap.apply(
                output,
                probe_BC,
                rows.detach(),
                lambda seen, grads: query.linear(parameter, pad(seen), pad(grads), transposed),
            )

        with ExitStack() as stack:
            for source in self.coverage.sources:
                handle = source.module.register_forward_hook(hook(source))
                stack.callback(handle.remove)
            for name, experts in self.coverage.experts.items():
                stack.enter_context(replaced_forward(experts, tapped_experts_forward(experts, name, samples, tap_rows)))
            for name, router in self.coverage.routers.items():
                source = linear_source(router, name, None)

                def tap_linear(output: Tensor, inputs: Tensor, source: Source = source) -> Tensor:
                    return hook(source)(source.module, (inputs,), output)

                stack.enter_context(replaced_forward(router, tapped_router_forward(router, tap_linear)))
            yield

    def _decode(self, batch: Batch, *, all_layers: bool) -> Any:
        options: dict[str, Any] = {"use_cache": False, "output_hidden_states": all_layers}
        if self._has_position_embedding:
            # A position embedding looked up once for all samples would add their gradients together.
            positions_T = torch.arange(batch.ids_BT.shape[1], device=batch.ids_BT.device)
            options["position_ids"] = positions_T.expand_as(batch.ids_BT).contiguous()
        return self.decoder(input_ids=batch.ids_BT, **options)

    def run(self, batch: Batch, query: Query, *, all_layers: bool = False) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """One forward and one backward pass.

        Returns:
            Mean loss of each sample [B]; the query's columns [B, C], float32 (float64 for a float64 model); and, with
            `all_layers`, every hidden state [B, T, D], else only the last.
        """
        kind = accumulator(self.dtype)
        probe_BC = torch.zeros(len(batch.ids_BT), query.columns, dtype=kind, device=self.device, requires_grad=True)
        with self._tapped(query, probe_BC), torch.enable_grad():
            decoded = self._decode(batch, all_layers=all_layers)
            loss_B = HeadLoss.apply(
                decoded.last_hidden_state, probe_BC, batch.ids_BT, batch.supervised_BT, self.head, query
            )
            (columns_BC,) = torch.autograd.grad(loss_B.sum(), probe_BC)
        hidden = decoded.hidden_states if all_layers else (decoded.last_hidden_state,)
        return loss_B.detach(), columns_BC, tuple(layer.detach() for layer in hidden)

    @torch.no_grad()
    def run_forward(self, batch: Batch, *, all_layers: bool = False) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Mean loss of each sample [B] and hidden states, without a backward pass."""
        decoded = self._decode(batch, all_layers=all_layers)
        probe_BC = torch.zeros(len(batch.ids_BT), 0, device=self.device)
        loss_B = HeadLoss.apply(decoded.last_hidden_state, probe_BC, batch.ids_BT, batch.supervised_BT, self.head, None)
        return loss_B, decoded.hidden_states if all_layers else (decoded.last_hidden_state,)

    def gradient(self, batch: Batch, weights_B: Tensor, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses [B] and sum_i w_i g_i for the named parameters, by the model's own forward and ordinary autograd.

        Gradients are returned in the accumulator's type; one that the loss does not reach is zero.
        """
        parameters = {name: parameter for name, parameter in self.model.named_parameters() if name in set(names)}
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        try:
            with torch.enable_grad():
                loss_B = self._autograd_loss(batch)
                grads = torch.autograd.grad((loss_B * weights_B).sum(), list(parameters.values()), allow_unused=True)
        finally:
            for parameter in parameters.values():
                parameter.requires_grad_(False)
        kind = accumulator(self.dtype)
        return loss_B.detach(), {
            name: torch.zeros_like(parameter, dtype=kind) if grad is None else grad.to(kind)
            for (name, parameter), grad in zip(parameters.items(), grads, strict=True)
        }

    def _autograd_loss(self, batch: Batch) -> Tensor:
        logits_BTV = self.model(input_ids=batch.ids_BT, use_cache=False).logits[:, :-1].to(accumulator(self.dtype))
        wanted_BT = batch.supervised_BT[:, 1:]
        token_loss = functional.cross_entropy(logits_BTV.flatten(0, 1), batch.ids_BT[:, 1:].flatten(), reduction="none")
        return (token_loss.view_as(wanted_BT) * wanted_BT).sum(1) / wanted_BT.sum(1).clamp_min(1)

    def _check(self) -> None:
        """Compares the squared gradient norm of every parameter on one short made-up sample with autograd's.

        A module that the formulas describe wrongly (a scaled embedding, an unusual norm, a weight used twice) is
        found here and named, before any row is scored. Half precision allows 10 %: a wrong formula is off by far more.
        """
        vocabulary = self.head.module.weight.shape[0]
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, vocabulary, (9,), generator=generator).tolist()
        batch = make_batch([(ids, [False] * 4 + [True] * 5)], self.device)
        names = sorted(self.scope)
        query = ByParameter(self.squared_norms(), {name: index for index, name in enumerate(names)})
        loss_B, columns_BC, _ = self.run(batch, query)
        total = float(columns_BC.sum())
        tolerance = 0.1 if self.dtype in (torch.bfloat16, torch.float16) else 1e-3
        model = type(self.model).__name__
        with torch.no_grad():
            own_loss = float(self._autograd_loss(batch))
        if abs(own_loss - float(loss_B)) > tolerance * max(1.0, own_loss):
            raise PreflightError(
                f"the output head of {model} does something that bds does not know: its own loss on a sample is "
                f"{own_loss:.4f}, ours {float(loss_B):.4f}; this model cannot be audited yet, please report it"
            )
        for start in range(0, len(names), PARAMETERS_CHECKED_AT_ONCE):
            together = names[start : start + PARAMETERS_CHECKED_AT_ONCE]
            _, grads = self.gradient(batch, torch.ones_like(loss_B), together)
            for name, grad in grads.items():
                expected, found = float(grad.square().sum()), float(columns_BC[0, query.order[name]])
                if abs(found - expected) > tolerance * expected + 1e-6 * total:
                    raise PreflightError(
                        f"the gradient engine and autograd disagree on the parameter '{name}' of {model} (squared norm "
                        f"{found:.4g} against {expected:.4g}); choose score.parameters: lora or last_layers:N so that "
                        "it is left out, or detectors that need no gradients"
                    )
