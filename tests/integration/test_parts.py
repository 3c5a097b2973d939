"""The chain of part actors alone: what comes back from them, and exceptions as themselves."""

import functools
from collections.abc import Collection, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from bds.distributed.parts import RayChain, open_chain
from bds.distributed.scoring import WorkerPool
from bds.errors import PreflightError
from bds.scoring.gradients.queries import Asked

POOL = WorkerPool(1, cpus=1, gpus=0.0, memory=None, parts=3)


class Adding:
    """In the place of a part: adds a number, and fails where it is asked for a norm."""

    def __init__(self, number: int, error: Exception | None = None) -> None:
        if isinstance(error, PreflightError):
            raise error
        self.number, self.error = number, error

    def forward(self, hidden_BTD: Tensor, asked: Asked, layers: Collection[int]) -> tuple[Tensor, dict[int, Tensor]]:
        if asked is Asked.SQUARED_NORMS and self.error is not None:
            raise self.error
        return hidden_BTD + self.number, {self.number: hidden_BTD - self.number} if self.number in layers else {}

    def backward(self, grad_BTD: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        return grad_BTD * self.number, [torch.full((1, 1), float(self.number)), None]

    def times(self, factor: int) -> int:
        return self.number * factor


@pytest.fixture(scope="module")
def chain(ray_session: None) -> RayChain:
    return opened([functools.partial(Adding, 2, torch.OutOfMemoryError("no memory")), functools.partial(Adding, 5)])


def opened(loaders: Sequence[Any]) -> RayChain:
    return open_chain(POOL, loaders)


def test_tensors_go_through_the_parts_in_order_and_back(chain: RayChain) -> None:
    hidden_BTD = torch.zeros(1, 1, 1)
    left_BTD, found = chain.forward(hidden_BTD, Asked.NOTHING, [5])
    assert float(left_BTD) == 7
    assert {index: float(layer) for index, layer in found.items()} == {5: -3}
    entered_BTD, columns = chain.backward(torch.ones(1, 1, 1))
    assert float(entered_BTD) == 10
    assert [None if own is None else float(own) for own in columns] == [2, None, 5, None]
    work: Any = Adding.times
    assert chain.order(work, 3) == [6, 15]


def test_an_exception_of_a_part_comes_through_the_parts_after_it_as_itself(chain: RayChain) -> None:
    with pytest.raises(torch.OutOfMemoryError, match="no memory"):
        chain.forward(torch.zeros(1, 1, 1), Asked.SQUARED_NORMS, ())


def test_a_part_that_cannot_load_says_why(ray_session: None) -> None:
    broken = opened([functools.partial(Adding, 1, PreflightError("no weights")), functools.partial(Adding, 1)])
    with pytest.raises(PreflightError, match="no weights"):
        broken.forward(torch.zeros(1, 1, 1), Asked.NOTHING, ())
