"""Taps: every module in scope passes its output through an identity that hands its gradient columns to a probe.

A probe is a leaf [B, C] of zeros, the second input of a tap. The backward of a tap returns the query's columns of that
module as "the gradient of the probe", and autograd adds them up over the modules that share the probe.

Shapes: B samples, C columns.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bds.errors import PreflightError
from bds.scoring.gradients.experts import replaced_forward, tapped_experts_forward, tapped_router_forward
from bds.scoring.gradients.modules import Coverage, Source, linear_source
from bds.scoring.gradients.queries import Query
from bds.scoring.layers import decoder_blocks


@dataclass(frozen=True)
class Places:
    """Where parameters stand: in decoder block i (place i + 1), or around the blocks (place 0).

    A place has its own probe, and a sample's columns are the sum over places in order. So the sum is the same to the
    bit however the blocks are spread over processes.
    """

    count: int
    of_parameter: Mapping[str, int]

    def probes(self, samples: int, columns: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        """A probe [B, C] for every place."""
        return [
            torch.zeros(samples, columns, dtype=dtype, device=device, requires_grad=True) for _ in range(self.count)
        ]


def places_of(model: nn.Module) -> Places:
    """One place for all parameters where the decoder blocks are in no list that bds finds."""
    try:
        blocks = list(decoder_blocks(model))
    except PreflightError:
        blocks = []
    place = {id(parameter): index + 1 for index, block in enumerate(blocks) for parameter in block.parameters()}
    return Places(len(blocks) + 1, {name: place.get(id(own), 0) for name, own in model.named_parameters()})


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


@contextmanager
def tapped(coverage: Coverage, query: Query, probe_of: Callable[[str], Tensor], samples: int) -> Iterator[None]:
    """Taps on every module that `coverage` names, for the time of a forward pass.

    Args:
        probe_of: the probe of a parameter's place, by the parameter's name.
        samples: rows of the batch.
    """

    def hook(source: Source) -> Callable[..., Tensor]:
        def tap(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return _Tap.apply(
                output,
                probe_of(source.parameters[0]),
                inputs[0].detach(),
                lambda seen, grads: source.contribution(query, seen, grads, samples),
            )

        return tap

    def tap_rows(
        output: Tensor, rows: Tensor, pad: Callable[[Tensor], Tensor], parameter: str, transposed: bool
    ) -> Tensor:
        return _Tap.apply(
            output,
            probe_of(parameter.partition("#")[0]),
            rows.detach(),
            lambda seen, grads: query.linear(parameter, pad(seen), pad(grads), transposed),
        )

    with ExitStack() as stack:
        for source in coverage.sources:
            handle = source.module.register_forward_hook(hook(source))
            stack.callback(handle.remove)
        for name, experts in coverage.experts.items():
            stack.enter_context(replaced_forward(experts, tapped_experts_forward(experts, name, samples, tap_rows)))
        for name, router in coverage.routers.items():
            source = linear_source(router, name, None)

            def tap_linear(output: Tensor, inputs: Tensor, source: Source = source) -> Tensor:
                return hook(source)(source.module, (inputs,), output)

            stack.enter_context(replaced_forward(router, tapped_router_forward(router, tap_linear)))
        yield
