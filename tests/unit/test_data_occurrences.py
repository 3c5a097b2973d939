"""Repeats are counted as a dictionary counts them, in a fraction of its memory."""

import random
from collections import Counter

from bds.data.occurrences import Occurrences


def test_it_counts_as_a_dictionary_does() -> None:
    draw = random.Random(0)
    few = [0, 1, 2, (1 << 64) - 1, 1 << 63]
    keys = [draw.choice(few) if draw.random() < 0.2 else draw.getrandbits(64) for _ in range(30_000)]
    keys += draw.sample(keys, 5_000)
    counted, expected = Occurrences(), Counter[int]()
    for key in keys:
        assert counted.before(key) == expected[key]
        expected[key] += 1


def test_a_key_that_comes_once_takes_less_than_24_bytes() -> None:
    counted = Occurrences()
    draw = random.Random(0)
    for _ in range(100_000):
        counted.before(draw.getrandbits(64))
    assert len(counted._slots) * counted._slots.itemsize < 24 * 100_000
    assert not counted._repeats
