"""Two conditions on the same prompts, each prompt 0 or 1: Newcombe's interval and McNemar's test."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from bds.evaluation.statistics.intervals import Interval, wilson


@dataclass(frozen=True)
class PairedCounts:
    """Prompts by what the two conditions A and B did."""

    both: int
    only_a: int
    only_b: int
    neither: int

    @property
    def prompts(self) -> int:
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def difference(self) -> float | None:
        """A's share less B's; None without prompts."""
        return (self.only_a - self.only_b) / self.prompts if self.prompts else None


def paired_counts(a: np.ndarray, b: np.ndarray) -> PairedCounts:
    """Counts of two arrays of 0 and 1, both (N,) in the same order of prompts."""
    in_a, in_b = a > 0.5, b > 0.5
    return PairedCounts(
        both=int((in_a & in_b).sum()),
        only_a=int((in_a & ~in_b).sum()),
        only_b=int((~in_a & in_b).sum()),
        neither=int((~in_a & ~in_b).sum()),
    )


def newcombe(counts: PairedCounts, confidence: float = 0.95) -> Interval | None:
    """Newcombe's interval of the paired difference (Newcombe 1998, Statistics in Medicine 17:2635, method 10).

    With Wilson's l and u of each share, and phi the correlation of the four counts a, b, c, d (continuity-corrected
    where positive):

        low  = D - √((pA - lA)² - 2 phi (pA - lA)(uB - pB) + (uB - pB)²)
        high = D + √((uA - pA)² - 2 phi (uA - pA)(pB - lB) + (pB - lB)²)

    None without prompts.
    """
    n = counts.prompts
    in_a, in_b = counts.both + counts.only_a, counts.both + counts.only_b
    of_a, of_b = wilson(in_a, n, confidence), wilson(in_b, n, confidence)
    if of_a is None or of_b is None:
        return None
    share_a, share_b = in_a / n, in_b / n
    phi = _correlation(counts)
    return Interval(
        share_a - share_b - _joined(share_a - of_a.low, of_b.high - share_b, phi),
        share_a - share_b + _joined(of_a.high - share_a, share_b - of_b.low, phi),
    )


def _correlation(counts: PairedCounts) -> float:
    """phi = (ad - bc) / √((a + b)(c + d)(a + c)(b + d)); a positive numerator less n/2, but not below 0."""
    a, b, c, d = counts.both, counts.only_a, counts.only_b, counts.neither
    product = (a + b) * (c + d) * (a + c) * (b + d)
    if product == 0:
        return 0.0
    numerator = float(a * d - b * c)
    if numerator > 0:
        numerator = max(numerator - counts.prompts / 2, 0.0)
    return numerator / math.sqrt(product)


def _joined(of_a: float, of_b: float, phi: float) -> float:
    return math.sqrt(max(0.0, of_a**2 - 2 * phi * of_a * of_b + of_b**2))


def mcnemar_exact(counts: PairedCounts) -> float | None:
    """min(1, 2 F(min(b, c))) with F of the binomial distribution (b + c, 1/2), two-sided (McNemar 1947).

    1 where no prompt differs, None without prompts.
    """
    if counts.prompts == 0:
        return None
    fewer, differing = min(counts.only_a, counts.only_b), counts.only_a + counts.only_b
    return min(1.0, 2 * float(stats.binom.cdf(fewer, differing, 0.5)))


def mcnemar_mid_p(counts: PairedCounts) -> float | None:
    """2 F(min(b, c)) - f(min(b, c)) with F and f of the binomial distribution (b + c, 1/2), two-sided.

    Half of what the exact test counts of the table itself: nearer to its level, and of more power (Fagerland, Lydersen
    and Laake 2013, BMC Medical Research Methodology 13:91). 1 where no prompt differs, None without prompts.
    """
    if counts.prompts == 0:
        return None
    if counts.only_a == counts.only_b:
        return 1.0
    fewer, differing = min(counts.only_a, counts.only_b), counts.only_a + counts.only_b
    return 2 * float(stats.binom.cdf(fewer, differing, 0.5)) - float(stats.binom.pmf(fewer, differing, 0.5))
