"""What a set of rows looks like beside the whole dataset: format mix, answer phrasing, question types, lengths."""

from typing import Any

import numpy as np
import polars as pl

from bds.report.statistics import measured, random_draw_interval

FORMATS = {
    "numbered_list": "numbered list",
    "bullet_list": "bullet list",
    "math": "maths",
    "code": "code",
    "short_answer": "short answer",
    "no_format": "none of these",
}
"""Feature column to its name in the report; `no_format` is derived: none of the others."""

KEYWORDS = {"refusal_phrase": "refusal phrasing", "safety_phrase": "safety phrasing"}

LENGTHS = {"answer_words": "answer words", "prompt_words": "prompt words", "answer_tokens": "answer tokens"}

QUESTION_TYPE = "question_type"
QUARTILES = {"first_quartile": 0.25, "median": 0.5, "third_quartile": 0.75}


def with_derived_format(scores: pl.DataFrame) -> pl.DataFrame:
    """Adds `no_format`; null where no format feature of the row was measured."""
    named = [name for name in FORMATS if name in scores.columns]
    if not named:
        return scores
    return scores.with_columns(no_format=~pl.any_horizontal(named))


def share(rows: pl.DataFrame, feature: str) -> float | None:
    """Share of the rows that have the feature, among those where it was measured."""
    if feature not in rows.columns:
        return None
    values = rows[feature].drop_nulls()
    return float(values.cast(pl.Float64).sum()) / len(values) if len(values) else None


def lift(part: float | None, whole: float | None) -> float | None:
    """How many times as common in the part as in the whole; None where the whole has none of it."""
    return part / whole if part is not None and whole else None


def feature_mix(
    features: dict[str, str], dataset: pl.DataFrame, flagged: pl.DataFrame, controls: dict[str, pl.DataFrame]
) -> dict[str, Any]:
    """Feature to its share of the flagged rows, of all scored rows and of every control, the lift, and the interval
    in which 95 % of equally large random draws from the dataset lie."""
    mix = {}
    for feature in features:
        everywhere, here = share(dataset, feature), share(flagged, feature)
        mix[feature] = {
            "flagged": here,
            "dataset": everywhere,
            "controls": {name: share(rows, feature) for name, rows in controls.items()},
            "lift": lift(here, everywhere),
            "random_interval": _interval(dataset, feature, len(flagged)),
        }
    return mix


def _interval(dataset: pl.DataFrame, feature: str, draws: int) -> tuple[float, float] | None:
    if feature not in dataset.columns:
        return None
    values = dataset[feature].drop_nulls()
    return random_draw_interval(len(values), int(values.sum()), draws)


def question_types(dataset: pl.DataFrame, flagged: pl.DataFrame) -> dict[str, dict[str, float | None]]:
    """Question type to its share of the flagged and of all scored rows and the lift, the most frequent first."""
    if QUESTION_TYPE not in dataset.columns:
        return {}
    kinds = (
        dataset[QUESTION_TYPE]
        .drop_nulls()
        .value_counts(sort=False)
        .sort(["count", QUESTION_TYPE], descending=[True, False])
    )
    mix = {}
    for kind in kinds[QUESTION_TYPE]:
        here, everywhere = _share_of(flagged, kind), _share_of(dataset, kind)
        mix[str(kind)] = {"flagged": here, "dataset": everywhere, "lift": lift(here, everywhere)}
    return mix


def _share_of(rows: pl.DataFrame, kind: str) -> float | None:
    values = rows[QUESTION_TYPE].drop_nulls()
    return float((values == kind).sum()) / len(values) if len(values) else None


def quartiles(rows: pl.DataFrame, length: str) -> dict[str, float] | None:
    """First quartile, median and third quartile of a length, with linear interpolation; None where nothing is known."""
    if length not in rows.columns:
        return None
    values = measured(rows[length])
    if values.is_empty():
        return None
    return {name: float(np.quantile(values.to_numpy(), at)) for name, at in QUARTILES.items()}


def lengths(dataset: pl.DataFrame, flagged: pl.DataFrame, controls: dict[str, pl.DataFrame]) -> dict[str, Any]:
    """Length column to its quartiles in the flagged rows, in all scored rows and in every control."""
    return {
        length: {
            "flagged": quartiles(flagged, length),
            "dataset": quartiles(dataset, length),
            "controls": {name: quartiles(rows, length) for name, rows in controls.items()},
        }
        for length in LENGTHS
    }
