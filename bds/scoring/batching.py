"""Batches by length: sorted, within a budget of padded tokens, and halved where memory runs out."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

Result = TypeVar("Result")


def length_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Indices in batches of similar length, longest first, so that a batch too large for memory shows at once.

    Every batch satisfies longest * rows <= token_budget, except that a row longer than the budget is a batch of its
    own. Depends on the lengths alone: the same rows always share a batch, whichever worker scores them.
    """
    batches: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        if batches and longest * (len(batches[-1]) + 1) <= token_budget:
            batches[-1].append(index)
        else:
            batches.append([index])
            longest = max(1, lengths[index])
    return batches


def halving(run: Callable[[list[int]], list[Result]], batch: list[int]) -> list[Result | None]:
    """`run(batch)`; where memory runs out, the two halves one after the other, down to single rows.

    Returns:
        One result a row, None for a row that does not fit even alone.
    """
    try:
        return list(run(batch))
    except torch.OutOfMemoryError:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    if len(batch) == 1:
        return [None]
    middle = len(batch) // 2
    return halving(run, batch[:middle]) + halving(run, batch[middle:])
