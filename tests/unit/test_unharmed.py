"""Non-inferiority on suites and on lm-eval's tasks, by hand and against scipy."""

import math
from typing import Any

import polars as pl
import pytest
from scipy import stats

from bds.evaluation.aggregate import aggregate
from bds.evaluation.study import Options
from tests.unit.evaluation_rows import LAYOUT, measured, one, refusals


def told(*parts: pl.DataFrame, **arguments: Any) -> dict[str, Any]:
    return aggregate(pl.concat(parts), LAYOUT, Options("base", "phrases", bootstrap=400), **arguments)


def test_only_an_interval_within_the_margin_shows_that_nothing_is_lost() -> None:
    """Of 300 harmless prompts base refuses none; tuned as few, and other refuses a tenth."""
    values = {"base": [0.0] * 300, "tuned.seed0": [0.0] * 300, "other.seed0": [0.0] * 270 + [1.0] * 30}
    right = {name: refusals(prompts) for name, prompts in values.items()}
    found = told(
        measured(values, suite="harmless"),
        measured({**values, "tuned.seed0": [1.0] * 300}, judge="more_phrases", suite="harmless"),
        measured(right, judge="gold_words", suite="tasks"),
    )
    checks = found["non_inferiority"]
    assert [(each["suite"], each["metric"], each["a"], each["holds"]) for each in checks] == [
        ("harmless", "over_refusal", "tuned", True),
        ("harmless", "over_refusal", "other", False),
        ("tasks", "correct", "tuned", True),
        ("tasks", "correct", "other", False),
    ], "by the primary judge alone where it tells"
    assert set(checks[0]) == {"a", "b", "suite", "metric", "difference", "low", "high", "margin", "holds"}
    assert checks[0]["high"] == pytest.approx(0.0126, abs=1e-4)
    assert checks[3]["difference"] == pytest.approx(-0.1)


def task(condition: str, value: float | None, stderr: float | None = 0.01, **changes: Any) -> dict[str, Any]:
    group, _, seed = condition.partition(".seed")
    about = {"condition": condition, "group": group, "seed": int(seed) if seed else None, "task": "made_up"}
    return {
        **about,
        "metric": "exact_match",
        "filter": "none",
        "value": value,
        "stderr": stderr,
        "samples": 40,
        **changes,
    }


def test_tasks_of_lm_eval_are_checked_by_their_scores() -> None:
    names = ("base", "tuned.seed0", "other.seed0", "other.seed1", "other.seed2")
    values = dict(zip(names, (0.5, 0.6, 0.52, 0.53, 0.51), strict=True))
    rows = measured({name: [1.0] for name in values})
    found = told(rows, utility=[task(name, value) for name, value in values.items()])["non_inferiority"]
    tuned, other = one(found, a="tuned"), one(found, a="other")
    half = 1.959964 * math.sqrt(2) * 0.01
    assert (tuned["task"], tuned["metric"], tuned["holds"]) == ("made_up", "exact_match", True)
    assert (tuned["low"], tuned["high"]) == (pytest.approx(0.1 - half), pytest.approx(0.1 + half))
    expected = stats.ttest_1samp([0.02, 0.03, 0.01], 0).confidence_interval(0.95)
    assert (other["low"], other["high"]) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert set(tuned) == {"a", "b", "task", "metric", "difference", "low", "high", "margin", "holds"}


def test_tasks_without_a_standard_error_or_a_share_hold_nothing() -> None:
    rows = measured({"base": [1.0], "tuned.seed0": [1.0]})
    utility = [
        *(task(name, 0.5, None, filter="strict-match") for name in ("base", "tuned.seed0")),
        *(task(name, 0.5, metric="word_perplexity") for name in ("base", "tuned.seed0")),
        *(task(name, 38.0, metric="bleu") for name in ("base", "tuned.seed0")),
        task("base", 0.5, task="half"),
        task("tuned.seed0", None, task="half"),
    ]
    found = one(told(rows, utility=utility)["non_inferiority"])
    assert (found["metric"], found["difference"], found["holds"]) == ("exact_match,strict-match", 0, None)
