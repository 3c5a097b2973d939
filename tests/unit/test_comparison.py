"""Two evaluations against each other: what pairs, what is refused, and that a model against itself is told as such."""

from typing import Any

import polars as pl
import pytest

from bds.errors import SpecError
from bds.evaluation.comparison import RunRows, compare_runs
from bds.evaluation.statistics.paired import PairedCounts, mcnemar_mid_p
from bds.evaluation.study import Options
from tests.unit.evaluation_rows import LAYOUT, cells, measured, one

OPTIONS = Options(None, "phrases", bootstrap=200)
TUNED, BASE = cells(3, 9, 1, 7)


def run(name: str, *parts: pl.DataFrame) -> RunRows:
    return RunRows(name, pl.concat(parts), LAYOUT)


def compared(a: RunRows, b: RunRows, **arguments: Any) -> dict[str, Any]:
    return compare_runs(a, b, OPTIONS, **arguments)


BEFORE = run("before", measured({"base": BASE, "tuned.seed0": TUNED}))


def test_groups_of_one_name_are_compared_across_runs() -> None:
    after = run("after", measured({"base": BASE, "tuned.seed0": BASE}), measured({"base": BASE}, judge="guard"))
    found = compared(after, BEFORE)
    contrast = one(found["contrasts"], a="tuned (after)")
    counts = PairedCounts(both=3, only_a=1, only_b=9, neither=7)
    assert (contrast["b"], contrast["metric"], contrast["family"]) == ("tuned (before)", "attack_success", "primary")
    assert contrast["difference"] == pytest.approx((TUNED.count(1) - BASE.count(1)) / 20), "1 - refused"
    assert contrast["p"] == mcnemar_mid_p(counts)
    assert found["compared"] == {
        "a": "after",
        "b": "before",
        "suites": ["forbidden"],
        "judges": ["phrases"],
        "only_in_a": {"suites": [], "judges": ["guard"]},
        "only_in_b": {"suites": [], "judges": []},
        "pairs": [
            {"a": "base (after)", "b": "base (before)", "same_weights": True},
            {"a": "tuned (after)", "b": "tuned (before)", "same_weights": True},
        ],
    }


def test_a_model_served_again_is_an_a_a_comparison_without_a_difference() -> None:
    others = run("others", BEFORE.rows.with_columns(fingerprint=pl.lit("other weights")))
    assert [pair["same_weights"] for pair in compared(others, BEFORE)["compared"]["pairs"]] == [False, False]
    found = compared(run("again", BEFORE.rows), BEFORE)
    assert [pair["same_weights"] for pair in found["compared"]["pairs"]] == [True, True]
    assert [(each["difference"], each["p"], each["significant"]) for each in found["contrasts"]] == [(0, 1, False)] * 2


def test_single_groups_pair_whatever_their_names_and_others_as_asked() -> None:
    alone = run("alone", measured({"other.seed0": BASE}))
    found = compared(alone, run("base", measured({"base": TUNED})))
    assert [(each["a"], each["b"]) for each in found["contrasts"]] == [("other (alone)", "base (base)")]
    assert not found["compared"]["pairs"][0]["same_weights"]
    with pytest.raises(SpecError, match=r"alone \(other\) and before \(base, tuned\) share no group's name"):
        compared(alone, BEFORE)
    asked = compared(alone, BEFORE, groups=[("other", "tuned")])
    assert [(each["a"], each["b"]) for each in asked["contrasts"]] == [("other (alone)", "tuned (before)")]
    with pytest.raises(SpecError, match="before has no group nobody; it has base, tuned"):
        compared(alone, BEFORE, groups=[("other", "nobody")])


def test_seeds_pair_across_runs() -> None:
    a = run("a", measured({"tuned.seed0": [0, 0, 1, 1], "tuned.seed1": [0, 0, 0, 1]}))
    b = run("b", measured({"tuned.seed0": [0, 1, 1, 1], "tuned.seed1": [0, 1, 1, 1]}))
    found = one(compared(a, b)["contrasts"])
    assert (found["seeds"], found["difference"], found["method"]) == (2, 0.375, "t over 2 seeds")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"suite_sha256": "other prompts of forbidden"},
            r"the suite forbidden of after \(other prompt\) is not that of",
        ),
        ({"judge_fingerprint": "another way"}, r"the judge phrases of after \(another way\) is not that of before"),
        ({"judge": "guard"}, "after and before have no suite and judge in common"),
    ],
)
def test_other_prompts_and_other_judges_are_refused(changes: dict[str, str], sentence: str) -> None:
    after = run("after", measured({"base": BASE}, **{"judge": "phrases", **changes}))
    with pytest.raises(SpecError, match=sentence):
        compared(after, BEFORE)


def test_a_run_is_not_compared_with_itself() -> None:
    with pytest.raises(SpecError, match="both runs are before"):
        compared(BEFORE, BEFORE)
