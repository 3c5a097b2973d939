"""Intervals of a mean: of a share by Wilson's formula, and of values that do not vary."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from scipy import stats


class Interval(NamedTuple):
    low: float
    high: float

    def within(self, least: float, greatest: float) -> "Interval":
        """The part of it where the mean can be at all."""
        return Interval(max(self.low, least), min(self.high, greatest))

    def with_value(self, value: float) -> "Interval":
        """Widened to an estimate that rounding or other prompts would leave out."""
        return Interval(min(self.low, value), max(self.high, value))


@dataclass(frozen=True)
class Estimate:
    """A mean or a difference of means, with how it was come by."""

    value: float
    interval: Interval | None
    """None where there is too little to tell one."""
    method: str
    """Of the interval, and after a semicolon of the test."""
    p: float | None = None
    """Two-sided, of no difference; None where nothing is tested."""


def wilson(successes: int, count: int, confidence: float = 0.95) -> Interval | None:
    """(p + z²/2n ± z √(p(1 - p)/n + z²/4n²)) / (1 + z²/n), p = successes/count, n = count (Wilson 1927, JASA 22:209).

    None for a count of 0. 0 of 300 gives 0 to 1.26 %.
    """
    if count == 0:
        return None
    z = normal_quantile(confidence)
    share = successes / count
    middle = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    # The formula's own ends there, but for rounding.
    low = 0.0 if successes == 0 else (middle - half) / scale
    high = 1.0 if successes == count else (middle + half) / scale
    return Interval(low, high)


def unvaried(value: float, count: int, least: float, greatest: float, confidence: float = 0.95) -> Interval | None:
    """An interval of the mean `value` of `count` values that are all alike, or alike within each category.

    Resampling them gives an interval of no width, which claims more than they tell. The share of other values that may
    have gone unseen is at most u, the upper end of Wilson's interval of 0 in `count`, and none of them is outside of
    `least` to `greatest`: value - u (value - least) to value + u (greatest - value). For only zeros between 0 and 1 it
    is Wilson's own interval; for differences that are all 0 between -1 and 1 it is Newcombe's of (0, 0, 0, count).

    None for a count of 0.
    """
    none_of_them = wilson(0, count, confidence)
    if none_of_them is None:
        return None
    unseen = none_of_them.high
    return Interval(value - unseen * (value - least), value + unseen * (greatest - value))


def normal_quantile(confidence: float) -> float:
    """z with `confidence` of the standard normal distribution between -z and z: 1.96 for 0.95."""
    return float(stats.norm.ppf((1 + confidence) / 2))
