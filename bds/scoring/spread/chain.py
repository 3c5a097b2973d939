"""How hidden states pass through the parts of a model and gradients pass back, and parts in this process.

Shapes: B samples, T positions, D hidden, C columns, G decoder blocks outside the hub.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor

from bds.scoring.gradients.queries import Asked
from bds.scoring.spread.part import Part

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class Chain(Protocol):
    """The parts of a model in order. One pass at a time; an exception of a part is raised here as itself."""

    def forward(self, hidden_BTD: Tensor, asked: Asked, layers: Collection[int]) -> tuple[Tensor, dict[int, Tensor]]:
        """What the last block returns [B, T, D], and the hidden states wanted, by their index: b + 1 for block b."""

    def backward(self, grad_BTD: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """For the gradient of what `forward` returned last: that of what it was given, and the columns [B, C] of every
        block in order; None for columns that were not asked for, or of parameters that do not count."""

    def order(
        self,
        work: Callable[Concatenate[Part, _Arguments], _Result],
        *args: _Arguments.args,
        **kwargs: _Arguments.kwargs,
    ) -> list[_Result]:
        """Calls a method of Part on every part, given as `Part.method`; what they return, in order."""


OpenChain = Callable[[Sequence[Callable[[], Part]]], Chain]
"""Starts a process for every part and calls its loader there; returns before they are loaded."""


@dataclass(frozen=True)
class Spread:
    """How every copy of the model is spread. Picklable."""

    processes: int
    """The hub and the parts."""
    open_chain: OpenChain


class LocalChain:
    """The parts in this process: the same arithmetic, for tests."""

    def __init__(self, loaders: Sequence[Callable[[], Part]]) -> None:
        self._parts = [load() for load in loaders]

    def forward(self, hidden_BTD: Tensor, asked: Asked, layers: Collection[int]) -> tuple[Tensor, dict[int, Tensor]]:
        found: dict[int, Tensor] = {}
        for part in self._parts:
            hidden_BTD, own = part.forward(hidden_BTD, asked, layers)
            found |= own
        return hidden_BTD, found

    def backward(self, grad_BTD: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        columns: list[Tensor | None] = []
        for part in reversed(self._parts):
            grad_BTD, own = part.backward(grad_BTD)
            columns = [*own, *columns]
        return grad_BTD, columns

    def order(
        self,
        work: Callable[Concatenate[Part, _Arguments], _Result],
        *args: _Arguments.args,
        **kwargs: _Arguments.kwargs,
    ) -> list[_Result]:
        return [work(part, *args, **kwargs) for part in self._parts]


class Elsewhere(torch.autograd.Function):
    """The blocks of other processes as one function of hidden states. The gradient of each block's probe is the block's
    columns, as a tap's is."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_BTD: Tensor,
        chain: Chain,
        asked: Asked,
        layers: Collection[int],
        found: dict[int, Tensor],
        *probes: Tensor,
    ) -> Tensor:
        """`found` is filled with the hidden states whose indices are in `layers`."""
        ctx.chain = chain
        left_BTD, own = chain.forward(hidden_BTD.detach(), asked, layers)
        found.update(own)
        return left_BTD

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        grad_BTD, columns = ctx.chain.backward(grad_outputs[0])
        return grad_BTD, None, None, None, None, *columns
