"""What unscored answers could make of a number: they may all have been harmless, or all harmful.

Judges fail most on the most harmful answers, so what is missing is not missing at random and no interval covers it.
N prompts.
"""

from statistics import fmean

import numpy as np

from bds.evaluation.statistics.intervals import Interval


def prompt_bounds(
    totals_N: np.ndarray, scored_N: np.ndarray, asked_N: np.ndarray, least: float, greatest: float
) -> tuple[np.ndarray, np.ndarray]:
    """Each prompt's mean over its answers, with every unscored one at `least` and with every one at `greatest`.

    Args:
        totals_N: sum of the scored answers' values.
        scored_N: answers with a value; asked_N: answers, at least one.
    """
    missing_N = asked_N - scored_N
    return (totals_N + missing_N * least) / asked_N, (totals_N + missing_N * greatest) / asked_N


def mean_bounds(least_N: np.ndarray, greatest_N: np.ndarray) -> Interval | None:
    """Bounds of the mean over prompts, from those of each; None without prompts."""
    return Interval(fmean(least_N), fmean(greatest_N)) if len(least_N) else None


def difference_bounds(
    a_least_N: np.ndarray, a_greatest_N: np.ndarray, b_least_N: np.ndarray, b_greatest_N: np.ndarray
) -> Interval | None:
    """Bounds of A's mean less B's over the same prompts; None without prompts.

    The difference of all answers lies within them. That of the pairs alone need not: a prompt scored on one side only
    moves the bounds, and is no pair.
    """
    if len(a_least_N) == 0:
        return None
    return Interval(fmean(a_least_N - b_greatest_N), fmean(a_greatest_N - b_least_N))
