"""Detectors: closed forms worked by hand on a small table, scipy's ranks, the sentences of the spec checks."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from bds.errors import SpecError
from bds.scoring.checks import check_detectors, resolve_layer, resolve_layers
from bds.scoring.detectors import (
    DETECTORS,
    DetectorContext,
    Need,
    default_detectors,
    normalised_rank,
    score_table,
    self_influence_scale,
    uniform_draws,
)
from bds.spec.models import DetectorSpec

CONTEXT = DetectorContext(harmful_sets=("harmful",), safe_sets=("safe1", "safe2"), representation_layer=2, larf_layer=1)
ROLES = {"harmful": "harmful", "safe1": "safe", "safe2": "safe"}


def floats(*values: float | None) -> pl.Series:
    return pl.Series(values, dtype=pl.Float32)


def lists(*values: list[float] | None) -> pl.Series:
    return pl.Series(values, dtype=pl.List(pl.Float32))


@pytest.fixture
def components() -> pl.DataFrame:
    """Four rows; the last one was not scored. Every number is exact in float32."""
    return pl.DataFrame(
        {
            "row_index": [0, 1, 2, 3],
            "row_id": ["c-0", "a-0", "b-0", "d-0"],
            "status": ["ok", "truncated_answer", "ok", "no_answer"],
            "answer_tokens": pl.Series([3, 15, 7, None], dtype=pl.Int32),
            "loss": floats(2.0, 0.5, 1.0, None),
            "squared_gradient_norm": floats(4.0, 0.25, 16.0, None),
            "direction_dot.harmful": floats(1.0, 0.25, -2.0, None),
            "direction_dot.safe1": floats(0.5, -0.25, 1.0, None),
            "direction_dot.safe2": floats(0.25, 0.125, 0.0, None),
            "cosines.harmful.layer2": lists([0.5, 0.25, -0.5], [0.75, 0.5, 0.25], [0.0, -0.25, -1.0], None),
            "cosines.safe1.layer2": lists([0.25], [0.5], [1.0], None),
            "cosines.safe2.layer2": lists([0.5, 0.75], [0.0, 0.25], [0.0, 0.5], None),
            "cosines.harmful.layer1": lists([1.0, 0.0, 0.5], [0.25, 0.25, 0.25], [0.0, 0.0, 0.75], None),
            "cosines.safe1.layer1": lists([0.5], [0.0], [0.25], None),
            "cosines.safe2.layer1": lists([0.5, 0.5], [0.0, 0.75], [0.25, 0.25], None),
            "bm25.harmful": lists([0.0, 3.5], [1.25, 0.5], [0.0, 0.0], None),
            "compliance.answer": floats(1.5, -0.5, 0.25, None),
            "compliance.prompt": floats(0.5, 0.5, -0.75, None),
        }
    )


def scores(components: pl.DataFrame, name: str, context: DetectorContext = CONTEXT, **options: object) -> list[float]:
    spec = DetectorSpec(name=name, **options)
    return score_table(components, [spec], context)[f"score.{spec.column}"].to_list()


LOG = math.log

CLOSED_FORMS = {
    "representation": [0.5, 0.75, 0.0],
    "representation_bidirectional": [0.25 / 3 - 0.5, 0.5 - 0.25, -1.25 / 3 - 0.5],
    "gradient": [1.0 / 2, 0.25 / 0.5, -2.0 / 4],
    "gradient_bidirectional": [(1 - 0.5 - 0.25) / 2, (0.25 + 0.25 - 0.125) / 0.5, (-2 - 1 - 0) / 4],
    "self_influence": [4.0, 0.25, 16.0],
    "self_influence_n": [LOG(5) + LOG(4), LOG(1.25) + LOG(16), LOG(17) + LOG(8)],
    "larf": [0.5 - 0.5, 0.25 - 0.25, 0.25 - 0.25],
    "compliance_shift": [1.0, -1.0, 1.0],
    "loss": [2.0, 0.5, 1.0],
    "answer_length": [3.0, 15.0, 7.0],
    "bm25": [3.5, 1.25, 0.0],
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_every_formula_worked_by_hand(components, name):
    assert scores(components, name) == [*(pytest.approx(value) for value in CLOSED_FORMS[name]), None]


def test_every_detector_is_worked_by_hand_or_random():
    assert set(DETECTORS) == {*CLOSED_FORMS, "random", "rank_average", "calibrated"}


def test_the_rank_average_worked_by_hand(components):
    """Loss ranks the three scored rows 1, 3, 2 and answer length 3, 1, 2."""
    specs = [DetectorSpec(name=name) for name in ("loss", "answer_length", "self_influence")]
    two = DetectorSpec(name="rank_average", of=["loss", "answer_length"])
    three = DetectorSpec(name="rank_average", label="all", of=["loss", "answer_length", "self_influence"])
    table = score_table(components, [*specs, two, three], CONTEXT)
    assert table["score.rank_average"].to_list() == [pytest.approx(2 / 3)] * 3 + [None]
    assert table["rank.rank_average"].to_list() == [3, 1, 2, None], "ties go to the smaller row id"
    assert table["rank.self_influence"].to_list() == [2, 3, 1, None]
    assert table["score.all"].to_list() == [pytest.approx(value) for value in (2 / 3, 5 / 9, 7 / 9)] + [None]


def test_a_row_that_one_detector_does_not_score_has_no_average(components):
    holed = components.with_columns(floats(None, 0.5, 1.0, None).alias("loss"))
    specs = [DetectorSpec(name="loss"), DetectorSpec(name="answer_length")]
    table = score_table(holed, [*specs, DetectorSpec(name="rank_average", of=["loss", "answer_length"])], CONTEXT)
    assert table["score.rank_average"].to_list() == [
        None, pytest.approx((1 / 2 + 3 / 3) / 2), pytest.approx((2 / 2 + 2 / 3) / 2), None,
    ]  # fmt: skip


@settings(deadline=None, max_examples=40)
@given(values=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=20))
def test_the_rank_average_agrees_with_scipy(values):
    rows = pl.DataFrame(
        {
            "row_id": [f"{number:04d}-0" for number in range(len(values))],
            "status": ["ok"] * len(values),
            "loss": floats(*(float(one) for one, _ in values)),
            "answer_tokens": pl.Series([other for _, other in values], dtype=pl.Int32),
        }
    )
    specs = [DetectorSpec(name="loss"), DetectorSpec(name="answer_length")]
    table = score_table(rows, [*specs, DetectorSpec(name="rank_average", of=["loss", "answer_length"])], CONTEXT)
    # Rows come by row id, so that the first of equal values in the reversed order is the last to be ranked.
    ranks = [scipy.stats.rankdata([-each[which] for each in values], method="ordinal") for which in (0, 1)]
    expected = sum((len(values) - rank + 1) / len(values) for rank in ranks) / 2
    assert table["score.rank_average"].to_list() == pytest.approx(list(expected))


def calibrated_scores(components: pl.DataFrame, weights: dict[str, float]) -> list[float | None]:
    spec = DetectorSpec(name="calibrated", label="mine", of=list(weights), calibration="weights.json")
    specs = [*(DetectorSpec(name=name) for name in weights), spec]
    table = score_table(components, specs, replace(CONTEXT, learned={"mine": weights}))
    return table["score.mine"].to_list()


def test_the_calibrated_score_worked_by_hand(components):
    """Of three scored rows loss puts 1, 0, 1/2 of the others below each, and answer length 0, 1, 1/2."""
    found = calibrated_scores(components, {"loss": 2.0, "answer_length": 0.5})
    assert found == [pytest.approx(2.0), pytest.approx(0.5), pytest.approx(1.25), None]


def test_a_detector_without_weight_does_not_take_part(components):
    holed = components.with_columns(floats(None, 0.5, 1.0, None).alias("loss"))
    assert calibrated_scores(holed, {"loss": 0.0, "answer_length": 1.0}) == [0.0, 1.0, 0.5, None]
    assert calibrated_scores(holed, {"loss": 1.0, "answer_length": 1.0}) == [None, 1.0, 1.5, None]


@settings(deadline=None, max_examples=40)
@given(values=st.lists(st.none() | st.integers(0, 5), min_size=1, max_size=20), shuffle=st.randoms())
def test_the_normalised_rank_agrees_with_scipy_in_any_order(values, shuffle):
    present = [value for value in values if value is not None]
    ranks = dict(zip(present, scipy.stats.rankdata(present), strict=True))
    expected = [
        None if value is None else (ranks[value] - 1) / (len(present) - 1) if len(present) > 1 else 0.5
        for value in values
    ]
    order = list(range(len(values)))
    shuffle.shuffle(order)
    table = pl.DataFrame({"score.a": pl.Series([values[place] for place in order], dtype=pl.Float64)})
    found = table.select(normalised_rank("a"))["score.a"].to_list()
    assert found == [None if expected[place] is None else pytest.approx(expected[place]) for place in order]


def test_top_n_is_the_mean_of_the_largest(components):
    assert scores(components, "representation", top_n=2)[:3] == [0.375, 0.625, -0.125]
    assert scores(components, "representation", top_n=3)[0] == pytest.approx(0.25 / 3)


def test_several_harmful_sets_are_pooled(components):
    both = DetectorContext(("harmful", "safe1"), ("safe2",), representation_layer=2)
    assert scores(components, "representation", both)[:3] == [0.5, 0.75, 1.0]
    assert scores(components, "gradient", both)[:3] == [1.5 / 2, 0.0, -1.0 / 4]
    assert scores(components, "representation_bidirectional", both)[0] == pytest.approx(0.5 / 4 - 1.25 / 2)


def test_weights_replace_the_published_ones(components):
    assert scores(components, "gradient_bidirectional", weights={"harmful": 2, "safe1": -0.5})[:3] == (
        pytest.approx([(2 - 0.25) / 2, (0.5 + 0.125) / 0.5, (-4 - 0.5) / 4])
    )


def test_the_layer_option_overrides_the_chosen_layer(components):
    by_option = scores(components, "larf", DetectorContext(("harmful",), ("safe1", "safe2"), 1, None), layer=2)
    assert by_option == scores(components, "representation_bidirectional")


@pytest.mark.parametrize(
    ("factor", "scale", "expected"),
    [
        (1, None, ("raw", 1.0)),
        (2**-2, None, ("raw", 1.0)),
        (2**-6, None, ("median", 2**-4)),
        (2**-6, "raw", ("raw", 1.0)),
        (2**6, "median", ("median", 2.0**8)),
        (0, None, ("raw", 1.0)),
        (0, "median", ("raw", 1.0)),
    ],
)
def test_self_influence_n_says_its_scale(components, factor, scale, expected):
    """The median of 4, 0.25 and 16 is 4; the last row's null does not count."""
    scaled = components.with_columns(pl.col("squared_gradient_norm") * factor)
    assert self_influence_scale(scaled, DetectorSpec(name="self_influence_n", scale=scale)) == expected
    norms, tokens = np.array([4, 0.25, 16]) * factor, np.array([3, 15, 7])
    assert scores(scaled, "self_influence_n", scale=scale)[:3] == (
        pytest.approx(list(np.log1p(norms / expected[1]) + np.log1p(tokens)))
    )


def test_tiny_gradients_do_not_turn_self_influence_n_into_a_length_ranking():
    """Per-token gradients of equal size: ||g||^2 = sigma^2 / T, the case of methods A.3 at sigma = 0.01 and below."""
    tokens = np.array([1, 4, 16, 64, 256])
    table = pl.DataFrame(
        {
            "row_id": list("abcde"),
            "status": ["ok"] * 5,
            "answer_tokens": tokens,
            "squared_gradient_norm": (1e-4 / tokens).astype(np.float32),
        }
    )
    raw = np.array(scores(table, "self_influence_n", scale="raw"))
    default = np.array(scores(table, "self_influence_n"))
    assert raw - np.log1p(tokens) == pytest.approx(np.zeros(5), abs=2e-4), "raw is length and nothing else"
    assert np.ptp(default) < 0.7 * np.ptp(raw)
    assert np.ptp(default[:3]) < 0.2 * np.ptp(raw[:3]), "up to the median length the score hardly moves"


def test_no_direction_and_broken_numbers_have_no_score(components):
    broken = components.with_columns(
        pl.Series("squared_gradient_norm", [0.0, math.nan, math.inf, None], dtype=pl.Float32),
        pl.Series("direction_dot.harmful", [0.0, 1.0, 1.0, None], dtype=pl.Float32),
        lists([0.5, math.nan], [0.5, 0.25], [math.nan, math.nan], None).alias("cosines.harmful.layer2"),
    )
    assert scores(broken, "gradient") == [None, None, 0.0, None]
    assert scores(broken, "self_influence") == [0.0, None, None, None]
    assert scores(broken, "representation") == [None, 0.5, None, None]
    table = score_table(broken, [DetectorSpec(name="gradient")], CONTEXT)
    assert table["rank.gradient"].to_list() == [None, None, 1, None]


def test_a_row_with_numbers_but_no_scored_status_has_no_score(components):
    failed = components.with_columns(pl.Series("status", ["failed", "ok", "ok", "no_answer"]))
    table = score_table(failed, [DetectorSpec(name="loss")], CONTEXT)
    assert table["score.loss"].to_list() == [None, 0.5, 1.0, None]
    assert table["rank.loss"].to_list() == [None, 2, 1, None]


def test_the_table_keeps_rows_and_columns_and_adds_two_a_detector(components):
    specs = default_detectors(CONTEXT)
    table = score_table(components, specs, CONTEXT)
    scalars = components.select(name for name, kind in components.schema.items() if kind != pl.List)
    assert table.select(scalars.columns).equals(scalars)
    added = {name: dtype for name, dtype in table.schema.items() if name not in scalars.columns}
    assert added == {
        f"{kind}.{spec.column}": dtype for spec in specs for kind, dtype in (("score", pl.Float64), ("rank", pl.Int64))
    }
    assert score_table(components.clear(), specs, CONTEXT).height == 0


@settings(deadline=None, max_examples=60)
@given(
    values=st.lists(st.one_of(st.none(), st.sampled_from([-1.5, -0.0, 0.0, 0.25, 3.0])), max_size=25), data=st.data()
)
def test_ranks_agree_with_scipy_in_any_row_order(values, data):
    """Row ids count up, so that scipy's ordinal ranks of the negated scores break ties by row id too."""
    rows = pl.DataFrame(
        {
            "row_id": [f"{number:04d}-0" for number in range(len(values))],
            "status": ["ok"] * len(values),
            "loss": pl.Series(values, dtype=pl.Float32),
        },
        schema_overrides={"row_id": pl.String, "status": pl.String},
    )
    scored = [-value for value in values if value is not None]
    expected = iter(scipy.stats.rankdata(scored, method="ordinal").astype(int)) if scored else iter(())
    by_id = {f"{n:04d}-0": None if value is None else int(next(expected)) for n, value in enumerate(values)}
    order = data.draw(st.permutations(range(len(values))))
    shuffled = rows[order] if order else rows
    table = score_table(shuffled, [DetectorSpec(name="loss")], CONTEXT)
    assert table["row_id"].to_list() == shuffled["row_id"].to_list()
    assert dict(zip(table["row_id"], table["rank.loss"], strict=True)) == by_id


def test_random_is_uniform_seeded_and_independent_of_row_order(components):
    draws = scores(components, "random")
    assert draws[:3] == scores(components, "random", seed=0)[:3]
    assert draws[:3] != scores(components, "random", seed=1)[:3]
    assert scores(components.reverse(), "random") == draws[::-1]
    ids = pl.Series([f"{number}-0" for number in range(20_000)])
    many = uniform_draws(ids, "a stream").to_list()
    assert scipy.stats.kstest(many, "uniform").pvalue > 0.01
    other = uniform_draws(ids, "another stream").to_list()
    assert abs(np.corrcoef(many, other)[0, 1]) < 0.03
    assert 0 <= min(many) < max(many) < 1


def test_random_draws_never_change():
    """Golden values: were they to change, a seed would no longer mean the selection that a past report names."""
    assert uniform_draws(pl.Series(["a-0", "b-0"]), "detector random, seed 0").to_list() == [
        0.426886989440306,
        0.726545119759258,
    ]


def test_defaults_are_what_the_anchors_allow():
    def names(**context: object) -> set[str]:
        empty = {"harmful_sets": (), "safe_sets": (), "representation_layer": 2}
        return {spec.name for spec in default_detectors(DetectorContext(**{**empty, **context}))}

    anchor_free = {"self_influence", "self_influence_n", "loss", "answer_length", "random"}
    harmful_only = anchor_free | {"representation", "gradient", "bm25"}
    assert names() == anchor_free
    assert names(safe_sets=("safe",)) == anchor_free
    assert names(harmful_sets=("harmful",)) == harmful_only
    both = {"harmful_sets": ("harmful",), "safe_sets": ("safe",)}
    assert names(**both) == set(DETECTORS) - {"larf", "rank_average", "calibrated"}
    assert names(**both, larf_layer=1) == set(DETECTORS) - {"rank_average", "calibrated"}
    check_detectors([spec for spec in default_detectors(CONTEXT) if spec.name != "larf"], ROLES)


def test_the_catalogue_is_complete_one_line_texts():
    for name, detector in DETECTORS.items():
        assert name == detector.name
        for text in (detector.formula, detector.cost, detector.source):
            assert text
            assert "\n" not in text
        assert all(isinstance(need, Need) for need in detector.needs)
        assert detector.options <= DetectorSpec.model_fields.keys() - {"name", "label"}


@pytest.mark.parametrize(
    ("specs", "roles", "sentence"),
    [
        (
            [{"name": "gradiant"}],
            ROLES,
            "score.detectors.0.name: 'gradiant' is not a detector; did you mean `gradient`?",
        ),
        ([{"name": "loss", "top_n": 2}], ROLES, "score.detectors.0.top_n: loss has no option top_n (it takes none)"),
        ([{"name": "larf", "layer": 1, "seed": 3}], ROLES, "larf has no option seed (it takes layer, probe_prompts)"),
        (
            [{"name": "loss"}, {"name": "gradient"}],
            {},
            "1: gradient needs a harmful anchor set; add anchors.sets.harmful",
        ),
        (
            [{"name": "gradient_bidirectional"}],
            {},
            "needs a harmful and a safe anchor set; add anchors.sets.harmful and anchors.sets.safe, or leave",
        ),
        (
            [{"name": "representation_bidirectional"}],
            {"harmful": "harmful"},
            "needs a harmful and a safe anchor set; add anchors.sets.safe, or leave this detector out",
        ),
        ([{"name": "bm25"}], {"safe": "safe"}, "bm25 needs a harmful anchor set; add anchors.sets.harmful"),
        ([{"name": "compliance_shift"}], {"harmful": "harmful"}, "add anchors.sets.safe"),
        ([{"name": "larf"}], ROLES, "larf needs its layer; set either `layer: N` or `probe_prompts: FILE`"),
        ([{"name": "larf", "layer": 1, "probe_prompts": "p"}], ROLES, "has both a layer and a way to choose one"),
        ([{"name": "loss"}, {"name": "loss"}], ROLES, "1: column 'loss' is taken by score.detectors.0"),
        ([{"name": "loss"}, {"name": "random", "label": "loss"}], ROLES, "give one of them another `label`"),
        (
            [{"name": "gradient_bidirectional", "weights": {"saef1": 1}}],
            ROLES,
            "weights: there is no anchor set 'saef1'; did you mean `safe1`?",
        ),
        ([{"name": "gradient_bidirectional", "weights": {"safe": 1}}], {}, "'safe'; add it under anchors.sets"),
        ([{"name": "gradient_bidirectional", "weights": {"safe1": 0}}], ROLES, "every weight is 0"),
        ([{"name": "gradient_bidirectional", "weights": {}}], ROLES, "every weight is 0"),
        ([{"name": "gradient_bidirectional", "weights": {"safe1": math.nan}}], ROLES, "weights.safe1: nan is not"),
        (
            [
                {"name": "larf", "probe_prompts": "a.jsonl"},
                {"name": "larf", "label": "b", "probe_prompts": "b.jsonl"},
            ],
            ROLES,
            "1.probe_prompts: one run chooses one layer for larf; set `layer: N` here instead",
        ),
        (
            [{"name": "compliance_shift", "layer": 1}, {"name": "compliance_shift", "layer": 2, "label": "later"}],
            ROLES,
            "give every compliance_shift the same layer",
        ),
        ([{"name": "loss"}, {"name": "rank_average"}], ROLES, "1: rank_average needs the detectors that it averages"),
        (
            [{"name": "rank_average", "of": ["loss", "random"]}, {"name": "loss"}],
            ROLES,
            "0.of.0: no detector before this one has the column 'loss'; name it there, or put it first",
        ),
        (
            [{"name": "loss"}, {"name": "rank_average", "of": ["loss", "los"]}],
            ROLES,
            "1.of.1: no detector before this one has the column 'los'; did you mean `loss`?",
        ),
        ([{"name": "loss"}, {"name": "rank_average", "of": ["loss", "loss"]}], ROLES, "1.of.1: 'loss' is named twice"),
        (
            [{"name": "loss"}, {"name": "calibrated", "calibration": "w.json"}],
            ROLES,
            "1: calibrated needs the detectors that it weighs; add `of:`",
        ),
        (
            [{"name": "loss"}, {"name": "random"}, {"name": "calibrated", "of": ["loss", "random"]}],
            ROLES,
            "2: calibrated needs its weights; add `calibration:` with a file",
        ),
        (
            [{"name": "loss"}, {"name": "calibrated", "of": ["loss", "larf"], "calibration": "w.json"}],
            ROLES,
            "1.of.1: no detector before this one has the column 'larf'",
        ),
        ([{"name": "loss", "of": ["a", "b"]}], ROLES, "0.of: loss has no option of (it takes none); remove it"),
    ],
)
def test_a_detector_that_cannot_run_is_one_sentence(specs, roles, sentence):
    with pytest.raises(SpecError) as caught:
        check_detectors([DetectorSpec(**spec) for spec in specs], roles)
    assert sentence in str(caught.value)
    assert str(caught.value).startswith("field score.detectors.")
    assert "\n" not in str(caught.value)


def test_detectors_that_can_run_pass():
    specs = [
        DetectorSpec(name="gradient_bidirectional", weights={"harmful": 1, "safe1": -2}),
        DetectorSpec(name="gradient_bidirectional", label="mild", weights={"harmful": 1}),
        DetectorSpec(name="larf", layer=-1),
        DetectorSpec(name="larf", label="larf2", probe_prompts="prompts.jsonl"),
        DetectorSpec(name="representation", top_n=3),
    ]
    check_detectors(specs, ROLES, {"harmful": 3, "safe1": 1, "safe2": 9})
    with pytest.raises(SpecError, match="3 is more than the 2 harmful anchors"):
        check_detectors(specs, ROLES, {"harmful": 2, "safe1": 9, "safe2": 9})
    check_detectors([DetectorSpec(name="gradient_bidirectional", weights={"harmful": 1})], {"harmful": "harmful"})


def test_layers_are_counted_from_the_embedding():
    specs = [DetectorSpec(name="larf", layer=layer) for layer in (-1, -5, 0, 4)] + [DetectorSpec(name="loss")]
    assert [spec.layer for spec in resolve_layers(specs, decoder_blocks=4)] == [4, 0, 0, 4, None]
    for layer in (5, -6):
        with pytest.raises(SpecError, match=rf"score.detectors.0.layer: the model has no layer {layer}; write 0"):
            resolve_layers([DetectorSpec(name="larf", layer=layer)], decoder_blocks=4)
    assert resolve_layer(-1, 4, "score.layers.0") == 4
    with pytest.raises(SpecError, match=r"^field score.layers.0: the model has no layer 9;"):
        resolve_layer(9, 4, "score.layers.0")


def test_listing_detectors_imports_no_heavy_library():
    program = (
        "import sys, bds.scoring.detectors, bds.scoring.selection, bds.scoring.checks;"
        "print([name for name in ('torch', 'transformers', 'ray', 'bm25s', 'vllm') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"
