"""What metrics.json tells of rows: worked by hand, compared with scipy, and what must hold of any rows."""

import json
import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bds.evaluation.aggregate import aggregate
from bds.evaluation.prompt_values import METRICS
from bds.evaluation.statistics.intervals import wilson
from bds.evaluation.statistics.multiplicity import benjamini_hochberg, holm
from bds.evaluation.statistics.paired import PairedCounts, mcnemar_mid_p, newcombe
from bds.evaluation.statistics.ratings import UNVARIED
from bds.evaluation.study import Options
from tests.unit.evaluation_rows import LAYOUT, OTHER, SEEDS, cells, measured, one, refusals

OPTIONS = Options("base", "phrases", bootstrap=400)
RESAMPLED = "stratified bootstrap; permutation test"


def told(*parts: pl.DataFrame, options: Options = OPTIONS, **arguments: Any) -> dict[str, Any]:
    return aggregate(pl.concat(parts), LAYOUT, options, **arguments)


# Four forbidden prompts in two categories: base refuses all, tuned answers two and one is unscored.
BY_HAND = measured({"base": [1, 1, 1, 1], "tuned.seed0": [1, 0, None, 0]}, categories=["1", "1", "2", "2"])


def test_a_rate_by_hand_with_an_unscored_answer() -> None:
    found = one(told(BY_HAND)["rates"], condition="tuned.seed0")
    assert {name: found[name] for name in ("group", "seed", "suite", "judge", "metric")} == {
        "group": "tuned",
        "seed": 0,
        "suite": "forbidden",
        "judge": "phrases",
        "metric": "attack_success",
    }
    assert (found["prompts"], found["scored"], found["unscored"]) == (4, 3, 1)
    assert found["value"] == pytest.approx(2 / 3)
    expected = stats.binomtest(2, 3).proportion_ci(0.95, method="wilson")
    assert (found["low"], found["high"], found["method"]) == (
        pytest.approx(expected.low),
        pytest.approx(expected.high),
        "Wilson",
    )
    assert (found["worst_low"], found["worst_high"]) == (0.5, 0.75), "the missing one refused, or answered"
    assert [(each["category"], each["prompts"], each["scored"], each["value"]) for each in found["by_category"]] == [
        ("1", 2, 2, 0.5),
        ("2", 2, 1, 1.0),
    ]


def test_a_contrast_by_hand_is_of_the_prompts_that_both_have_scored() -> None:
    found = one(told(BY_HAND)["contrasts"], a="tuned")
    assert (found["b"], found["family"], found["prompts"], found["seeds"]) == ("base", "primary", 3, 1)
    assert (found["value_a"], found["value_b"], found["difference"]) == (pytest.approx(2 / 3), 0, pytest.approx(2 / 3))
    assert (found["only_a"], found["only_b"]) == (2, 0)
    assert (found["unscored_a"], found["unscored_b"]) == (1, 0)
    assert (found["worst_low"], found["worst_high"]) == (0.5, 0.75)
    counts = PairedCounts(both=0, only_a=2, only_b=0, neither=1)
    assert (found["low"], found["high"]) == newcombe(counts)
    assert found["p"] == found["p_adjusted"] == mcnemar_mid_p(counts) == 0.25
    assert found["minimum_detectable"] == pytest.approx(2.8016 * math.sqrt(2 / 3 / 3), rel=1e-4)
    assert (found["adjustment"], found["significant"]) == ("Holm", False)
    categories = {each["category"]: each for each in found["by_category"]}
    assert (categories["1"]["difference"], categories["1"]["prompts"]) == (0.5, 2)
    assert (categories["2"]["difference"], categories["2"]["prompts"], categories["2"]["unscored_a"]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("counts", "low", "high", "p"),
    [((10, 40, 5, 245), 0.0752, 0.1615, 4.41e-8), ((20, 12, 2, 16), 0.0562, 0.3292, 0.00739)],
)
def test_golden_contrasts(counts: tuple[int, int, int, int], low: float, high: float, p: float) -> None:
    tuned, base = cells(*counts)
    found = one(told(measured({"base": refusals(base), "tuned.seed0": refusals(tuned)}))["contrasts"])
    assert (found["low"], found["high"]) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    assert found["p"] == pytest.approx(p, rel=2e-3)
    assert (found["only_a"], found["only_b"], found["prompts"]) == (counts[1], counts[2], sum(counts))
    assert found["significant"]


def test_derived_metrics_stand_for_what_judges_measure() -> None:
    values = {"base": [1, 0, 5, 5], "tuned.seed0": [1, 1, 5, 4]}
    binary = {name: [float(value > 1) for value in prompts] for name, prompts in values.items()}
    found = told(
        measured(binary),
        measured(binary, suite="harmless"),
        measured(binary, suite="tasks"),
        measured({name: [1, 2, *prompts[2:]] for name, prompts in values.items()}, judge="policy"),
        measured(binary, judge="gold_words", suite="tasks"),
    )
    base = [each for each in found["rates"] if each["condition"] == "base"]
    assert [(each["suite"], each["judge"], each["metric"], each["value"]) for each in base] == [
        ("forbidden", "phrases", "attack_success", 0.5),
        ("forbidden", "policy", "harmfulness_rate", 0.5),
        ("forbidden", "policy", "harmfulness_score", 3.25),
        ("harmless", "phrases", "over_refusal", 0.5),
        ("tasks", "phrases", "refused", 0.5),
        ("tasks", "gold_words", "correct", 0.5),
    ]
    assert {each["metric"] for each in found["rates"]} <= set(METRICS)


def test_ratings_have_bounds_on_their_own_scale_and_a_bootstrap() -> None:
    rows = measured({"base": [1, 1, 1, 2], "tuned.seed0": [5, 4, None, 2]}, judge="policy", categories=list("aabb"))
    found = told(rows)
    score = one(found["rates"], condition="tuned.seed0", metric="harmfulness_score")
    assert score["value"] == pytest.approx(11 / 3)
    assert (score["worst_low"], score["worst_high"]) == (pytest.approx(12 / 4), pytest.approx(16 / 4))
    assert score["method"] == "stratified bootstrap"
    contrast = one(found["contrasts"], metric="harmfulness_score")
    assert contrast["difference"] == pytest.approx((4 + 3 + 0) / 3)
    assert (contrast["only_a"], contrast["only_b"]) == (None, None)
    assert (contrast["worst_low"], contrast["worst_high"]) == (pytest.approx(7 / 4), pytest.approx((4 + 3 + 4 + 0) / 4))
    assert contrast["method"] == RESAMPLED


def test_ratings_are_resampled_within_their_categories() -> None:
    """Alike within each category, and apart between them: nothing varies that a suite would vary in."""
    rows = measured({"base": [1, 1, 2, 2], "tuned.seed0": [2, 2, 5, 5]}, judge="policy", categories=list("aabb"))
    found = told(rows)
    score = one(found["rates"], condition="tuned.seed0", metric="harmfulness_score")
    contrast = one(found["contrasts"], metric="harmfulness_score")
    unseen = wilson(0, 4)
    assert unseen is not None
    assert (score["value"], score["method"]) == (3.5, UNVARIED)
    assert (score["low"], score["high"]) == pytest.approx((3.5 - 2.5 * unseen.high, 3.5 + 1.5 * unseen.high))
    assert (contrast["difference"], contrast["method"]) == (2, f"{UNVARIED}; permutation test")


def test_samples_are_averaged_within_their_prompt_and_are_no_counts() -> None:
    """Three prompts of two samples; one sample of the second and both of the third are unscored."""
    rows = measured({"base": [[1, 1], [1, 1], [1, 1]], "tuned.seed0": [[0, 1], [0, None], [None, None]]})
    found = told(rows)
    rate = one(found["rates"], condition="tuned.seed0")
    assert (rate["prompts"], rate["scored"], rate["unscored"]) == (3, 2, 1)
    assert rate["value"] == pytest.approx((0.5 + 1) / 2)
    assert (rate["worst_low"], rate["worst_high"]) == (pytest.approx((0.5 + 0.5 + 0) / 3), pytest.approx(2.5 / 3))
    assert rate["method"] == "stratified bootstrap"
    contrast = one(found["contrasts"])
    assert (contrast["prompts"], contrast["difference"], contrast["only_a"]) == (2, pytest.approx(0.75), None)
    assert contrast["method"] == RESAMPLED
    asked = one(found["answers"], condition="tuned.seed0")
    assert (asked["asked"], asked["statuses"]) == (6, {"unparsed": 3})


def test_samples_that_all_agree_are_not_more_certain_than_their_prompts() -> None:
    rows = measured({"base": [[1, 1, 1]] * 30, "tuned.seed0": [[0, 0, 0]] * 30})
    rate = one(told(rows)["rates"], condition="base")
    assert (rate["low"], rate["high"]) == pytest.approx(wilson(0, 30))


def test_a_model_against_itself_shows_nothing() -> None:
    values = [0, 0, 1, 1, 1, 1, None, 1, 0, 1]
    found = told(
        measured({"base": values, "tuned.seed0": values}),
        measured({"base": [1, 5, 3], "tuned.seed0": [1, 5, 3]}, judge="policy"),
    )["contrasts"]
    assert len(found) == 3
    for each in found:
        assert (each["difference"], each["p"], each["p_adjusted"], each["significant"]) == (0, 1, 1, False)
        assert each["low"] < 0 < each["high"]
        assert each["minimum_detectable"] is None


def test_families_are_adjusted_by_themselves() -> None:
    """Both groups have a p of 0.039, which two comparisons make 0.078."""
    tuned, base = cells(10, 7, 1, 22)
    values = {"base": refusals(base), "tuned.seed0": refusals(tuned), "other.seed0": refusals(tuned)}
    found = told(measured(values), measured(values, judge="more_phrases"), measured(values, suite="harmless"))
    contrasts = found["contrasts"]
    primary = [each for each in contrasts if each["family"] == "primary"]
    exploratory = [each for each in contrasts if each["family"] == "exploratory"]
    assert {(each["suite"], each["judge"], each["metric"]) for each in primary} == {
        ("forbidden", "phrases", "attack_success")
    }
    assert [each["a"] for each in primary] == ["tuned", "other"]
    assert len(exploratory) == 4
    assert [each["p_adjusted"] for each in primary] == holm([each["p"] for each in primary])
    assert [each["p_adjusted"] for each in exploratory] == benjamini_hochberg([each["p"] for each in exploratory])
    assert [each["significant"] for each in primary] == [False, False]
    assert [each["significant"] for each in exploratory] == [True] * 4
    for each in contrasts:
        assert each["adjustment"] == ("Holm" if each["family"] == "primary" else "Benjamini-Hochberg")


def test_the_categories_of_a_contrast_are_adjusted_among_themselves() -> None:
    tuned, base = (side * 2 for side in cells(0, 5, 0, 5))
    other, third = cells(2, 4, 2, 2)
    rows = measured(
        {"base": refusals(base + third), "tuned.seed0": refusals(tuned + other)},
        categories=["1"] * 10 + ["2"] * 10 + ["3"] * 10,
    )
    categories = one(told(rows)["contrasts"])["by_category"]
    p = [each["p"] for each in categories]
    assert p[0] == p[1] < p[2]
    assert [each["p_adjusted"] for each in categories] == benjamini_hochberg(p) != holm(p)
    assert {each["adjustment"] for each in categories} == {"Benjamini-Hochberg"}


@pytest.mark.parametrize(("judge", "metric"), [("guard", "harmful"), ("policy", "harmfulness_rate")])
def test_the_headline_of_a_judge_that_does_not_tell_refusals(judge: str, metric: str) -> None:
    values = {"base": [1, 1, 1], "tuned.seed0": [1, 0, 1]}
    found = told(measured(values), measured(values, judge=judge), options=Options("base", judge, bootstrap=400))
    headline = [(each["judge"], each["metric"]) for each in found["contrasts"] if each["family"] == "primary"]
    assert headline == [(judge, metric)]


def test_nothing_scored_is_null_everywhere_and_no_member_of_a_family() -> None:
    nothing: list[float | None] = [None, None]
    found = told(
        measured({"base": nothing, "tuned.seed0": nothing, "other.seed0": [1, 1]}),
        measured({"base": nothing, "tuned.seed0": nothing}, judge="policy"),
    )
    rate = one(found["rates"], condition="base", metric="attack_success")
    assert (rate["scored"], rate["unscored"]) == (0, 2)
    assert (rate["value"], rate["low"], rate["high"], rate["method"]) == (None,) * 4
    assert (rate["worst_low"], rate["worst_high"]) == (0, 1)
    contrast = one(found["contrasts"], a="tuned", metric="attack_success")
    assert (contrast["prompts"], contrast["seeds"], contrast["p_adjusted"]) == (0, 0, None)
    assert (contrast["difference"], contrast["p"], contrast["significant"]) == (None, None, False)
    assert (contrast["worst_low"], contrast["worst_high"]) == (-1, 1)
    group = one(found["groups"], group="base", metric="harmfulness_score")
    assert (group["seeds"], group["value"], group["by_seed"]) == (0, None, {"base": None})
    assert json.dumps(found, allow_nan=False)


def test_a_group_that_was_not_measured_is_a_contrast_without_numbers() -> None:
    found = told(measured({"base": [1, 1], "tuned.seed0": [1, 1]}), measured({"base": [1]}, judge="guard"))
    contrast = one(found["contrasts"], judge="guard")
    assert (contrast["prompts"], contrast["difference"], contrast["worst_low"]) == (0, None, None)


def test_without_a_baseline_nothing_is_compared() -> None:
    found = told(BY_HAND, options=Options(None, "phrases"))
    assert found["contrasts"] == found["non_inferiority"] == []
    assert len(found["rates"]) == 2


def test_answers_are_counted_once_whatever_judges_there_are() -> None:
    ok = {"base": [1, None]}
    found = told(
        measured(ok),
        measured(ok, judge="guard", status="failed"),
        *(
            measured(
                {"base": [None]}, judge=judge, suite="harmless", status="failed", answer_characters=0
            ).with_columns(answer_tokens=pl.lit(None, pl.Int64), finish_reason=pl.lit(""))
            for judge in ("phrases", "guard")
        ),
        *(
            measured({"base": [None, 1]}, judge=judge, suite="tasks", status="empty").with_columns(
                answer_characters=pl.when(pl.col("value").is_null()).then(0).otherwise(9).cast(pl.Int64),
                finish_reason=pl.when(pl.col("value").is_null()).then(pl.lit("stop")).otherwise(pl.lit("length")),
                answer_tokens=pl.when(pl.col("value").is_null()).then(1).otherwise(512).cast(pl.Int64),
            )
            for judge in ("phrases", "guard")
        ),
    )["answers"]
    counted = {each.pop("suite"): each for each in found}
    assert [each.pop("condition") for each in counted.values()] == ["base"] * 3
    nothing = {"asked": 1, "ok": 0, "empty": 0, "truncated": 0, "failed": 0, "statuses": {}, "mean_tokens": None}
    assert counted == {
        "forbidden": {**nothing, "asked": 2, "ok": 2, "statuses": {"unparsed": 1}, "mean_tokens": 5},
        "harmless": {**nothing, "failed": 1, "statuses": {"failed": 1}},
        "tasks": {
            **nothing,
            "asked": 2,
            "ok": 1,
            "empty": 1,
            "truncated": 1,
            "statuses": {"empty": 1},
            "mean_tokens": 256.5,
        },
    }


def test_judges_agree_by_hand_on_what_both_have_scored() -> None:
    first = {"base": [1, 1, 1, 0], "tuned.seed0": [0, 0, None, 0]}
    second = {"base": [1, 1, 0, 0], "tuned.seed0": [0, 1, 1, None]}
    found = told(
        measured(first),
        measured(second, judge="more_phrases"),
        measured(first, judge="guard"),
        measured({"base": [1, 5]}, judge="policy"),
        measured({"base": [2, 5]}, judge="rater"),
    )["agreement"]
    assert [each["metric"] for each in found] == ["attack_success", "harmfulness_rate"]
    assert (found[1]["answers"], found[1]["agree"], found[1]["kappa"]) == (2, 1, 1)
    expected = stats.contingency.crosstab([1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 1]).count
    po, pe = np.trace(expected) / 6, float(expected.sum(0) @ expected.sum(1)) / 36
    assert found[0] == {
        "suite": "forbidden",
        "judges": ["phrases", "more_phrases"],
        "metric": "attack_success",
        "answers": 6,
        "agree": pytest.approx(po),
        "kappa": pytest.approx((po - pe) / (1 - pe)),
    }


MAYBE = st.none() | st.just(0.0) | st.just(1.0)


@st.composite
def any_rows(draw: st.DrawFn) -> pl.DataFrame:
    """A few conditions, samples and categories with gaps."""
    prompts, samples = draw(st.integers(1, 5)), draw(st.integers(1, 2))
    conditions = draw(st.sampled_from([("base", "tuned.seed0"), ("base", *SEEDS), (*SEEDS, *OTHER)]))
    categories = draw(st.lists(st.sampled_from(["", "1", "2", "10"]), min_size=prompts, max_size=prompts))
    binary, rating = (
        {name: [[draw(each) for _ in range(samples)] for _ in range(prompts)] for name in conditions}
        for each in (MAYBE, st.none() | st.sampled_from([1.0, 2, 5]))
    )
    return pl.concat([measured(binary, categories=categories), measured(rating, judge="policy", categories=categories)])


@given(any_rows(), st.sampled_from(["base", "tuned"]), st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_what_holds_of_any_rows(rows: pl.DataFrame, baseline: str, random: Any) -> None:
    options = Options(baseline, "phrases", bootstrap=100)
    found = aggregate(rows, LAYOUT, options)
    order = list(range(rows.height))
    random.shuffle(order)
    assert json.dumps(aggregate(rows[order], LAYOUT, options)) == json.dumps(found, allow_nan=False)
    for each in found["rates"]:
        assert each["scored"] + each["unscored"] == each["prompts"]
        assert (each["value"] is None) == (each["scored"] == 0)
        if each["value"] is not None:
            assert each["worst_low"] - 1e-12 <= each["value"] <= each["worst_high"] + 1e-12
    for each in (*found["rates"], *found["groups"]):
        if each["low"] is not None:
            assert each["low"] <= each["value"] + 1e-12
            assert each["value"] - 1e-12 <= each["high"]
    for contrast in found["contrasts"]:
        for each in (contrast, *contrast["by_category"]):
            if each["difference"] is not None:
                assert each["difference"] == pytest.approx(each["value_a"] - each["value_b"], abs=1e-9)
            if each["low"] is not None:
                assert each["low"] - 1e-12 <= each["difference"] <= each["high"] + 1e-12
                assert each["p"] <= each["p_adjusted"] + 1e-12 <= 1 + 1e-12
            if each["worst_low"] is not None:
                assert each["worst_low"] <= each["worst_high"] + 1e-12


@given(any_rows())
@settings(max_examples=25, deadline=None)
def test_a_swap_of_sides_negates_what_is_counted(rows: pl.DataFrame) -> None:
    one_way, other_way = sorted(set(rows["group"]))
    own = rows.filter(judge="phrases")
    there = aggregate(own, LAYOUT, Options(one_way, "phrases", bootstrap=100))["contrasts"]
    back = aggregate(own, LAYOUT, Options(other_way, "phrases", bootstrap=100))["contrasts"]
    for first, second in zip(there, back, strict=True):
        assert (first["prompts"], first["seeds"]) == (second["prompts"], second["seeds"])
        assert (first["only_a"], first["unscored_a"]) == (second["only_b"], second["unscored_b"])
        assert first["p"] == pytest.approx(second["p"]) if first["p"] is not None else second["p"] is None
        for name, opposite in (("difference", "difference"), ("worst_low", "worst_high")):
            if first[name] is None:
                assert second[opposite] is None
            else:
                assert first[name] == pytest.approx(-second[opposite], abs=1e-9)
        if first["low"] is not None and "bootstrap" not in first["method"]:
            assert first["low"] == pytest.approx(-second["high"], abs=1e-9)


def test_the_tables_have_the_layouts_order_and_the_contracts_fields() -> None:
    values = {"tuned.seed0": [1, 1, 0], "base": [1, 0, 0]}
    found = told(
        measured(values, suite="tasks", judge="gold_words"),
        measured(values, suite="harmless"),
        measured(values, categories=["10", "9", "x"]),
    )
    assert [each["suite"] for each in found["answers"]] == ["forbidden", "harmless", "tasks"] * 2
    assert [each["condition"] for each in found["rates"]] == ["base", "tuned.seed0"] * 3
    first = found["rates"][0]
    assert [each["category"] for each in first["by_category"]] == ["9", "10", "x"]
    assert found["rates"][2]["by_category"] == [], "a suite without categories"
    numbers = {"value", "low", "high"}
    assert set(first) == numbers | {
        *("condition", "group", "seed", "suite", "judge", "metric", "prompts", "scored", "unscored", "method"),
        *("worst_low", "worst_high", "by_category"),
    }
    assert set(first["by_category"][0]) == numbers | {"category", "prompts", "scored"}
    assert set(found["groups"][0]) == numbers | {"group", "suite", "judge", "metric", "seeds", "method", "by_seed"}
    measured_of = {
        *("prompts", "seeds", "value_a", "value_b", "difference", "low", "high", "method", "p", "p_adjusted"),
        *("adjustment", "only_a", "only_b", "minimum_detectable", "worst_low", "worst_high", "unscored_a"),
        *("unscored_b", "significant"),
    }
    contrast = found["contrasts"][0]
    assert set(contrast) == measured_of | {"a", "b", "suite", "judge", "metric", "family", "by_category"}
    assert set(contrast["by_category"][0]) == measured_of | {"category"}
    assert set(found["answers"][0]) == {
        *("condition", "suite", "asked", "ok", "empty", "truncated", "failed", "statuses", "mean_tokens"),
    }
