"""Means of ratings and of shares within prompts: a bootstrap by category, and a test by flipping signs.

A rating (1 to 5), or the share of a prompt's several answers, is no count, so Wilson's and Newcombe's formulas are not
for it. The same seed gives the same numbers, in whatever order the values are.

N values, R resamples, L distinct values.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from bds.evaluation.statistics.intervals import Estimate, Interval, unvaried

BOOTSTRAP = "stratified bootstrap"
UNVARIED = "no spread, Wilson's bound"
PERMUTATION = "permutation test"

_NUMBERS_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Resampling:
    confidence: float = 0.95
    resamples: int = 10_000
    seed: int = 0


def rating_mean(
    values_N: np.ndarray, strata_N: np.ndarray, least: float, greatest: float, options: Resampling
) -> Estimate | None:
    """The mean of values between `least` and `greatest` with its percentile interval; None without values.

    Args:
        values_N: one value a prompt.
        strata_N: each value's category. Resamples keep the number of each.
    """
    if len(values_N) == 0:
        return None
    value = fmean(values_N)
    if not any(np.ptp(own) > 0 for own in _strata(values_N, strata_N)):
        return Estimate(value, unvaried(value, len(values_N), least, greatest, options.confidence), UNVARIED)
    tail = (1 - options.confidence) / 2
    low, high = np.quantile(resampled_means(values_N, strata_N, options), [tail, 1 - tail])
    return Estimate(value, Interval(float(low), float(high)).with_value(value), BOOTSTRAP)


def rating_difference(
    a_N: np.ndarray, b_N: np.ndarray, strata_N: np.ndarray, least: float, greatest: float, options: Resampling
) -> Estimate | None:
    """The mean of A's values less B's, prompt by prompt, with its interval and p; None without prompts.

    Args:
        a_N, b_N: one value a prompt, in the same order, each between `least` and `greatest`.
        strata_N: each prompt's category.
    """
    # Shares such as 2/3 - 1/3 and 1 - 2/3 are one difference.
    differences_N = np.round(a_N - b_N, 12)
    span = greatest - least
    found = rating_mean(differences_N, strata_N, -span, span, options)
    if found is None:
        return None
    p = sign_flip_p(differences_N, options)
    return Estimate(found.value, found.interval, f"{found.method}; {PERMUTATION}", p)


def resampled_means(values_N: np.ndarray, strata_N: np.ndarray, options: Resampling) -> np.ndarray:
    """Means of R resamples, (R,): of a category's n values n - 1 are drawn with replacement, means weighted by n/N.

    With n - 1 draws the variance over resamples is the unbiased one of a stratified mean, Σ (n/N)² s²/n, also where
    categories are small (Rao and Wu 1988, JASA 83:231). Categories of a single prompt are taken together.

    How often each distinct value is drawn is multinomial, which is the same as drawing the values one by one.
    """
    generator = np.random.default_rng(options.seed)
    means_R = np.zeros(options.resamples)
    for own in _strata(values_N, strata_N):
        values_L, counts_L = np.unique(own, return_counts=True)
        draws = max(len(own) - 1, 1)
        for start, stop in _slices(options.resamples, len(values_L)):
            drawn_RL = generator.multinomial(draws, counts_L / len(own), size=stop - start)
            means_R[start:stop] += len(own) / len(values_N) * (drawn_RL @ values_L) / draws
    return means_R


def sign_flip_p(differences_N: np.ndarray, options: Resampling) -> float | None:
    """Two-sided p of a mean difference of 0: the share of random sign flips whose sum is as far from 0.

    Without an effect A and B could be swapped at any prompt (Fisher 1935). (1 + found) / (1 + R), so never 0 (Phipson
    and Smyth 2010, SAGMB 9:39). 1 where nothing differs, None without prompts.
    """
    if len(differences_N) == 0:
        return None
    sizes_L, counts_L = np.unique(np.abs(differences_N[differences_N != 0]), return_counts=True)
    if len(sizes_L) == 0:
        return 1.0
    observed = abs(float(np.sum(np.sort(differences_N))))
    reached = observed - 1e-9 * float(sizes_L @ counts_L)
    generator = np.random.default_rng(options.seed)
    found = 0
    for start, stop in _slices(options.resamples, len(sizes_L)):
        kept_RL = generator.binomial(counts_L, 0.5, size=(stop - start, len(sizes_L)))
        found += int((np.abs((2 * kept_RL - counts_L) @ sizes_L) >= reached).sum())
    return (1 + found) / (1 + options.resamples)


def _strata(values_N: np.ndarray, strata_N: np.ndarray) -> Iterator[np.ndarray]:
    """The values of each category, those of single prompts together at the end."""
    names, places_N, counts = np.unique(strata_N, return_inverse=True, return_counts=True)
    for place in range(len(names)):
        if counts[place] > 1:
            yield values_N[places_N == place]
    single = values_N[counts[places_N] == 1]
    if len(single):
        yield single


def _slices(resamples: int, width: int) -> Iterator[tuple[int, int]]:
    """Parts of the resamples that fit into memory at once."""
    step = max(1, _NUMBERS_AT_ONCE // width)
    for start in range(0, resamples, step):
        yield start, min(start + step, resamples)
