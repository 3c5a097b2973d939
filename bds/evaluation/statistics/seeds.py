"""Seeds as the outer level: each fine-tune is one observation, whatever the number of prompts it answered.

What is concluded of prompts alone holds for one checkpoint. Three seeds are the least that says something; five are
better. S values, one a seed.
"""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from scipy import stats

from bds.evaluation.statistics.intervals import Interval

ONE_SEED = "one seed: this checkpoint only"
SEEDS_ALIKE = "all seeds alike"
"""Before the method that is used instead of one over seeds, whose interval would have no width."""

_ALIKE = 1e-12


def spread(values: Sequence[float]) -> float | None:
    """The standard deviation (S - 1); None for fewer than two values, and where they are all alike.

    Seeds that happen to agree tell no variance: an interval of no width would claim certainty.
    """
    if len(values) < 2 or max(values) - min(values) <= _ALIKE:
        return None
    return stdev(values)


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """mean ± t(S - 1) sd / √S (Student 1908); None where `spread` is."""
    deviation = spread(values)
    if deviation is None:
        return None
    quantile = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1))
    half = quantile * deviation / math.sqrt(len(values))
    return Interval(fmean(values) - half, fmean(values) + half)


def t_test(values: Sequence[float]) -> float | None:
    """Two-sided p of a mean of 0 by the t distribution with S - 1 degrees of freedom; None where `spread` is."""
    deviation = spread(values)
    if deviation is None:
        return None
    ratio = fmean(values) / (deviation / math.sqrt(len(values)))
    return 2 * float(stats.t.sf(abs(ratio), len(values) - 1))


def welch_error(a: Sequence[float], b: Sequence[float]) -> tuple[float, float] | None:
    """Standard error of mean(a) - mean(b) and its degrees of freedom (Welch 1947, Biometrika 34:28).

    SE² = vA + vB with v = sd²/S; freedom = SE⁴ / (vA²/(SA - 1) + vB²/(SB - 1)). None for fewer than two values on a
    side, and where neither side varies.
    """
    if min(len(a), len(b)) < 2:
        return None
    of_a, of_b = (spread(a) or 0.0) ** 2 / len(a), (spread(b) or 0.0) ** 2 / len(b)
    if of_a + of_b == 0:
        return None
    freedom = (of_a + of_b) ** 2 / (of_a**2 / (len(a) - 1) + of_b**2 / (len(b) - 1))
    return math.sqrt(of_a + of_b), freedom


def welch_interval(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """mean(a) - mean(b) ± t SE; None where `welch_error` is."""
    error = welch_error(a, b)
    if error is None:
        return None
    half = float(stats.t.ppf((1 + confidence) / 2, error[1])) * error[0]
    return Interval(fmean(a) - fmean(b) - half, fmean(a) - fmean(b) + half)


def welch_test(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Two-sided p of equal means; None where `welch_error` is."""
    error = welch_error(a, b)
    if error is None:
        return None
    return 2 * float(stats.t.sf(abs(fmean(a) - fmean(b)) / error[0], error[1]))
