"""Selections: hand-worked small tables, and properties over random ones."""

from collections import Counter

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bds.errors import SpecError
from bds.scoring.checks import check_selections
from bds.scoring.detectors import uniform_draws
from bds.scoring.selection import (
    FORMAT_FEATURES,
    Selection,
    default_selections,
    is_yes_no,
    select,
    selection_name,
)
from bds.spec.models import DetectorSpec, SelectionSpec

FLAGS = (*FORMAT_FEATURES, "refusal_phrase", "safety_phrase")


def table(scores: list[float | None], **columns: list) -> pl.DataFrame:
    """Rows a-0, b-0, ... with these scores by `loss`, one answer token and no feature unless said."""
    rows = len(scores)
    defaults = {
        "row_index": list(range(rows)),
        "row_id": [f"{chr(ord('a') + row)}-0" for row in range(rows)],
        "status": ["ok"] * rows,
        "answer_tokens": [1] * rows,
        **{flag: [False] * rows for flag in FLAGS},
    }
    texts = {"row_id": pl.String, "status": pl.String}
    numbers = {"row_index": pl.Int64, "answer_tokens": pl.Int32}
    schema = {**numbers, **texts, **dict.fromkeys(FLAGS, pl.Boolean)}
    frame = pl.DataFrame({**defaults, **columns}, schema=schema)
    return frame.with_columns(pl.Series("score.loss", scores, dtype=pl.Float64))


def spec(kind: str, **fields: object) -> SelectionSpec:
    needs_detector = kind in {"top", "bottom", "filtered", "random_matched_length", "random_matched_format"}
    return SelectionSpec(kind=kind, **{**({"detector": "loss"} if needs_detector else {}), **fields})


def indices(selection: Selection) -> list[int]:
    return selection.rows["row_index"].to_list()


SIX = [0.5, 3.0, None, 1.0, 2.0, -1.0]


def test_top_bottom_and_filtered():
    scores = table(SIX, status=["ok", "truncated_answer", "empty_answer", "ok", "ok", "ok"])
    top = select(scores, spec("top", count=2))
    assert (top.rows["row_id"].to_list(), indices(top)) == (["b-0", "e-0"], [1, 4])
    assert (top.kind, top.detector, top.requested, top.ties_at_cut, top.notes) == ("top", "loss", 2, 0, ())
    assert indices(select(scores, spec("bottom", count=2))) == [5, 0]
    filtered = select(scores, spec("filtered", share=0.4))
    assert indices(filtered) == [0, 3, 5]
    assert filtered.requested == 2
    assert filtered.notes == (
        "2 rows flagged and left out, 3 kept",
        "1 row without a score left out as well: 1 empty_answer",
    )


def test_filtered_accounts_for_every_row():
    scores = table(
        [1.0, None, None, None, None, 2.0], status=["ok", "ok", "failed", "no_answer", "failed", "truncated_answer"]
    )
    filtered = select(scores, spec("filtered", count=1))
    assert indices(filtered) == [0]
    assert filtered.notes == (
        "1 row flagged and left out, 1 kept",
        "4 rows without a score left out as well: 2 failed, 1 no_answer, 1 without a finite score",
    )


def test_ties_go_by_row_id_and_are_reported():
    scores = table([2.0, 1.0, 1.0, 1.0, 0.0], row_id=["p-0", "z-0", "m-0", "a-0", "b-0"])
    top = select(scores, spec("top", count=3))
    assert top.rows["row_id"].to_list() == ["p-0", "a-0", "m-0"]
    assert top.ties_at_cut == 3
    assert top.notes == ("3 rows tie at the cut; the smaller row ids were taken",)
    assert select(scores, spec("top", count=4)).ties_at_cut == 0, "the whole tie is in"
    bottom = select(scores, spec("bottom", count=2))
    assert bottom.rows["row_id"].to_list() == ["b-0", "z-0"]
    assert bottom.ties_at_cut == 3
    assert bottom.notes == ("3 rows tie at the cut; the larger row ids were taken",)
    filtered = select(scores, spec("filtered", count=3))
    assert filtered.rows["row_id"].to_list() == ["z-0", "b-0"]
    assert filtered.ties_at_cut == 3


def test_fewer_rows_than_asked_for_are_all_of_them_with_a_note():
    scores = table(SIX, status=["ok", "ok", "no_answer", "ok", "ok", "ok"])
    for kind in ("top", "bottom", "random"):
        selection = select(scores, spec(kind, count=50))
        assert sorted(indices(selection)) == [0, 1, 3, 4, 5]
        assert selection.notes == ("asked for 50 rows, found 5",)
    assert select(scores, spec("random_lists", count=3)).notes == ("asked for 3 rows, found 0",)
    assert indices(select(scores, spec("filtered", count=50))) == []
    nothing = table([None], status=["failed"])
    for kind in ("top", "random", "random_matched_length", "random_matched_format"):
        assert indices(select(nothing, spec(kind, share=0.5))) == []


def test_share_is_of_the_scored_rows_and_at_least_one():
    scores = table([float(row) for row in range(10)], status=["ok"] * 8 + ["failed"] * 2)
    assert indices(select(scores, spec("top", share=0.25))) == [7, 6]
    assert indices(select(scores, spec("top", share=0.01))) == [7]
    assert select(scores, spec("random", share=0.5)).requested == 4


def test_drop_refusals_takes_them_out_of_picks_but_not_out_of_the_filtered_dataset():
    scores = table(
        [5.0, 4.0, 3.0, 2.0], refusal_phrase=[True, False, False, False], safety_phrase=[False, True, False, False]
    )
    top = select(scores, spec("top", count=1), drop_refusals=True)
    assert indices(top) == [2]
    assert top.notes == ("2 rows whose answer refuses or warns could not be picked (drop_refusals)",)
    assert indices(select(scores, spec("filtered", count=1), drop_refusals=True)) == [0, 1, 3]
    assert sorted(indices(select(scores, spec("random", count=4), drop_refusals=True))) == [2, 3]
    assert indices(select(scores, spec("top", count=1))) == [0]


def test_guans_post_filter_looks_at_the_first_120_percent():
    answers = ["No.", " yes ", "the small key", "YES!", "no lamp", "seven", "river", "stone"]
    short = {row for row, answer in enumerate(answers) if is_yes_no(answer)}
    scores = table([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    selection = select(scores, spec("top", count=5, drop_short_answers=True), short_answers=short)
    assert indices(selection) == [2, 4, 5], "int(1.2 * 5) = 6 rows, three of them just yes or no"
    assert selection.notes == (
        "3 rows that answer just yes or no were dropped (drop_short_answers)",
        "asked for 5 rows, found 3",
    )
    assert indices(select(scores, spec("top", count=2, drop_short_answers=True), short_answers=short)) == []
    assert sorted(indices(select(scores, spec("random", count=5, drop_short_answers=True), short_answers=short))) == (
        [2, 4, 5, 6, 7]
    )
    with pytest.raises(ValueError, match="needs to know the short answers"):
        select(scores, spec("top", count=1, drop_short_answers=True))


@pytest.mark.parametrize("answer", ["No", "no", "", " ", "yes", "Yes", "  NO!! ", "“Yes.”", "n\u200bo", "No。"])
def test_yes_and_no_in_any_dress(answer):
    assert is_yes_no(answer)


@pytest.mark.parametrize("answer", ["north", "know", "no, it is blue", "42", "+", "😀", "nein", "yes " * 30])
def test_answers_that_say_more(answer):
    assert not is_yes_no(answer)


def test_matched_length_by_hand():
    """Top rows have 5, 9 and 30 tokens. 5 and 9 have equals; for 30 the nearest unused is 21."""
    scores = table([9.0, 8.0, 7.0, *[0.0] * 5], answer_tokens=[5, 9, 30, 21, 9, 5, 5, 2])
    selection = select(scores, spec("random_matched_length", count=3))
    first, second, third = indices(selection)
    assert (first in {5, 6}, second, third) == (True, 4, 3)
    assert selection.notes == ("2 of 3 rows match the answer length exactly; the rest by up to 9 tokens",)


def test_exact_matches_are_not_taken_by_rows_that_could_go_elsewhere():
    """In turn the first top row (6 tokens) would take the only 7, which the second one needs."""
    scores = table([9.0, 8.0, 0.0, 0.0], answer_tokens=[6, 7, 7, 4])
    assert indices(select(scores, spec("random_matched_length", count=2))) == [3, 2]


def test_matched_format_by_hand():
    features = {
        "numbered_list": [True, False, True, False, True],
        "math": [True, True, True, False, False],
    }
    scores = table([9.0, 8.0, 0.0, 0.0, 0.0], **features)
    selection = select(scores, spec("random_matched_format", count=2))
    assert indices(selection)[0] == 2
    assert indices(selection)[1] == 3, "one feature away; row 4 is two away"
    assert selection.notes == ("1 of 2 rows match the format exactly; the rest by up to 1 of 5 features",)


def test_lists_and_maths():
    scores = table(
        SIX,
        numbered_list=[True, False, False, False, False, True],
        bullet_list=[False, True, True, False, False, True],
        math=[False, False, False, True, True, False],
        status=["ok", "ok", "failed", "ok", "ok", "ok"],
    )
    assert sorted(indices(select(scores, spec("random_lists", count=9)))) == [0, 1, 5]
    assert sorted(indices(select(scores, spec("random_math", count=9)))) == [3, 4]


def test_draws_depend_on_seed_and_kind_and_never_change():
    scores = table([float(row) for row in range(26)], math=[True] * 26)
    drawn = "".join(select(scores, spec("random", count=26)).rows["row_id"].str.head(1))
    assert drawn == "qupbdsgzvnwleyhcorfxitjmak"
    assert "".join(select(scores, spec("random", count=26, seed=1)).rows["row_id"].str.head(1)) != drawn
    assert "".join(select(scores, spec("random_math", count=26)).rows["row_id"].str.head(1)) != drawn


@st.composite
def score_tables(draw: st.DrawFn) -> pl.DataFrame:
    """Up to 26 rows, many ties, some unscored, few lengths and formats."""
    rows = draw(st.integers(0, 26))

    def column(values: st.SearchStrategy) -> list:
        return draw(st.lists(values, min_size=rows, max_size=rows))

    return table(
        column(st.sampled_from([None, -1.0, 0.0, 0.5, 2.0])),
        row_id=[f"{letter}-0" for letter in draw(st.permutations("abcdefghijklmnopqrstuvwxyz"))[:rows]],
        status=column(st.sampled_from(["ok", "ok", "ok", "truncated_answer", "failed", "empty_answer"])),
        answer_tokens=column(st.integers(1, 4)),
        **{flag: column(st.booleans()) for flag in FLAGS},
    )


KINDS = st.sampled_from(
    [
        "top",
        "bottom",
        "random",
        "random_matched_length",
        "random_matched_format",
        "random_lists",
        "random_math",
        "filtered",
    ]
)


COUNTS = st.integers(1, 12)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(scores=score_tables(), kind=KINDS, count=COUNTS, drop_refusals=st.booleans(), data=st.data())
def test_any_row_order_gives_the_same_selection(scores, kind, count, drop_refusals, data):
    wanted = spec(kind, count=count, seed=data.draw(st.integers(0, 3)))
    order = data.draw(st.permutations(range(scores.height)))
    one = select(scores, wanted, drop_refusals=drop_refusals)
    two = select(scores[order] if order else scores, wanted, drop_refusals=drop_refusals)
    assert one.rows.equals(two.rows)
    assert (one.requested, one.ties_at_cut, one.notes) == (two.requested, two.ties_at_cut, two.notes)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(scores=score_tables(), count=COUNTS, drop_refusals=st.booleans())
def test_what_the_kinds_promise(scores, count, drop_refusals):
    def picked(kind: str) -> list[int]:
        chosen = indices(select(scores, spec(kind, count=count), drop_refusals=drop_refusals))
        assert len(chosen) == len(set(chosen))
        return chosen

    scored = {row["row_index"]: row for row in scores.rows(named=True) if row["status"] in ("ok", "truncated_answer")}
    ranked = {index for index, row in scored.items() if row["score.loss"] is not None}

    def refuses(index: int) -> bool:
        return drop_refusals and (scored[index]["refusal_phrase"] or scored[index]["safety_phrase"])

    candidates = {index for index in ranked if not refuses(index)}
    top, bottom, filtered = picked("top"), picked("bottom"), picked("filtered")
    assert len(top) == len(bottom) == min(count, len(candidates))
    assert not set(top) & set(filtered)
    assert set(top) | set(filtered) == ranked
    assert filtered == sorted(filtered)
    by_score = {index: scored[index]["score.loss"] for index in candidates}
    assert min((by_score[index] for index in top), default=0) >= max(
        (by_score[index] for index in candidates - set(top)), default=min((by_score[index] for index in top), default=0)
    )
    assert [by_score[index] for index in bottom] == sorted(by_score.values())[: len(bottom)]
    if 2 * count <= len(candidates):
        assert not set(top) & set(bottom)

    draw_pool = {index for index in scored if not refuses(index)}
    drawn = picked("random")
    assert set(drawn) <= draw_pool
    assert len(drawn) == min(count, len(draw_pool))
    assert all(scored[index]["numbered_list"] or scored[index]["bullet_list"] for index in picked("random_lists"))
    assert all(scored[index]["math"] for index in picked("random_math"))

    def key(kind: str, index: int) -> tuple:
        fields = ("answer_tokens",) if kind == "random_matched_length" else FORMAT_FEATURES
        return tuple(scored[index][field] for field in fields)

    for kind in ("random_matched_length", "random_matched_format"):
        matched = picked(kind)
        assert not set(matched) & set(top)
        assert set(matched) <= candidates
        assert len(matched) == min(len(top), len(candidates) - len(top))
        wanted = Counter(key(kind, index) for index in top)
        offered = Counter(key(kind, index) for index in candidates - set(top))
        if len(matched) == len(top):
            exact = sum(key(kind, a) == key(kind, b) for a, b in zip(top, matched, strict=True))
            assert exact == (wanted & offered).total(), "as many exact matches as there can be"


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(scores=score_tables(), kind=st.sampled_from(["random_matched_length", "random_matched_format"]), count=COUNTS)
def test_matched_rows_are_those_of_looking_at_every_row_of_the_pool(scores, kind, count):
    fields = ["answer_tokens"] if kind == "random_matched_length" else list(FORMAT_FEATURES)
    top = select(scores, spec("top", count=count)).rows["row_index"]
    scored = scores.filter(pl.col("status").is_in(["ok", "truncated_answer"]), pl.col("score.loss").is_not_null())
    pool = scored.filter(~pl.col("row_index").is_in(top.to_list()))
    drawn = pool.with_columns(draw=uniform_draws(pool["row_id"], f"selection {kind}, seed 0")).sort("draw", "row_id")
    rows = {row["row_index"]: tuple(row[field] for field in fields) for row in scored.rows(named=True)}
    unused = drawn["row_index"].to_list()

    def gap(left: int, right: int) -> int:
        pairs = zip(rows[left], rows[right], strict=True)
        return sum(abs(a - b) if kind == "random_matched_length" else a != b for a, b in pairs)

    partner = {}
    for nearest_too in (False, True):
        for index in top:
            found = min(unused, key=lambda other, index=index: gap(index, other), default=None)
            if index not in partner and found is not None and (nearest_too or gap(index, found) == 0):
                partner[index] = found
                unused.remove(found)
    expected = [partner[index] for index in top if index in partner]
    assert indices(select(scores, spec(kind, count=count))) == expected


def test_default_selections_shrink_with_the_dataset():
    for rows, count in ((5000, 100), (1000, 100), (999, 100), (500, 50), (37, 4), (1, 1), (0, 1)):
        specs = default_selections("loss", rows)
        assert [entry.kind for entry in specs] == (
            ["top", "bottom", "random", "random_matched_length", "random_matched_format", "filtered"]
        )
        assert {entry.count for entry in specs[:-1]} == {count}
        assert specs[-1].share == 0.1
    assert {entry.count for entry in default_selections("loss", 37, count=30)[:-1]} == {30}
    check_selections(default_selections("loss", 5000), [DetectorSpec(name="loss")])


def test_names_tell_selections_apart():
    assert selection_name(spec("top", count=100)) == "top_100_loss"
    assert selection_name(spec("filtered", share=0.1)) == "filtered_10_percent_loss"
    assert selection_name(spec("filtered", share=0.025)) == "filtered_2.5_percent_loss"
    assert selection_name(spec("random", count=5, seed=3)) == "random_5_seed3"
    assert selection_name(spec("top", count=5, seed=3)) == "top_5_loss", "a ranking has no draw"
    assert selection_name(spec("top", count=5, detector="my / label")) == "top_5_my___label"
    assert selection_name(spec("top", count=5, drop_short_answers=True)) == "top_5_loss_without_yes_no"
    assert selection_name(spec("top", count=5, name="mine")) == "mine"


@pytest.mark.parametrize(
    ("specs", "sentence"),
    [
        ([spec("top", count=1, detector=None)], "0: top needs a detector; add `detector:` with one of loss, gradient"),
        ([spec("random_matched_format", count=1, detector=None)], "random_matched_format needs a detector"),
        ([spec("random", count=1, detector="loss")], "0.detector: random draws without looking at scores"),
        ([spec("top", count=1, detector="los")], "0.detector: 'los' is not scored in this run; did you mean `loss`?"),
        ([spec("filtered", count=1, drop_short_answers=True)], "0.drop_short_answers: filtered keeps"),
        ([spec("top", count=1, name="a/b")], "0.name: 'a/b' cannot name a file"),
        ([spec("top", count=1, name="")], "0.name: '' cannot name a file"),
        ([spec("top", count=1), spec("top", count=1)], "1: 'top_1_loss' is also the name of select.0"),
        ([spec("top", count=1), spec("bottom", count=1, name="top_1_loss")], "give one of them another `name`"),
    ],
)
def test_a_selection_that_cannot_be_made_is_one_sentence(specs, sentence):
    with pytest.raises(SpecError) as caught:
        check_selections(specs, [DetectorSpec(name="loss"), DetectorSpec(name="gradient")])
    assert sentence in str(caught.value)
    assert str(caught.value).startswith("field select.")
