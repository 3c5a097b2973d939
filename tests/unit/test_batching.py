"""Length batches and halving on memory errors."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from bds.scoring.batching import halving, length_batches


@given(st.lists(st.integers(0, 500), max_size=60), st.integers(1, 2000))
def test_every_row_is_in_exactly_one_batch_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = length_batches(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[index] for index in batch) * len(batch) <= budget


def test_the_longest_batch_comes_first_and_ties_keep_their_order() -> None:
    assert length_batches([3, 9, 3, 9, 1], 18) == [[1, 3], [0, 2, 4]]


def test_memory_errors_halve_a_batch_until_its_rows_fit() -> None:
    calls: list[list[int]] = []

    def run(batch: list[int]) -> list[int]:
        calls.append(batch)
        if sum(batch) > 10:
            raise torch.OutOfMemoryError("out of memory")
        return [value * 2 for value in batch]

    assert halving(run, [3, 4, 5, 20, 1]) == [6, 8, 10, None, 2]
    assert calls == [[3, 4, 5, 20, 1], [3, 4], [5, 20, 1], [5], [20, 1], [20], [1]]
