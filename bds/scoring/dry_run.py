"""A pass over tensors of the meta device: shapes without numbers, and how many bytes are alive at any time of it.

What runs is the real code, so what it allocates is what it would allocate. Two things are supplied. Where it asks for a
number (how many positions are supervised, which tokens reach an expert), it gets the largest answer that a batch can
give. And attention is taken to be fused, because the device and not the meta device decides about it.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bds.errors import BdsError
from bds.runs.messages import first_line


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that operators make inside the context. Storages that were there before are free.

    Args:
        positions: the answer to every question for a number: the positions of a sample.
        experts: how many share the tokens of a mixture evenly; 1 where there is none.
    """

    def __init__(self, *, positions: int, experts: int = 1) -> None:
        super().__init__()
        self._positions, self._experts = positions, experts
        self._alive: dict[int, int] = {}
        self.now = 0
        self.peak = 0

    def keep(self, tensor: Tensor) -> None:
        """Counts the storage of a tensor until it is freed."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            return
        self._alive[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, key)

    def _freed(self, key: int) -> None:
        self.now -= self._alive.pop(key)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        before = {arg.untyped_storage()._cdata for arg in tree_leaves((args, kwargs)) if isinstance(arg, Tensor)}
        result = self._answer(func, args, kwargs or {})
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in before:
                self.keep(leaf)
        return result

    def _answer(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        match func.overloadpacket._qualified_op_name:
            case "aten::_local_scalar_dense":
                return True if args[0].dtype == torch.bool else self._positions
            case "aten::_unique2":
                found = args[0].new_empty(args[0].numel())
                return found, torch.empty_like(args[0]), found
            case "aten::nonzero":
                return args[0].new_empty(-(-args[0].numel() // self._experts), args[0].ndim, dtype=torch.long)
            case "aten::index" if args[1][0] is not None and args[1][0].dtype == torch.bool:
                rows, mask = args[0], args[1][0]
                return rows.new_empty(mask.numel(), *rows.shape[mask.ndim :])
            case "aten::bincount":
                return args[0].new_empty(kwargs.get("minlength", args[2] if len(args) > 2 else 0), dtype=torch.long)
            case "aten::_grouped_mm":
                # Its meta kernel refuses float32, which the CPU multiplies.
                left, right, ends = args[:3]
                groups = ends.shape if left.ndim == right.ndim == 2 else ()
                return left.new_empty(*groups, left.shape[-2], right.shape[-1])
        return func(*args, **kwargs)


@contextmanager
def fused_attention(device: str) -> Iterator[None]:
    """Attention as fused kernels keep it: queries, keys, values and output, and one float32 for every row of scores.

    Put in the place of torch's own, because a mode would not be asked for what checkpointing computes again.

    Args:
        device: where the pass is to run. On a GPU, float32 has no fused kernel for heads that share keys: torch then
            keeps the scores.
    """

    def attend(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Any:
        shared = key.shape[1] != query.shape[1]
        if device == "cuda" and shared and query.dtype == torch.float32:
            groups = query.shape[1] // key.shape[1]
            scores = query @ key.repeat_interleave(groups, 1).mT
            return scores.softmax(-1) @ value.repeat_interleave(groups, 1)
        return _Fused.apply(query, key, value)

    own = functional.scaled_dot_product_attention
    functional.scaled_dot_product_attention = attend
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = own


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        # Laid out as the kernels do it, so that the copies that follow are theirs: positions before heads.
        samples, heads, positions, _ = query.shape
        output = query.new_empty(samples, positions, heads, value.shape[-1]).transpose(1, 2)
        row_sums = query.new_empty(samples, heads, positions, dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, row_sums)
        return output

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, ...]:
        query, key, value, _, _ = ctx.saved_tensors
        # Kernels sum in float32 and for every head apart; alive until the gradients are made.
        _sums = [torch.empty_like(query, dtype=torch.float32) for _ in range(3)]
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


class UnknownMemoryError(Exception):
    """A model whose passes cannot be run dry. It may run all the same."""


@contextmanager
def dry_run(device: str, *, positions: int, experts: int = 1) -> Iterator[LiveBytes]:
    """A context for passes over tensors of the meta device.

    Raises UnknownMemoryError for whatever in them needs numbers; errors of bds come through.
    """
    try:
        with fused_attention(device), LiveBytes(positions=positions, experts=experts) as alive:
            yield alive
    except BdsError:
        raise
    except Exception as error:  # a model's own code may fail in any way where it looks for numbers
        raise UnknownMemoryError(f"{type(error).__name__}: {first_line(error)}") from error


def experts_of(model: nn.Module) -> int:
    """How many experts share the tokens of a mixture; 1 where there is none."""
    return max((int(getattr(module, "num_experts", 1)) for module in model.modules()), default=1)
