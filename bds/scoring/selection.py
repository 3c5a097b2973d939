"""Selections: subsets of the scored rows to write out as datasets, and the controls that a comparison needs.

Every selection is a function of the score table and its spec: neither the order of the rows nor the machine changes it.
"""

import re
import unicodedata
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from bds.data.rows import SCORED_STATUSES
from bds.scoring import columns
from bds.scoring.detectors import uniform_draws
from bds.spec.models import SelectionSpec

RANKED_KINDS = frozenset({"top", "bottom", "filtered"})
"""Kinds that a detector's ranking decides."""

MATCHED_KINDS = frozenset({"random_matched_length", "random_matched_format"})
"""Controls that copy a property of a detector's top rows."""

FORMAT_FEATURES = ("numbered_list", "bullet_list", "math", "code", "short_answer")
"""The features whose combination `random_matched_format` matches."""

DEFAULT_COUNT = 100
DEFAULT_SHARE = 0.1

YES_NO_ANSWERS = frozenset({"no", "yes", ""})

_Key = tuple[Any, ...]
"""Of a row that is matched: its values of some columns."""


@dataclass(frozen=True, eq=False)
class Selection:
    """The rows of one selection, and what a reader must know about how they were chosen."""

    name: str
    kind: str
    detector: str | None
    rows: pl.DataFrame
    """row_index and row_id in the order of the selection: top and bottom from their extreme inwards, a random kind in
    the order of its draw, a matched control in the order of the rows it matches, filtered in the dataset's order."""
    requested: int
    """Rows asked for; for `filtered`, rows asked to be left out."""
    ties_at_cut: int
    """Rows that share the last selected score, where not all of them were selected; 0 where the cut is clear."""
    notes: tuple[str, ...]


def select(
    scores: pl.DataFrame,
    spec: SelectionSpec,
    *,
    drop_refusals: bool = False,
    short_answers: Container[int] | None = None,
) -> Selection:
    """The rows that `spec` means.

    top, bottom            the two ends of the ranking, so a tie goes to the smaller row_id at the top and to the larger
                           at the bottom, and the two are disjoint while the dataset has twice the rows asked for
    random                 a seeded draw from the scored rows, without regard to any detector
    random_lists           the same among rows with a numbered or bullet list
    random_math            the same among rows with maths
    random_matched_length  for each of the detector's top rows, in turn, an unused row outside them with the same
                           answer_tokens, then for those left over the nearest length; equals go by seeded draw
    random_matched_format  the same with the combination of FORMAT_FEATURES, nearest meaning the fewest that differ
    filtered               every scored row except the detector's top rows; a row without a score is left out as well,
                           because nothing vouches for it, and the notes count such rows by status

    Args:
        scores: The table of `score_table`: the whole dataset.
        spec: A spec that `check_selections` passed.
        drop_refusals: Neither flag nor draw rows whose answer refuses or warns. `filtered` therefore keeps them.
        short_answers: row_index of the rows that answer just yes or no (`is_yes_no`), needed for `drop_short_answers`:
            Guan et al. take the int(1.2 k) highest rows and keep the first k of those that answer more than that.
            Random kinds leave such rows out of what they draw from.

    A selection with fewer rows than asked for has all there are, and a note.
    """
    # Of millions of rows, copies of every column would be most of what is in memory.
    population = scores.select(_read_by(spec)).filter(pl.col("status").is_in(list(SCORED_STATUSES)))
    if spec.detector is not None:
        population = population.filter(pl.col(columns.score(spec.detector)).is_not_null())
    requested = _requested(spec, population.height)
    notes: list[str] = []
    candidates = population
    if drop_refusals:
        candidates = population.filter(~pl.any_horizontal("refusal_phrase", "safety_phrase").fill_null(False))
        if candidates.height < population.height:
            refusals = population.height - candidates.height
            notes.append(f"{_rows(refusals)} whose answer refuses or warns could not be picked (drop_refusals)")
    is_short = _yes_no_filter(short_answers) if spec.drop_short_answers else None

    ties_at_cut = 0
    if spec.kind in {"top", "bottom"}:
        picked, ties_at_cut = _extreme(candidates, spec, requested, is_short, notes)
    elif spec.kind == "filtered":
        flagged, ties_at_cut = _extreme(candidates, spec, requested, is_short, notes)
        picked = population.select("row_index", "row_id").join(flagged, on="row_index", how="anti").sort("row_index")
        notes += _filtered_notes(scores, flagged.height, picked.height)
    elif spec.kind in MATCHED_KINDS:
        flagged, _ = _extreme(candidates, spec, requested, is_short, notes)
        pool = _drawn(candidates.join(flagged, on="row_index", how="anti"), spec, is_short, notes)
        picked = _matched(flagged, pool, spec.kind, notes)
    else:
        pool = candidates.filter(_POOLS[spec.kind])
        picked = _drawn(pool, spec, is_short, notes).head(requested)

    if spec.kind != "filtered" and picked.height < requested:
        notes.append(f"asked for {_rows(requested)}, found {picked.height}")
    if ties_at_cut:
        taken = "larger" if spec.kind == "bottom" else "smaller"
        notes.append(f"{_rows(ties_at_cut)} tie at the cut; the {taken} row ids were taken")
    rows = picked.select("row_index", "row_id")
    return Selection(selection_name(spec), spec.kind, spec.detector, rows, requested, ties_at_cut, tuple(notes))


def _read_by(spec: SelectionSpec) -> list[str]:
    """Columns of the score table that a selection depends on."""
    found = ["row_index", "row_id", "status", "answer_tokens", "refusal_phrase", "safety_phrase", *FORMAT_FEATURES]
    return found if spec.detector is None else [*found, columns.score(spec.detector)]


_POOLS = {
    "random": pl.lit(True),
    "random_lists": pl.any_horizontal("numbered_list", "bullet_list"),
    "random_math": pl.col("math"),
}


def selection_name(spec: SelectionSpec) -> str:
    """The selection's own name, or one made of all that sets it apart: `random_matched_length_100_gradient_seed3`."""
    if spec.name is not None:
        return spec.name
    size = f"{spec.count}" if spec.share is None else f"{100 * spec.share:g}_percent"
    detector = [] if spec.detector is None else [re.sub(r"[^A-Za-z0-9._-]", "_", spec.detector)]
    short = ["without_yes_no"] if spec.drop_short_answers else []
    seed = [f"seed{spec.seed}"] if spec.seed and spec.kind not in RANKED_KINDS else []
    return "_".join([spec.kind, size, *detector, *short, *seed])


def default_selections(detector: str, scored_rows: int, count: int | None = None) -> list[SelectionSpec]:
    """Top, bottom, random and matched controls of `count` rows, and the dataset without its top tenth.

    Without a count they have 100 rows; below 1,000 scored rows a tenth of them (at least 1), so that top and bottom
    stay apart.
    """
    if count is None:
        count = max(1, min(DEFAULT_COUNT, round(scored_rows * DEFAULT_SHARE)))
    return [
        SelectionSpec(kind="top", detector=detector, count=count),
        SelectionSpec(kind="bottom", detector=detector, count=count),
        SelectionSpec(kind="random", count=count),
        SelectionSpec(kind="random_matched_length", detector=detector, count=count),
        SelectionSpec(kind="random_matched_format", detector=detector, count=count),
        SelectionSpec(kind="filtered", detector=detector, share=DEFAULT_SHARE),
    ]


def is_yes_no(answer: str) -> bool:
    """Whether an answer is nothing but yes or no, or nothing at all, punctuation and case aside."""
    stripped = answer.strip()
    if len(stripped) > 40:
        return False
    kept = (character for character in stripped.casefold() if unicodedata.category(character)[0] not in "PZC")
    return "".join(kept) in YES_NO_ANSWERS


def _yes_no_filter(short_answers: Container[int] | None) -> Callable[[pl.DataFrame], pl.Series]:
    if short_answers is None:
        raise ValueError("drop_short_answers needs to know the short answers")
    return lambda rows: pl.Series([index in short_answers for index in rows["row_index"]], dtype=pl.Boolean)


def _requested(spec: SelectionSpec, scored_rows: int) -> int:
    if spec.share is None:
        assert spec.count is not None, "SelectionSpec has one of count and share"
        return spec.count
    return max(1, round(spec.share * scored_rows))


def _extreme(
    candidates: pl.DataFrame,
    spec: SelectionSpec,
    requested: int,
    is_short: Callable[[pl.DataFrame], pl.Series] | None,
    notes: list[str],
) -> tuple[pl.DataFrame, int]:
    """The rows with the most extreme scores, and how many rows tie at the cut."""
    assert spec.detector is not None, "check_selections refuses a ranked or matched kind without a detector"
    score = columns.score(spec.detector)
    ordered = candidates.sort(score, "row_id", descending=[spec.kind != "bottom", spec.kind == "bottom"])
    if is_short is not None:
        window = requested + requested // 5
        ordered = ordered.head(window)
        ordered = _without_short(ordered, is_short, notes)
    picked = ordered.head(requested)
    if picked.is_empty():
        return picked, 0
    tied = candidates.filter(pl.col(score) == picked[score][-1]).height
    selected = picked.filter(pl.col(score) == picked[score][-1]).height
    return picked, tied if tied > selected else 0


def _without_short(rows: pl.DataFrame, is_short: Callable[[pl.DataFrame], pl.Series], notes: list[str]) -> pl.DataFrame:
    kept = rows.filter(~is_short(rows))
    if kept.height < rows.height:
        notes.append(f"{_rows(rows.height - kept.height)} that answer just yes or no were dropped (drop_short_answers)")
    return kept


def _drawn(
    pool: pl.DataFrame,
    spec: SelectionSpec,
    is_short: Callable[[pl.DataFrame], pl.Series] | None,
    notes: list[str],
) -> pl.DataFrame:
    """The pool in the order of its seeded draw."""
    if is_short is not None:
        pool = _without_short(pool, is_short, notes)
    draws = uniform_draws(pool["row_id"], f"selection {spec.kind}, seed {spec.seed}")
    return pool.with_columns(draws.alias("draw")).sort("draw", "row_id")


def _matched(flagged: pl.DataFrame, pool: pl.DataFrame, kind: str, notes: list[str]) -> pl.DataFrame:
    if kind == "random_matched_length":
        partners, differences = _nearest(flagged, pool, ["answer_tokens"], lambda a, b: abs(a[0] - b[0]))
        what, unit = "answer length", "tokens"
    else:
        partners, differences = _nearest(
            flagged, pool, FORMAT_FEATURES, lambda a, b: sum(x != y for x, y in zip(a, b, strict=True))
        )
        what, unit = "format", f"of {len(FORMAT_FEATURES)} features"
    exact = sum(difference == 0 for difference in differences)
    if exact < len(differences):
        notes.append(
            f"{exact} of {len(differences)} rows match the {what} exactly; the rest by up to {max(differences)} {unit}"
        )
    return pool[partners]


def _nearest(
    flagged: pl.DataFrame, pool: pl.DataFrame, by: Sequence[str], distance: Callable[[_Key, _Key], int]
) -> tuple[list[int], list[int]]:
    """A position in `pool` for every flagged row, each used once, and its distance; fewer where the pool runs out.

    Exact matches are made first, so that no row takes another one's equal; then each row left takes the nearest key, a
    key being a row's values of the columns `by`. Among equal keys, and among keys equally near, the earlier position in
    the pool wins.
    """
    targets = flagged.select(by).rows()
    # No more of a key than there are targets can be used: of millions of rows the others need not be held.
    places = pool.select(by).with_row_index("position").group_by(by).agg(pl.col("position").head(len(targets)))
    unused: dict[_Key, list[int]] = {tuple(key): positions[::-1] for *key, positions in places.iter_rows()}

    def take(key: _Key) -> int:
        position = unused[key].pop()
        if not unused[key]:
            del unused[key]
        return position

    partner: dict[int, tuple[int, int]] = {}
    for index, target in enumerate(targets):
        if target in unused:
            partner[index] = (take(target), 0)
    for index, target in enumerate(targets):
        if index not in partner and unused:
            gap, _, key = min((distance(target, key), positions[-1], key) for key, positions in unused.items())
            partner[index] = (take(key), gap)
    found = [partner[index] for index in range(len(targets)) if index in partner]
    return [position for position, _ in found], [gap for _, gap in found]


def _filtered_notes(scores: pl.DataFrame, flagged: int, kept: int) -> list[str]:
    notes = [f"{_rows(flagged)} flagged and left out, {kept} kept"]
    without_score = scores.height - flagged - kept
    if without_score:
        statuses = scores["status"].value_counts().sort("status").iter_rows()
        counts = {status: count for status, count in statuses if status not in SCORED_STATUSES}
        not_finite = without_score - sum(counts.values())
        if not_finite:
            counts["without a finite score"] = not_finite
        by_status = ", ".join(f"{count} {status}" for status, count in counts.items())
        notes.append(f"{_rows(without_score)} without a score left out as well: {by_status}")
    return notes


def _rows(count: int) -> str:
    return f"{count} row" if count == 1 else f"{count} rows"
