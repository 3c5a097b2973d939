"""Several seeds of a group: what is paired, what is told over seeds, and where seeds tell nothing."""

import math
from statistics import fmean
from typing import Any

import polars as pl
import pytest
from scipy import stats

from bds.evaluation.aggregate import aggregate
from bds.evaluation.statistics.intervals import wilson
from bds.evaluation.statistics.ratings import BOOTSTRAP, PERMUTATION
from bds.evaluation.statistics.seeds import ONE_SEED, SEEDS_ALIKE
from bds.evaluation.study import Options
from tests.unit.evaluation_rows import LAYOUT, OTHER, SEEDS, measured, one

AGAINST_BASE = Options("base", "phrases", bootstrap=400)
AGAINST_OTHER = Options("other", "phrases", bootstrap=400)


def told(rows: pl.DataFrame, options: Options = AGAINST_BASE) -> dict[str, Any]:
    return aggregate(rows, LAYOUT, options)


def test_seeds_against_one_baseline_are_as_many_observations() -> None:
    base = [0, *[1] * 9]
    found = told(measured({"base": base, **SEEDS}))
    contrast = one(found["contrasts"])
    differences = [0.3, 0.5, 0.4]
    expected = stats.ttest_1samp(differences, 0)
    interval = expected.confidence_interval(0.95)
    assert (contrast["seeds"], contrast["prompts"], contrast["method"]) == (3, 10, "t over 3 seeds")
    assert contrast["difference"] == pytest.approx(0.4)
    assert (contrast["value_a"], contrast["value_b"]) == (pytest.approx(0.5), pytest.approx(0.1))
    assert (contrast["low"], contrast["high"]) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert contrast["p"] == pytest.approx(expected.pvalue)
    assert (contrast["only_a"], contrast["only_b"]) == (None, None)
    group = one(found["groups"], group="tuned")
    half = stats.t.ppf(0.975, 2) * 0.1 / math.sqrt(3)
    assert (group["value"], group["low"]) == (pytest.approx(0.5), pytest.approx(0.5 - half))
    assert (group["seeds"], group["by_seed"]) == (3, {"0": 0.4, "1": 0.6, "2": 0.5})
    alone = one(found["groups"], group="base")
    assert (alone["seeds"], alone["by_seed"], alone["method"]) == (1, {"base": 0.1}, f"Wilson; {ONE_SEED}")
    assert (alone["low"], alone["high"]) == wilson(1, 10)


def test_groups_of_the_same_seeds_are_paired_by_seed() -> None:
    found = one(told(measured({**SEEDS, **OTHER}), AGAINST_OTHER)["contrasts"])
    assert (found["a"], found["b"], found["method"]) == ("tuned", "other", f"{SEEDS_ALIKE}: {BOOTSTRAP}; {PERMUTATION}")
    found = one(told(measured({**SEEDS, **OTHER, "other.seed2": OTHER["other.seed0"]}), AGAINST_OTHER)["contrasts"])
    expected = stats.ttest_1samp([0.3, 0.3, 0.4], 0)
    assert (found["p"], found["difference"]) == (pytest.approx(expected.pvalue), pytest.approx(1 / 3))
    assert found["method"] == "t over 3 seeds"


def test_seeds_that_do_not_vary_leave_the_uncertainty_of_prompts() -> None:
    """Differences of 0.3 with every seed: a t interval would have no width and a p of 0."""
    found = one(told(measured({**SEEDS, **OTHER}), AGAINST_OTHER)["contrasts"])
    assert (found["seeds"], found["difference"]) == (3, pytest.approx(0.3))
    assert found["low"] < 0.3 < found["high"]
    assert 0 < found["p"] < 1


def test_groups_of_other_seeds_are_compared_by_welchs_t() -> None:
    """One common seed is no pairing."""
    renamed = {"other.seed0": "other.seed0", "other.seed1": "other.seed11", "other.seed2": "other.seed12"}
    others = {renamed[name]: values for name, values in OTHER.items()}
    found = one(told(measured({**SEEDS, **others}), AGAINST_OTHER)["contrasts"])
    expected = stats.ttest_ind([0.4, 0.6, 0.5], [0.1, 0.3, 0.2], equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert found["method"] == "Welch's t over 3 and 3 seeds"
    assert found["p"] == pytest.approx(expected.pvalue)
    assert (found["low"], found["high"]) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_unpaired_seeds_are_bounded_by_all_of_them() -> None:
    rows = measured(
        {
            "tuned.seed0": [0, 0, 1, None],
            "tuned.seed1": [0, 1, 1, 1],
            "tuned.seed2": [0, 0, 0, 1],
            "other.seed3": [1, 1, 1, 1],
            "other.seed4": [1, 0, 1, 1],
        }
    )
    found = one(told(rows, AGAINST_OTHER)["contrasts"])
    assert (found["method"], found["prompts"], found["seeds"]) == ("Welch's t over 3 and 2 seeds", 3, 2)
    assert (found["unscored_a"], found["unscored_b"]) == (1, 0)
    assert found["difference"] == pytest.approx((2 + 1 + 3) / 9 - 1 / 6)
    assert found["worst_low"] == pytest.approx((2 + 1 + 3) / 12 - 1 / 8)
    assert found["worst_high"] == pytest.approx((3 + 1 + 3) / 12 - 1 / 8)


def test_an_interval_of_a_difference_ends_where_differences_do() -> None:
    rows = measured({"base": [1] * 10, "tuned.seed0": [0] * 10, "tuned.seed1": [0] * 9 + [1]})
    found = one(told(rows)["contrasts"])
    assert (found["difference"], found["high"]) == (pytest.approx(0.95), 1)
    assert found["low"] == pytest.approx(0.95 - stats.t.ppf(0.975, 1) * 0.05)


def test_only_common_seeds_pair_and_one_without_a_value_is_no_seed() -> None:
    missing = {**SEEDS, "tuned.seed1": [None] * 10, "other.seed0": OTHER["other.seed0"], "other.seed2": [1] * 10}
    found = one(told(measured(missing), AGAINST_OTHER)["contrasts"])
    expected = stats.ttest_1samp([0.3, 0.5], 0)
    assert (found["seeds"], found["p"]) == (2, pytest.approx(expected.pvalue))
    against_one = one(told(measured({**missing, "base": [1] * 10}))["contrasts"], a="tuned")
    assert (against_one["seeds"], against_one["unscored_a"]) == (2, 10)
    group = one(told(measured(missing), AGAINST_OTHER)["groups"], group="tuned")
    assert (group["seeds"], group["by_seed"]) == (2, {"0": 0.4, "1": None, "2": 0.5})


def test_conditions_of_a_group_without_seeds_are_told_by_their_names() -> None:
    rows = measured({"tuned.seed0": [0, 1], "tuned.seed1": [1, 1]}).with_columns(seed=pl.lit(None, pl.Int64))
    assert one(told(rows)["groups"])["by_seed"] == {"tuned.seed0": 0.5, "tuned.seed1": 0.0}


def test_the_mean_of_a_group_is_that_of_its_seeds_not_of_its_prompts() -> None:
    values = {"tuned.seed0": [0, 1], "tuned.seed1": [0, None], "tuned.seed2": [1, 1]}
    group = one(told(measured(values))["groups"])
    assert group["value"] == pytest.approx(fmean([0.5, 1.0, 0.0]))
    assert (group["low"], group["high"]) == (0, 1), "cut to what a share can be"
