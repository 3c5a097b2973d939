"""Mixture-of-experts blocks: fused expert weights and routers, made visible to the per-sample engine.

The rows that reach expert e come from many samples. Gathered and padded by sample they are an ordinary linear
contribution [B, R, I] under the name `parameter#e`, so that every query covers experts without knowing of them.

Shapes: N = B T flattened tokens, B samples, R rows of one expert in one sample at most, I and O in and out features.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Tap = Callable[[Tensor, Tensor, Callable[[Tensor], Tensor], str, bool], Tensor]
"""(output rows, input rows, rows -> [B, R, .] by sample, parameter, transposed) -> the output rows, tapped."""


def by_sample(owner_N: Tensor, samples: int) -> Callable[[Tensor], Tensor]:
    """For rows sorted by the sample they belong to: a function that pads them to [B, R, .] with zeros."""
    counts_B = torch.bincount(owner_N, minlength=samples)
    first_B = counts_B.cumsum(0) - counts_B
    slot_N = torch.arange(len(owner_N), device=owner_N.device) - first_B[owner_N]
    width = int(counts_B.max()) if len(owner_N) else 0

    def pad(rows_NI: Tensor) -> Tensor:
        padded = rows_NI.new_zeros(samples, width, rows_NI.shape[1])
        padded[owner_N, slot_N] = rows_NI
        return padded

    return pad


def tapped_experts_forward(
    module: Any, name: str, samples: int, tap: Tap
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """A forward of one fused expert block that taps each expert's two products."""

    def multiply(rows: Tensor, weight: Tensor) -> Tensor:
        return rows @ weight if module.is_transposed else functional.linear(rows, weight)

    def forward(hidden_ND: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        tokens_a_sample = hidden_ND.shape[0] // samples
        inward = "gate_up_proj" if module.has_gate else "up_proj"
        output_ND = torch.zeros_like(hidden_ND)
        for expert in range(module.num_experts):
            token_R, choice_R = torch.where(top_k_index == expert)
            if len(token_R) == 0:
                continue
            pad = by_sample(token_R // tokens_a_sample, samples)
            rows = hidden_ND[token_R]
            inner = tap(
                multiply(rows, getattr(module, inward)[expert]),
                rows,
                pad,
                f"{name}.{inward}#{expert}",
                module.is_transposed,
            )
            inner = module._apply_gate(inner) if module.has_gate else module.act_fn(inner)
            outer = tap(
                multiply(inner, module.down_proj[expert]),
                inner,
                pad,
                f"{name}.down_proj#{expert}",
                module.is_transposed,
            )
            output_ND = output_ND.index_add(
                0, token_R, (outer * top_k_weights[token_R, choice_R, None]).to(output_ND.dtype)
            )
        return output_ND

    return forward


class _TapOwnWeight(TorchFunctionMode):
    """Taps every `functional.linear` that multiplies by one given weight: a router's, which no submodule holds."""

    def __init__(self, weight: Tensor, tap_linear: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self._weight, self._tap_linear = weight, tap_linear

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is functional.linear and args[1] is self._weight:
            return self._tap_linear(output, args[0])
        return output


def tapped_router_forward(module: Any, tap_linear: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Any]:
    original = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        with _TapOwnWeight(module.weight, tap_linear):
            return original(*args, **kwargs)

    return forward


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Gives one module another forward for a while."""
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        del module.__dict__["forward"]
