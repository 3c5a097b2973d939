"""The difference of two sides on the same prompts: within prompts for one seed, over seeds for several."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import NamedTuple

import numpy as np

from bds.evaluation.prompt_values import PromptValues, complete, on_common_prompts
from bds.evaluation.statistics.bounds import difference_bounds
from bds.evaluation.statistics.intervals import Interval
from bds.evaluation.statistics.paired import mcnemar_mid_p, newcombe, paired_counts
from bds.evaluation.statistics.power import minimum_detectable, minimum_detectable_over_seeds
from bds.evaluation.statistics.ratings import rating_difference
from bds.evaluation.statistics.seeds import (
    SEEDS_ALIKE,
    spread,
    t_interval,
    t_test,
    welch_error,
    welch_interval,
    welch_test,
)
from bds.evaluation.study import Arm, Options, paired_arms

NEWCOMBE = "Newcombe; McNemar mid-p"


class Side(NamedTuple):
    """One condition of a side."""

    arm: Arm
    values: PromptValues


Pair = tuple[PromptValues, PromptValues]
"""A condition of A and one of B, on the prompts that both have scored."""


@dataclass(frozen=True)
class Difference:
    """Side A less side B, as metrics.json tells it. None is not measured."""

    prompts: int = 0
    """Pairs: prompts scored on both sides, with every seed."""
    seeds: int = 0
    """Differences that the estimate is the mean of; of sides that do not pair, conditions of the smaller side."""
    value_a: float | None = None
    value_b: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    method: str | None = None
    p: float | None = None
    only_a: int | None = None
    """Prompts that are 1 with A alone; None for ratings, for several answers to a prompt and for several seeds."""
    only_b: int | None = None
    minimum_detectable: float | None = None
    worst_low: float | None = None
    """Bounds of the difference over all prompts, whatever the unscored answers were."""
    worst_high: float | None = None
    unscored_a: int = 0
    """Prompts without a value, summed over the conditions of the side."""
    unscored_b: int = 0


def difference(a: Sequence[Side], b: Sequence[Side], options: Options) -> Difference:
    """What A's conditions have more than B's, by what their seeds allow.

    A side of one condition pairs with each condition of the other. Sides of several pair by seed where they share two
    seeds or more, and other conditions are left out. A single pair is compared within prompts: counts by Newcombe and
    McNemar, ratings by bootstrap and permutation. Several pairs give one difference each, and the t distribution over
    these. Sides of several conditions that do not pair are compared by Welch's t.

    Args:
        a, b: the conditions, all of one series; none where a side was not measured.
    """
    if not a or not b:
        return Difference()
    of_a, of_b = ({side.arm: side.values for side in sides} for sides in (a, b))
    pairs = paired_arms(list(of_a), list(of_b))
    if pairs is None:
        found = _unpaired(list(of_a.values()), list(of_b.values()), options)
        pairs = list(itertools.product(of_a, of_b))
    else:
        found = _paired([_scored(of_a[one], of_b[other]) for one, other in pairs], options)
    worst = _bounds([(of_a[one], of_b[other]) for one, other in pairs])
    return replace(
        found,
        worst_low=None if worst is None else worst.low,
        worst_high=None if worst is None else worst.high,
        unscored_a=sum(of_a[arm].unscored for arm in {one for one, _ in pairs}),
        unscored_b=sum(of_b[arm].unscored for arm in {other for _, other in pairs}),
    )


def _scored(a: PromptValues, b: PromptValues) -> Pair:
    first, second = complete([a, b])
    return first, second


def _bounds(pairs: Sequence[tuple[PromptValues, PromptValues]]) -> Interval | None:
    """The mean over pairs of conditions; None where a pair was asked nothing in common."""
    found = []
    for first, second in pairs:
        a, b = on_common_prompts(first, second)
        bounds = difference_bounds(a.least, a.greatest, b.least, b.greatest)
        if bounds is None:
            return None
        found.append(bounds)
    return Interval(fmean(each.low for each in found), fmean(each.high for each in found))


def _paired(pairs: Sequence[Pair], options: Options) -> Difference:
    scored = [pair for pair in pairs if pair[0].scored]
    if not scored:
        return Difference()
    if len(scored) == 1:
        return _within_prompts(*scored[0], options)
    sides = [a for a, _ in scored], [b for _, b in scored]
    differences = [fmean(a.values - b.values) for a, b in scored]
    found = _means(*sides, fmean(differences), seeds=len(scored))
    deviation = spread(differences)
    if deviation is None:
        return _averaged(found, *sides, options)
    error = deviation / math.sqrt(len(scored))
    return _with_test(
        replace(found, minimum_detectable=minimum_detectable_over_seeds(error, len(scored) - 1, options.confidence)),
        _possible(t_interval(differences, options.confidence), sides[0][0]),
        f"t over {len(scored)} seeds",
        t_test(differences),
    )


def _within_prompts(a: PromptValues, b: PromptValues, options: Options) -> Difference:
    """One condition each, the arrays of the same prompts."""
    mean_square = fmean((a.values - b.values) ** 2)
    found = replace(
        _means([a], [b], fmean(a.values - b.values), seeds=1),
        minimum_detectable=minimum_detectable(mean_square, len(a.prompts), options.confidence),
    )
    if a.is_count and b.is_count:
        counts = paired_counts(a.values, b.values)
        found = replace(found, only_a=counts.only_a, only_b=counts.only_b)
        return _with_test(found, newcombe(counts, options.confidence), NEWCOMBE, mcnemar_mid_p(counts))
    rated = rating_difference(a.values, b.values, a.categories, *a.range, options.resampling)
    assert rated is not None, "there are pairs"
    return _with_test(found, rated.interval, rated.method, rated.p)


def _unpaired(a: Sequence[PromptValues], b: Sequence[PromptValues], options: Options) -> Difference:
    """Seeds of A and other seeds of B, on the prompts that all of them have scored."""
    a, b = ([each for each in side if each.scored] for side in (a, b))
    if min(len(a), len(b)) < 2:
        return _paired([_scored(one, other) for one in a for other in b], options)
    alike = complete([*a, *b])
    if not alike[0].scored:
        return Difference()
    sides = alike[: len(a)], alike[len(a) :]
    means_a, means_b = ([fmean(each.values) for each in side] for side in sides)
    found = _means(*sides, fmean(means_a) - fmean(means_b), seeds=min(len(a), len(b)))
    error = welch_error(means_a, means_b)
    if error is None:
        return _averaged(found, *sides, options)
    return _with_test(
        replace(found, minimum_detectable=minimum_detectable_over_seeds(*error, options.confidence)),
        _possible(welch_interval(means_a, means_b, options.confidence), alike[0]),
        f"Welch's t over {len(a)} and {len(b)} seeds",
        welch_test(means_a, means_b),
    )


def _averaged(found: Difference, a: Sequence[PromptValues], b: Sequence[PromptValues], options: Options) -> Difference:
    """Of seeds that do not vary only the prompts are left to: each is averaged over the seeds of a side."""
    alike = complete([*a, *b])
    of_a, of_b = (np.mean([each.values for each in side], axis=0) for side in (alike[: len(a)], alike[len(a) :]))
    rated = rating_difference(of_a, of_b, alike[0].categories, *alike[0].range, options.resampling)
    if rated is None or rated.interval is None or found.difference is None:
        return replace(found, method=SEEDS_ALIKE)
    mean_square = fmean((of_a - of_b) ** 2)
    return _with_test(
        replace(found, minimum_detectable=minimum_detectable(mean_square, len(of_a), options.confidence)),
        rated.interval.with_value(found.difference),
        f"{SEEDS_ALIKE}: {rated.method}",
        rated.p,
    )


def _means(a: Sequence[PromptValues], b: Sequence[PromptValues], value: float, seeds: int) -> Difference:
    return Difference(
        prompts=len(complete([*a, *b])[0].prompts),
        seeds=seeds,
        value_a=fmean(fmean(each.values) for each in a),
        value_b=fmean(fmean(each.values) for each in b),
        difference=value,
    )


def _with_test(found: Difference, interval: Interval | None, method: str, p: float | None) -> Difference:
    low, high = (None, None) if interval is None else interval
    return replace(found, low=low, high=high, method=method, p=p)


def _possible(interval: Interval | None, values: PromptValues) -> Interval | None:
    """The part of an interval in which a difference of such values can lie."""
    span = values.range[1] - values.range[0]
    return None if interval is None else interval.within(-span, span)
