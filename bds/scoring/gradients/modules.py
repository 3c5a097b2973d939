"""Which module holds which parameter, and what its contribution to a sample's gradient is made of.

Every parameter in scope is matched to exactly one source below, or the model is refused by the parameter's name: a
parameter that was skipped silently would make every norm and dot product wrong without a trace.

Shapes: B samples, T positions, I and O in and out features, D hidden, ... any further dimensions (heads).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from bds.errors import PreflightError
from bds.scoring.gradients.products import accumulator
from bds.scoring.gradients.queries import Query

Contribution = Callable[[Query, Tensor, Tensor, int], Tensor]
"""(query, module input, gradient of module output, samples) -> [B, C]."""


@dataclass(frozen=True)
class Source:
    """A module whose parameters are in scope. `contribution` covers all of `parameters`."""

    module: nn.Module
    parameters: tuple[str, ...]
    contribution: Contribution


def linear_source(module: nn.Module, weight: str | None, bias: str | None, *, transposed: bool = False) -> Source:
    """y = x W^T + c (or x W for a transposed weight): rows x and dL/dy; the bias gets sum_t dL/dy_t."""

    def contribution(query: Query, inputs: Tensor, grads: Tensor, samples: int) -> Tensor:
        input_BTI = inputs.reshape(samples, -1, inputs.shape[-1])
        grad_BTO = grads.reshape(samples, -1, grads.shape[-1])
        columns = grad_BTO.new_zeros(samples, query.columns, dtype=accumulator(grads.dtype))
        if weight is not None:
            columns = columns + query.linear(weight, input_BTI, grad_BTO, transposed)
        if bias is not None:
            columns = columns + query.vector(bias, grad_BTO.sum(1, dtype=columns.dtype))
        return columns

    return Source(module, tuple(name for name in (weight, bias) if name is not None), contribution)


def embedding_source(module: nn.Embedding, weight: str) -> Source:
    """Rows are token ids. `embed_scale` (Gemma) multiplies the output, hence the gradient of the row."""
    scale = float(getattr(module, "embed_scale", 1.0))

    def contribution(query: Query, ids_BT: Tensor, grad_BTD: Tensor, samples: int) -> Tensor:
        return query.embedding(weight, ids_BT, grad_BTD.to(accumulator(grad_BTD.dtype)) * scale)

    return Source(module, (weight,), contribution)


def norm_source(module: nn.Module, weight: str | None, bias: str | None) -> Source:
    """y = w * xhat (+ c), or (1 + w) * xhat: the weight gets sum over positions (and heads) of xhat * dL/dy."""
    epsilon = float(getattr(module, "variance_epsilon", getattr(module, "eps", getattr(module, "epsilon", 1e-6))))
    centred = "RMS" not in type(module).__name__

    def contribution(query: Query, inputs: Tensor, grads: Tensor, samples: int) -> Tensor:
        kind = accumulator(inputs.dtype)
        width = inputs.shape[-1]
        values, grads = inputs.to(kind), grads.to(kind)
        if centred:
            values = values - values.mean(-1, keepdim=True)
        normalised = values * torch.rsqrt(values.square().mean(-1, keepdim=True) + epsilon)
        columns = grads.new_zeros(samples, query.columns)
        if weight is not None:
            columns = columns + query.vector(weight, (normalised * grads).reshape(samples, -1, width).sum(1))
        if bias is not None:
            columns = columns + query.vector(bias, grads.reshape(samples, -1, width).sum(1))
        return columns

    return Source(module, tuple(name for name in (weight, bias) if name is not None), contribution)


@dataclass(frozen=True)
class Coverage:
    """How every parameter in scope is covered."""

    sources: tuple[Source, ...]
    experts: dict[str, nn.Module]
    """Fused expert blocks, by the name of the module."""
    routers: dict[str, nn.Module]
    """Modules that multiply by a bare weight of their own, by the name of that weight."""
    head_in_scope: bool


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.LayerNorm) or type(module).__name__.endswith(("RMSNorm", "LayerNorm"))


def _is_experts(module: nn.Module) -> bool:
    known = all(hasattr(module, name) for name in ("num_experts", "down_proj", "act_fn", "is_transposed"))
    return known and not getattr(module, "has_post_expert_norm", False)


def _is_router(module: nn.Module, names: set[str]) -> bool:
    weight: Any = getattr(module, "weight", None)
    return type(module).__name__.endswith("Router") and names == {"weight"} and weight is not None and weight.ndim == 2


def cover(model: nn.Module, scope: frozenset[str], head: nn.Module) -> Coverage:
    """Matches every parameter of `scope` to a source.

    Raises:
        PreflightError: a parameter is in no module that the engine knows; the sentence names it.
    """
    sources: list[Source] = []
    experts: dict[str, nn.Module] = {}
    routers: dict[str, nn.Module] = {}
    covered: set[str] = set()
    for prefix, module in model.named_modules(remove_duplicate=True):
        own = {name for name, _ in module.named_parameters(prefix="", recurse=False)}
        if not own or module is head:
            continue
        dotted = f"{prefix}." if prefix else ""
        wanted = {name: dotted + name for name in own if dotted + name in scope}
        if not wanted:
            continue
        weight, bias = wanted.get("weight"), wanted.get("bias")
        if isinstance(module, nn.Linear | Conv1D):
            sources.append(linear_source(module, weight, bias, transposed=isinstance(module, Conv1D)))
        elif isinstance(module, nn.Embedding) and weight is not None:
            sources.append(embedding_source(module, weight))
        elif _is_norm(module) and own <= {"weight", "bias"}:
            sources.append(norm_source(module, weight, bias))
        elif _is_experts(module) and own <= {"gate_up_proj", "up_proj", "down_proj"}:
            experts[prefix] = module
            covered.update(wanted.values())
            continue
        elif _is_router(module, own) and weight is not None:
            routers[weight] = module
            covered.add(weight)
            continue
        else:
            continue
        covered.update(sources[-1].parameters)
    names_of_head = {
        name for name, parameter in model.named_parameters() if any(parameter is own for own in head.parameters())
    }
    head_in_scope = bool(names_of_head & scope)
    uncovered = sorted(scope - covered - names_of_head)
    if uncovered:
        more = f" and {len(uncovered) - 1} more" if len(uncovered) > 1 else ""
        raise PreflightError(
            f"the gradient engine cannot cover the parameter '{uncovered[0]}'{more} of {type(model).__name__}; "
            "choose score.parameters: lora or last_layers:N so that it is left out, or detectors that need no gradients"
        )
    return Coverage(tuple(sources), experts, routers, head_in_scope)
