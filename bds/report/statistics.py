"""The few statistics a report needs, as pure functions. What cannot be measured is None, never 0."""

import math
from collections.abc import Iterable

import numpy as np
import polars as pl

OUTLIER_Z = 3.5
"""Modified z-score, 0.6745 (x - median) / MAD, above which a score stands apart (Iglewicz and Hoaglin 1993)."""

MINIMUM_ROWS = 20
"""Fewer scored rows than this say nothing about a distribution's tail."""


def measured(values: pl.Series) -> pl.Series:
    """The values that are finite numbers: without nulls, NaN and infinities."""
    numbers = values.cast(pl.Float64)
    return numbers.filter(numbers.is_finite())


def outlier_threshold(values: pl.Series) -> float | None:
    """The score whose modified z-score is OUTLIER_Z; None for too few rows or where half of them are one value."""
    numbers = measured(values)
    if len(numbers) < MINIMUM_ROWS:
        return None
    median = float(np.median(numbers.to_numpy()))
    deviation = float(np.median(np.abs(numbers.to_numpy() - median)))
    return median + OUTLIER_Z * deviation / 0.6745 if deviation > 0 else None


def spearman(left: pl.Series, right: pl.Series) -> float | None:
    """Rank correlation with average ranks for ties, over the rows that have both values.

    None for fewer than three such rows, or where one side is constant.
    """
    pairs = pl.DataFrame({"left": left.cast(pl.Float64), "right": right.cast(pl.Float64)})
    pairs = pairs.filter(pl.all_horizontal(pl.all().is_finite()))
    if len(pairs) < 3 or pairs["left"].n_unique() == 1 or pairs["right"].n_unique() == 1:
        return None
    ranks = pairs.select(pl.all().rank("average")).to_numpy()
    return float(np.corrcoef(ranks, rowvar=False)[0, 1])


def overlap(left: Iterable[int], right: Iterable[int]) -> float | None:
    """Rows in both, as a share of the smaller set; None where one is empty."""
    left, right = set(left), set(right)
    smaller = min(len(left), len(right))
    return len(left & right) / smaller if smaller else None


def random_draw_interval(
    population: int, marked: int, draws: int, coverage: float = 0.95
) -> tuple[float, float] | None:
    """Where the share of marked rows lies in at least `coverage` of the random draws without replacement.

    The equal-tailed interval of the hypergeometric distribution, as shares of `draws`; None for no draws.
    """
    if not 0 < draws <= population:
        return None
    lowest, highest = max(0, draws - (population - marked)), min(draws, marked)
    log_weights = [
        _log_choose(marked, count) + _log_choose(population - marked, draws - count)
        for count in range(lowest, highest + 1)
    ]
    weights = np.exp(np.array(log_weights) - max(log_weights))
    cumulative = np.cumsum(weights) / weights.sum()
    tail = (1 - coverage) / 2
    low = lowest + int(np.searchsorted(cumulative, tail))
    high = lowest + int(np.searchsorted(cumulative, 1 - tail))
    return low / draws, min(high, highest) / draws


def _log_choose(total: int, chosen: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)


def held_by_largest(values: pl.Series, share_of_rows: float) -> tuple[int, float] | None:
    """How many rows the largest `share_of_rows` are (rounded up), and the share of the positive total they hold."""
    positive = measured(values).clip(lower_bound=0.0)
    total = float(positive.sum())
    if not total > 0:
        return None
    rows = math.ceil(share_of_rows * len(positive) - 1e-9)
    return rows, float(positive.sort(descending=True).head(rows).sum()) / total
