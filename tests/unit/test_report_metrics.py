"""The report's numbers against scipy and against cases worked by hand."""

import json
import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import scipy.stats

from bds.report import ReportInputs, build_metrics, rows_to_explain
from bds.report.metrics import gate_names
from bds.report.statistics import (
    held_by_largest,
    outlier_threshold,
    overlap,
    random_draw_interval,
    spearman,
)
from bds.report.wording import number, percent, times
from tests.unit.report_inputs import make_inputs


@pytest.fixture(scope="module")
def inputs() -> ReportInputs:
    return make_inputs(rows=900, top=60)


@pytest.fixture(scope="module")
def metrics(inputs: ReportInputs) -> dict:
    return build_metrics(inputs)


def tiny() -> ReportInputs:
    """Ten rows, nine scored, worked by hand: scores 9, 8, 7, 7, 7, 3, 2, 1, 0 and rows 0 to 3 in the top selection."""
    frame = pl.DataFrame(
        {
            "row_index": list(range(10)),
            "row_id": ["a-0", "b-0", "c-0", "d-0", "e-0", "a-1", "f-0", "g-0", "h-0", "i-0"],
            "source": ["tiny.jsonl"] * 10,
            "line": list(range(1, 11)),
            "status": ["ok"] * 8 + ["truncated_answer", "failed"],
            "reason": [""] * 9 + ["the model gave no number"],
            "answer_tokens": [10, 20, 30, 40, 50, 60, 70, 80, 90, None],
            "answer_words": [4, 8, 12, 16, 20, 24, 28, 32, 36, None],
            "numbered_list": [True, True, True, False, False, False, False, False, False, None],
            "math": [False, False, False, False, True, True, False, False, False, None],
            "refusal_phrase": [True, False, False, False, False, False, False, False, False, None],
            "squared_gradient_norm": [50.0, 10.0, 10.0, 10.0, 5.0, 5.0, 5.0, 4.0, 1.0, None],
            "direction_dot.harmful": [6.0, 2.0, -4.0, 1.0, 1.0, 0.0, -1.0, -1.0, -1.0, None],
            "score.main": [9.0, 8.0, 7.0, 7.0, 7.0, 3.0, 2.0, 1.0, 0.0, None],
            "rank.main": [1, 2, 3, 4, 5, 6, 7, 8, 9, None],
            "score.other": [0.0, 9.0, 1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0, None],
            "rank.other": [9, 1, 8, 2, 7, 3, 6, 4, 5, None],
        }
    )
    return ReportInputs(
        spec={"name": "tiny", "anchors": {"sets": {"harmful": {"role": "harmful"}, "safe": {"role": "safe"}}}},
        manifest={},
        scores=frame,
        rows=pl.DataFrame({"row_index": [0], "prompt": ["?"], "answer": ["!"]}),
        selections={
            "top": pl.DataFrame({"row_index": [0, 1, 2, 3]}),
            "short": pl.DataFrame({"row_index": [0, 1, 8]}),
            "rest": pl.DataFrame({"row_index": [4, 5, 6, 7, 8]}),
        },
        selection_info={
            "top": {"kind": "top", "detector": "main", "count": 4, "ties_at_cut_off": 1},
            "short": {
                "kind": "random_matched_length",
                "detector": "main",
                "count": 3,
                "seed": 7,
                "notes": ["asked for 4 rows, found 3"],
            },
            "rest": {"kind": "filtered", "detector": "main", "count": 5},
        },
        detectors=[
            {"label": label, "name": "representation", "formula": "x", "source": "y"} for label in ("main", "other")
        ],
    )


@pytest.mark.parametrize("seed", range(5))
def test_spearman_is_scipys_with_ties_and_missing_values(seed: int) -> None:
    noise = np.random.default_rng(seed)
    left = noise.integers(0, 12, 80).astype(float)
    right = left + noise.normal(0, 4, 80).round()
    left[3], right[9], right[10] = np.nan, np.inf, np.nan
    kept = np.isfinite(left) & np.isfinite(right)
    expected = scipy.stats.spearmanr(left[kept], right[kept]).statistic
    assert spearman(pl.Series(left), pl.Series(right)) == pytest.approx(expected, abs=1e-12)


def test_spearman_of_a_constant_is_not_measured() -> None:
    assert spearman(pl.Series([1.0, 1.0, 1.0]), pl.Series([1.0, 2.0, 3.0])) is None
    assert spearman(pl.Series([1.0, 2.0]), pl.Series([1.0, 2.0])) is None


@pytest.mark.parametrize(
    ("population", "marked", "draws"),
    [(2950, 550, 100), (40, 3, 10), (9, 9, 4), (50, 0, 5), (7, 3, 7), (5000, 4999, 20)],
)
def test_random_draw_interval_is_the_hypergeometric_one(population: int, marked: int, draws: int) -> None:
    law = scipy.stats.hypergeom(population, marked, draws)
    interval = random_draw_interval(population, marked, draws)
    assert interval == (law.ppf(0.025) / draws, law.ppf(0.975) / draws)


def test_random_draw_interval_of_nothing_is_not_measured() -> None:
    assert random_draw_interval(10, 5, 0) is None
    assert random_draw_interval(3, 1, 4) is None


def test_outlier_threshold_is_the_modified_z_score() -> None:
    values = np.append(np.random.default_rng(0).normal(size=200), 9.0)
    threshold = outlier_threshold(pl.Series(values))
    deviation = scipy.stats.median_abs_deviation(values)
    assert threshold is not None
    assert 0.6745 * (threshold - np.median(values)) / deviation == pytest.approx(3.5)
    assert outlier_threshold(pl.Series([1.0] * 19)) is None
    assert outlier_threshold(pl.Series([1.0] * 30 + [2.0])) is None


def test_overlap_is_a_share_of_the_smaller_set() -> None:
    assert overlap([1, 2, 3, 4], [3, 4, 5]) == pytest.approx(2 / 3)
    assert overlap([1], []) is None


def test_held_by_largest_counts_the_positive_part() -> None:
    assert held_by_largest(pl.Series([6.0, 3.0, 1.0, -5.0, None]), 0.25) == (1, 0.6)
    assert held_by_largest(pl.Series([-1.0, 0.0]), 0.5) is None
    rows, share = held_by_largest(pl.Series([1.0] * 300), 0.01) or (0, 0.0)
    assert (rows, share) == (3, pytest.approx(0.01))


def test_worked_case_rows_and_duplicates() -> None:
    rows = build_metrics(tiny())["rows"]
    assert rows == {
        "total": 10,
        "scored": 9,
        "not_scored": 1,
        "by_status": {"ok": 8, "failed": 1, "truncated_answer": 1},
        "truncated_answers": 1,
        "duplicates": 1,
    }


def test_worked_case_format_and_lift() -> None:
    mix = build_metrics(tiny())["format_mix"]["main"]
    lists = mix["numbered_list"]
    assert lists["flagged"] == pytest.approx(3 / 4)
    assert lists["dataset"] == pytest.approx(3 / 9)
    assert lists["lift"] == pytest.approx(2.25)
    assert lists["controls"] == {"short": pytest.approx(2 / 3)}
    assert mix["math"]["flagged"] == 0
    assert mix["math"]["lift"] == 0
    assert mix["no_format"]["flagged"] == pytest.approx(1 / 4)
    assert mix["no_format"]["dataset"] == pytest.approx(4 / 9)
    assert mix["code"] == {
        "flagged": None,
        "dataset": None,
        "controls": {"short": None},
        "lift": None,
        "random_interval": None,
    }


def test_worked_case_cut_off_ties_and_lengths() -> None:
    metrics = build_metrics(tiny())
    assert metrics["detectors"]["main"]["cut_off"] == {"rows": 4, "score": 7.0, "tied_inside": 2, "tied_outside": 1}
    assert metrics["detectors"]["main"]["distinct_values"] == 7
    assert metrics["detectors"]["main"]["outliers"] == {"threshold": None, "rows": None, "fraction": None}
    words = metrics["lengths"]["main"]["answer_words"]
    assert words["flagged"] == {"first_quartile": 7.0, "median": 10.0, "third_quartile": 13.0}
    assert words["dataset"]["median"] == 20.0
    assert metrics["lengths"]["main"]["prompt_words"]["flagged"] is None


def test_worked_case_agreement_concentration_and_selections() -> None:
    metrics = build_metrics(tiny())
    agreement = metrics["agreement"]
    assert agreement["top_rows"] == 4
    assert agreement["expected_overlap"] == pytest.approx(4 / 9)
    # The first four ranks are rows 0 1 2 3 and rows 1 3 5 7.
    assert agreement["top_overlap"] == [[1.0, 0.5], [0.5, 1.0]]
    assert metrics["concentration"]["squared_gradient_norm"]["0.01"] == {"rows": 1, "share": 0.5}
    assert metrics["concentration"]["direction_dot.harmful"]["0.05"] == {"rows": 1, "share": 0.6}
    short = metrics["selections"]["short"]
    assert short["shared_with_flagged"] == 2
    assert short["mean_primary_rank"] == pytest.approx((1 + 2 + 9) / 3)
    assert short["median_answer_words"] == 8
    assert short["notes"] == ["asked for 4 rows, found 3"]
    assert metrics["selections"]["top"]["ties_at_cut_off"] == 1


def test_worked_case_gates() -> None:
    gates = build_metrics(tiny())["gates"]
    assert gates["not_scored_fraction"] == pytest.approx(0.1)
    assert gates["failed_fraction"] == pytest.approx(0.1)
    assert gates["truncated_fraction"] == pytest.approx(0.1)
    assert gates["duplicate_fraction"] == pytest.approx(0.1)
    assert gates["refusal_phrase_fraction"] == pytest.approx(1 / 9)
    assert gates["flagged_refusal_phrase_fraction"] == pytest.approx(1 / 4)
    assert gates["flagged_list_fraction"] == pytest.approx(3 / 4)
    assert gates["safety_phrase_fraction"] is None
    assert gates["flagged_fraction"] is None
    assert gates["gradient_norm_top_1_percent"] == pytest.approx(0.5)


def test_spearman_matrix_is_scipys(inputs: ReportInputs, metrics: dict) -> None:
    labels = metrics["agreement"]["labels"]
    scores = inputs.scores.filter(pl.col("score.random").is_not_null()).select([f"score.{label}" for label in labels])
    expected = scipy.stats.spearmanr(scores.to_numpy()).statistic
    np.testing.assert_allclose(np.array(metrics["agreement"]["spearman"], dtype=float), expected, atol=1e-12)


def test_flagged_fraction_counts_rows_above_the_threshold(inputs: ReportInputs, metrics: dict) -> None:
    scores = inputs.scores["score.gradient_bidirectional"].drop_nulls().to_numpy().astype(float)
    modified_z = 0.6745 * (scores - np.median(scores)) / scipy.stats.median_abs_deviation(scores)
    assert metrics["gates"]["flagged_fraction"] == pytest.approx((modified_z > 3.5).mean())
    assert metrics["gates"]["flagged_fraction"] > 0


def test_metrics_are_strict_json(metrics: dict) -> None:
    assert json.loads(json.dumps(metrics, allow_nan=False)) == json.loads(json.dumps(metrics))


def test_gates_are_flat_numbers_or_null(metrics: dict) -> None:
    assert all(value is None or isinstance(value, float) for value in metrics["gates"].values())
    assert sorted(metrics["gates"]) == sorted(gate_names(list(metrics["detectors"])))


def test_a_score_that_is_no_number_is_counted_as_not_ranked(inputs: ReportInputs) -> None:
    broken = inputs.scores.with_columns(
        pl.when(pl.col("row_index") < 5).then(math.nan).otherwise(pl.col("score.random")).alias("score.random")
    )
    metrics = build_metrics(replace(inputs, scores=broken))
    assert metrics["detectors"]["random"]["scored"] == metrics["rows"]["scored"] - 5
    json.dumps(metrics, allow_nan=False)


def test_anchor_numbers_count_from_one(inputs: ReportInputs, metrics: dict) -> None:
    flagged = inputs.selections["top.gradient_bidirectional"]["row_index"].to_list()
    explained = [row for row in flagged if row in inputs.explanations]
    first = [
        next(match.anchor_index for match in inputs.explanations[row].anchors if match.anchor_set == "safe_1")
        for row in explained
    ]
    counted = metrics["anchors_pointed_to"]["safe_1"]
    assert sum(counted.values()) == len(explained)
    assert counted[str(first[0] + 1)] == first.count(first[0])


def test_rows_to_explain_are_the_first_of_every_detector() -> None:
    case = tiny()
    shown = rows_to_explain(case.scores, case.detectors, case.selections, case.selection_info, samples=2)
    # main has a top selection (0 1 ...); other has none, so its first ranks count (rows 1 and 3).
    assert shown == [0, 1, 3]


def test_verdict_speaks_in_numbers_and_claims_no_damage(metrics: dict) -> None:
    verdict = metrics["verdict"]
    form = next(sentence for sentence in verdict["findings"] if "numbered list" in sentence)
    mix = metrics["format_mix"]["gradient_bidirectional"]["numbered_list"]
    assert percent(mix["flagged"]) in form
    assert percent(mix["dataset"]) in form
    assert times(mix["lift"]) in verdict["headline"]
    assert any("has not measured any damage" in sentence for sentence in verdict["limits"])
    assert any("low rank is not a clean bill" in sentence for sentence in verdict["limits"])
    assert any("self_influence" in sentence and "answer length" in sentence for sentence in verdict["cautions"])
    assert any("just outside" in sentence for sentence in build_metrics(_with_more_rows())["verdict"]["cautions"])


def _with_more_rows() -> ReportInputs:
    case = tiny()
    return replace(case, selections=case.selections | {"top": pl.DataFrame({"row_index": [0, 1, 2]})})


def test_a_tiny_dataset_is_called_too_small() -> None:
    case = replace(tiny(), selections={"top": pl.DataFrame({"row_index": list(range(9))})})
    case = replace(case, selection_info={"top": {"kind": "top", "detector": "main", "count": 100}})
    verdict = build_metrics(case)["verdict"]
    assert "too small to compare" in verdict["headline"]
    assert not any("numbered list" in sentence for sentence in verdict["findings"])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.04567, "0.0457"),
        (-1.5, "−1.5"),
        (12345.6, "12,346"),
        (3e-7, "3.00e−7"),
        (None, "–"),
        (math.nan, "–"),
    ],
)
def test_numbers_are_worded(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (0.0001, "<\xa00.1 %"), (0.043, "4.3 %"), (0.0996, "10 %"), (1.0, "100 %"), (None, "–")],
)
def test_shares_are_worded(share: float | None, text: str) -> None:
    assert percent(share).replace("\xa0%", " %") == text
