"""Bootstrap, permutation, seeds, multiplicity and power against scipy, closed forms and enumeration."""

import itertools
import math
from statistics import fmean, stdev

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from bds.evaluation.statistics.intervals import Interval, unvaried
from bds.evaluation.statistics.multiplicity import benjamini_hochberg, holm
from bds.evaluation.statistics.power import minimum_detectable, minimum_detectable_over_seeds
from bds.evaluation.statistics.ratings import (
    BOOTSTRAP,
    UNVARIED,
    Resampling,
    rating_difference,
    rating_mean,
    resampled_means,
    sign_flip_p,
)
from bds.evaluation.statistics.seeds import (
    t_interval,
    t_test,
    welch_error,
    welch_interval,
    welch_test,
)

FEW = Resampling(resamples=400)
RATINGS = st.lists(st.integers(1, 5), min_size=1, max_size=30).map(lambda values: np.array(values, dtype=float))
FINE = st.floats(-1, 1, allow_nan=False).map(lambda value: round(value, 6))


def one_category(values: np.ndarray) -> np.ndarray:
    return np.full(len(values), "1")


def drawn_ratings(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).choice([1.0, 2, 3, 4, 5], size=count, p=[0.5, 0.2, 0.1, 0.1, 0.1])


def test_the_interval_of_a_mean_is_scipys() -> None:
    values = drawn_ratings(300, seed=1)
    found = rating_mean(values, one_category(values), 1, 5, Resampling())
    expected = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=10_000, rng=2).confidence_interval
    assert found is not None
    assert (found.value, found.method) == (pytest.approx(values.mean()), BOOTSTRAP)
    assert found.interval == pytest.approx((expected.low, expected.high), abs=0.015)


def test_resamples_have_the_variance_of_a_stratified_mean_also_where_categories_are_small() -> None:
    """Σ (n/N)² s²/n in closed form: categories of 3 and 40 prompts with means far apart, which must not count."""
    strata = np.repeat(["1", "2"], [3, 40])
    values = np.concatenate([[1.0, 2.0, 4.0], 100 + drawn_ratings(40, seed=3)])
    own = [values[strata == name] for name in ("1", "2")]
    expected = sum((len(part) / 43) ** 2 * part.var(ddof=1) / len(part) for part in own)
    means = resampled_means(values, strata, Resampling(resamples=40_000))
    assert means.mean() == pytest.approx(values.mean(), abs=0.01)
    assert means.var() == pytest.approx(expected, rel=0.03)


def test_categories_of_one_prompt_vary_together() -> None:
    values = drawn_ratings(40, seed=4)
    alone = np.array([f"{place}" for place in range(40)])
    means = resampled_means(values, alone, Resampling())
    assert means.tolist() == resampled_means(values, one_category(values), Resampling()).tolist()
    assert means.std() > 0


def test_many_distinct_values_are_drawn_in_parts_that_fit_into_memory() -> None:
    values = np.linspace(0, 1, 3000)
    means = resampled_means(values, one_category(values), Resampling(resamples=2000))
    assert means.std() == pytest.approx(values.std(ddof=1) / math.sqrt(3000), rel=0.08)


def test_the_numbers_do_not_depend_on_the_order_of_the_prompts() -> None:
    a, b = drawn_ratings(60, seed=5), drawn_ratings(60, seed=6)
    strata = np.repeat(["1", "2", "3"], 20)
    order = np.random.default_rng(7).permutation(60)
    found = rating_difference(a, b, strata, 1, 5, FEW)
    assert rating_difference(a[order], b[order], strata[order], 1, 5, FEW) == found
    assert rating_difference(a, b, strata, 1, 5, Resampling(resamples=400, seed=1)) != found


@given(RATINGS)
@settings(max_examples=60, deadline=None)
def test_an_interval_holds_its_mean_and_stays_on_the_scale(values: np.ndarray) -> None:
    strata = np.array(["1", "2"] * len(values))[: len(values)]
    found = rating_mean(values, strata, 1, 5, FEW)
    assert found is not None
    assert found.interval is not None
    assert 1 - 1e-12 <= found.interval.low <= found.value <= found.interval.high <= 5 + 1e-12
    assert found.interval.low < found.interval.high


@given(RATINGS)
@settings(max_examples=40, deadline=None)
def test_the_same_ratings_differ_by_nothing_for_certain_but_with_an_interval(values: np.ndarray) -> None:
    found = rating_difference(values, values, one_category(values), 1, 5, FEW)
    assert found is not None
    assert (found.value, found.p, found.interval) == (0, 1, unvaried(0.0, len(values), -4, 4))


def test_a_swap_negates_the_difference_up_to_the_draws() -> None:
    a, b = drawn_ratings(200, seed=8), drawn_ratings(200, seed=9)
    there = rating_difference(a, b, one_category(a), 1, 5, Resampling())
    back = rating_difference(b, a, one_category(a), 1, 5, Resampling())
    assert there is not None
    assert back is not None
    assert there.interval is not None
    assert back.interval is not None
    assert (there.value, there.p) == (pytest.approx(-back.value), back.p)
    assert there.interval == pytest.approx((-back.interval.high, -back.interval.low), abs=0.02)


def test_values_alike_within_each_category_are_not_certain() -> None:
    values = np.repeat([0.0, 1.0], 15)
    found = rating_mean(values, np.repeat(["1", "2"], 15), 0, 1, FEW)
    assert found is not None
    assert found.method == UNVARIED
    assert found.interval == pytest.approx((0.5 - 0.5 * 0.1135, 0.5 + 0.5 * 0.1135), abs=1e-4)


def test_nothing_rated_has_no_mean() -> None:
    empty = np.array([])
    assert rating_mean(empty, empty, 1, 5, FEW) is None
    assert rating_difference(empty, empty, empty, 1, 5, FEW) is None
    assert sign_flip_p(empty, FEW) is None


def test_the_permutation_test_is_the_enumeration_of_all_signs() -> None:
    differences = np.array([2.0, 1, 1, 3, -1, 0, 4, 2, -2, 1])
    sums = [abs(np.dot(signs, differences)) for signs in itertools.product((-1, 1), repeat=len(differences))]
    exact = fmean(total >= abs(differences.sum()) for total in sums)
    assert sign_flip_p(differences, Resampling(resamples=100_000)) == pytest.approx(exact, abs=0.003)


def test_the_permutation_test_is_scipys() -> None:
    a, b = drawn_ratings(40, seed=10), drawn_ratings(40, seed=11) + np.linspace(0, 1, 40)
    expected = stats.permutation_test(
        (a, b), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", vectorized=True, rng=1
    )
    assert sign_flip_p(a - b, Resampling()) == pytest.approx(expected.pvalue, abs=0.02)


def test_a_p_value_is_never_zero() -> None:
    assert sign_flip_p(np.ones(200), Resampling(resamples=999)) == pytest.approx(0.001)


@given(st.lists(FINE, min_size=2, max_size=8), st.lists(FINE, min_size=2, max_size=8))
@settings(max_examples=80, deadline=None)
def test_seeds_have_scipys_t(a: list[float], b: list[float]) -> None:
    assume(stdev(a) > 1e-4 and stdev(b) > 1e-4)
    one, two = stats.ttest_1samp(a, 0), stats.ttest_ind(a, b, equal_var=False)
    assert t_interval(a) == pytest.approx(tuple(one.confidence_interval(0.95)), rel=1e-6, abs=1e-9)
    assert t_test(a) == pytest.approx(one.pvalue)
    assert welch_interval(a, b) == pytest.approx(tuple(two.confidence_interval(0.95)), rel=1e-6, abs=1e-9)
    assert welch_test(a, b) == pytest.approx(two.pvalue)
    negated = t_interval([-value for value in a])
    assert negated is not None
    assert t_interval(a) == pytest.approx((-negated.high, -negated.low))


def test_seeds_that_do_not_vary_and_a_single_seed_tell_no_interval() -> None:
    for values in ([0.4], [0.4, 0.4], [0.1 + 0.2, 0.3, 0.3]):
        assert (t_interval(values), t_test(values)) == (None, None)
    assert welch_error([0.4, 0.4], [0.2, 0.2]) is None
    assert welch_error([0.4], [0.2, 0.3]) is None
    assert welch_interval([0.4, 0.4], [0.2, 0.3]) is not None


def test_three_seeds_with_five_points_between_them_have_a_half_width_of_twelve() -> None:
    found = t_interval([0.45, 0.5, 0.55])
    assert found == pytest.approx((0.5 - 0.1242, 0.5 + 0.1242), abs=1e-4)


def test_holm_and_benjamini_hochberg_golden_values() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert benjamini_hochberg([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.04, 0.04])
    assert holm([]) == benjamini_hochberg([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_adjusted_p_values_keep_their_order_and_never_shrink(p: list[float]) -> None:
    by_holm, by_bh = holm(p), benjamini_hochberg(p)
    for raw, least, most in zip(p, by_bh, by_holm, strict=True):
        assert raw <= least + 1e-12
        assert least <= most + 1e-12 <= 1 + 1e-12
    order = np.argsort(p, kind="stable")
    assert np.all(np.diff(np.array(by_holm)[order]) >= 0)
    # Holm by its definition: reject, smallest first, as long as p is at most level / (those left).
    for level in (0.01, 0.05, 0.3):
        rejected, left = [], len(p)
        for place in order:
            if p[place] * left > level:
                break
            rejected.append(int(place))
            left -= 1
        assert sorted(rejected) == [place for place, value in enumerate(by_holm) if value <= level]


@pytest.mark.parametrize(
    ("share", "count", "points"),
    [(0.05, 300, 3.6), (0.1, 300, 5.1), (0.2, 300, 7.2), (0.05, 30, 11.4), (0.2, 30, 22.9)],
)
def test_minimum_detectable_golden_values(share: float, count: int, points: float) -> None:
    assert 100 * (minimum_detectable(share, count) or 0) == pytest.approx(points, abs=0.06)


@pytest.mark.parametrize("freedom", [1, 2, 4, 7.3])
def test_a_true_difference_of_that_size_is_found_four_times_of_five(freedom: float) -> None:
    size = minimum_detectable_over_seeds(0.03, freedom)
    limit = stats.t.ppf(0.975, freedom)
    assert stats.nct.sf(limit, freedom, size / 0.03) == pytest.approx(0.8, abs=1e-5)


def test_many_seeds_come_to_the_normal_quantiles() -> None:
    assert minimum_detectable_over_seeds(0.03, 100_000) == pytest.approx(0.03 * 2.8016, rel=1e-3)


def test_nothing_that_differs_tells_no_minimum() -> None:
    assert minimum_detectable(0.0, 300) is None
    assert minimum_detectable(0.1, 0) is None


def test_intervals_are_cut_to_what_is_possible() -> None:
    assert Interval(-0.2, 1.3).within(0, 1) == Interval(0, 1)
    assert Interval(0.2, 0.4).with_value(0.5) == Interval(0.2, 0.5)
