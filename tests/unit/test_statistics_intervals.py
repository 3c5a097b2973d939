"""Intervals, paired comparisons and bounds: golden values, scipy, and what must hold of any counts."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bds.evaluation.statistics.agreement import Agreement, agreement
from bds.evaluation.statistics.bounds import difference_bounds, mean_bounds, prompt_bounds
from bds.evaluation.statistics.intervals import Interval, normal_quantile, unvaried, wilson
from bds.evaluation.statistics.noninferiority import is_not_inferior
from bds.evaluation.statistics.paired import (
    PairedCounts,
    mcnemar_exact,
    mcnemar_mid_p,
    newcombe,
    paired_counts,
)

CELLS = st.integers(0, 40)
COUNTS = st.builds(PairedCounts, CELLS, CELLS, CELLS, CELLS).filter(lambda counts: counts.prompts > 0)
CONFIDENCES = st.floats(0.6, 0.999)


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"), [(0, 300, 0, 0.0126), (0, 30, 0, 0.114), (15, 30, 0.33, 0.67)]
)
def test_wilson_golden_values(successes: int, count: int, low: float, high: float) -> None:
    assert wilson(successes, count) == pytest.approx((low, high), abs=0.002)


@given(st.integers(1, 400), st.floats(0, 1), CONFIDENCES)
def test_wilson_is_scipys_and_holds_the_share(count: int, part: float, confidence: float) -> None:
    successes = round(part * count)
    found = wilson(successes, count, confidence)
    expected = stats.binomtest(successes, count).proportion_ci(confidence, method="wilson")
    assert found == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found is not None
    assert 0 <= found.low <= successes / count <= found.high <= 1


def test_nothing_has_no_interval() -> None:
    nobody = PairedCounts(0, 0, 0, 0)
    assert wilson(0, 0) is None
    assert unvaried(0.0, 0, 0, 1) is None
    assert (nobody.difference, newcombe(nobody), mcnemar_exact(nobody), mcnemar_mid_p(nobody)) == (None,) * 4
    empty = np.array([])
    assert mean_bounds(empty, empty) is None
    assert difference_bounds(empty, empty, empty, empty) is None
    assert agreement(empty, empty) == Agreement(0, None, None)
    assert is_not_inferior(None, 0.02, higher_is_better=True) is None


def test_values_that_do_not_vary_have_wilsons_and_newcombes_intervals() -> None:
    assert unvaried(0.0, 300, 0, 1) == pytest.approx(wilson(0, 300))
    assert unvaried(1.0, 300, 0, 1) == pytest.approx(wilson(300, 300))
    assert unvaried(0.0, 30, -1, 1) == pytest.approx(newcombe(PairedCounts(0, 0, 0, 30)))
    ones = wilson(0, 30)
    assert ones is not None
    assert unvaried(1.0, 30, 1, 5) == pytest.approx((1, 1 + 4 * ones.high)), "on a scale of 1 to 5"


@pytest.mark.parametrize(
    ("counts", "difference", "low", "high", "exact", "mid_p"),
    [
        ((10, 40, 5, 245), 0.1167, 0.0752, 0.1615, 7.88e-8, 4.41e-8),
        ((20, 12, 2, 16), 0.2, 0.0562, 0.3292, 0.01294, 0.00739),
        ((0, 0, 0, 30), 0, -0.1135, 0.1135, 1, 1),
    ],
)
def test_paired_golden_values(
    counts: tuple[int, int, int, int], difference: float, low: float, high: float, exact: float, mid_p: float
) -> None:
    found = PairedCounts(*counts)
    assert found.difference == pytest.approx(difference, abs=5e-5)
    assert newcombe(found) == pytest.approx((low, high), abs=5e-5)
    assert mcnemar_exact(found) == pytest.approx(exact, rel=2e-3)
    assert mcnemar_mid_p(found) == pytest.approx(mid_p, rel=2e-3)


@given(COUNTS, CONFIDENCES)
def test_newcombe_holds_the_difference_and_a_swap_negates_it(counts: PairedCounts, confidence: float) -> None:
    found = newcombe(counts, confidence)
    swapped = newcombe(PairedCounts(counts.both, counts.only_b, counts.only_a, counts.neither), confidence)
    assert found is not None
    assert swapped is not None
    assert counts.difference is not None
    assert -1 - 1e-12 <= found.low <= counts.difference <= found.high <= 1 + 1e-12
    assert found == pytest.approx((-swapped.high, -swapped.low), abs=1e-12)


@given(COUNTS)
def test_mcnemar_is_scipys_binomial_test_and_mid_p_takes_half_of_the_table_itself(counts: PairedCounts) -> None:
    differing = counts.only_a + counts.only_b
    expected = stats.binomtest(counts.only_a, differing).pvalue if differing else 1.0
    exact, mid_p = mcnemar_exact(counts), mcnemar_mid_p(counts)
    assert exact is not None
    assert mid_p is not None
    assert exact == pytest.approx(expected)
    own = math.comb(differing, counts.only_a) / 2**differing
    assert mid_p == pytest.approx(min(1.0, exact - own) if counts.only_a != counts.only_b else 1.0)
    assert 0 < mid_p <= exact <= 1


def test_counts_of_two_arrays() -> None:
    a, b = np.array([1.0, 1, 1, 0, 0, 0, 0]), np.array([1.0, 0, 0, 1, 0, 0, 0])
    assert paired_counts(a, b) == PairedCounts(both=1, only_a=2, only_b=1, neither=3)


def test_newcombe_covers_what_it_promises() -> None:
    """Exactly, over every table of 20 pairs whose shares are 0.25 and 0.15, correlated: 95 % or nearly so."""
    pairs, cells = 20, np.array([0.1, 0.15, 0.05, 0.7])
    tables = [
        (both, a, b, pairs - both - a - b)
        for both in range(pairs + 1)
        for a in range(pairs + 1 - both)
        for b in range(pairs + 1 - both - a)
    ]
    chances = stats.multinomial.pmf(tables, pairs, cells)
    covered = 0.0
    for table, chance in zip(tables, chances, strict=True):
        if chance > 1e-7:
            interval = newcombe(PairedCounts(*table))
            assert interval is not None
            covered += chance * (interval.low <= 0.1 <= interval.high)
    assert 0.93 < covered < 0.99


def test_unscored_answers_may_be_anything_between_the_bounds() -> None:
    """Three prompts of two answers on a scale of 1 to 5: both scored, one scored, none."""
    least, greatest = prompt_bounds(np.array([6.0, 4.0, 0.0]), np.array([2, 1, 0]), np.array([2, 2, 2]), 1, 5)
    assert least.tolist() == [3, 2.5, 1]
    assert greatest.tolist() == [3, 4.5, 5]
    assert mean_bounds(least, greatest) == pytest.approx((6.5 / 3, 12.5 / 3))
    same = np.array([3.0, 3, 3])
    assert difference_bounds(least, greatest, same, same) == pytest.approx((6.5 / 3 - 3, 12.5 / 3 - 3))


@pytest.mark.parametrize(
    ("interval", "higher_is_better", "holds"),
    [
        ((-0.019, 0.5), True, True),
        ((-0.021, 0.5), True, False),
        ((-0.5, 0.019), False, True),
        ((-0.5, 0.021), False, False),
        ((-0.02, 0.02), True, False),
    ],
)
def test_only_an_interval_within_the_margin_shows_that_nothing_is_lost(
    interval: tuple[float, float], higher_is_better: bool, holds: bool
) -> None:
    assert is_not_inferior(Interval(*interval), 0.02, higher_is_better=higher_is_better) is holds


def test_kappa_by_hand() -> None:
    """Cohen's table: 20 both, 5 and 10 one alone, 15 neither; 0.7 agree, 0.5 by chance."""
    first = np.repeat([1.0, 1, 0, 0], [20, 5, 10, 15])
    second = np.repeat([1.0, 0, 1, 0], [20, 5, 10, 15])
    assert agreement(first, second) == Agreement(50, pytest.approx(0.7), pytest.approx(0.4))


def test_kappa_is_undefined_where_both_always_say_the_same() -> None:
    same = np.ones(7)
    assert agreement(same, same) == Agreement(7, 1.0, None)
    assert agreement(same, np.array([1.0, 1, 1, 1, 1, 1, 0])) == Agreement(7, pytest.approx(6 / 7), 0.0)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
@settings(max_examples=50)
def test_agreement_is_symmetric_and_between_its_ends(pairs: list[tuple[bool, bool]]) -> None:
    first, second = (np.array(side, dtype=float) for side in zip(*pairs, strict=True))
    found = agreement(first, second)
    assert found == agreement(second, first)
    assert found.agree is not None
    assert 0 <= found.agree <= 1
    assert found.kappa is None or -1 <= found.kappa <= found.agree


def test_normal_quantile_is_the_tables() -> None:
    assert normal_quantile(0.95) == pytest.approx(1.959964, abs=1e-6)
