"""metrics.json of a moderation: what each judge flags of a dataset, with intervals. Not measured is null and counted.

schema       "bds.moderation/v1"
name         the spec's name; dataset, what was moderated; audit, the run directory of the audit whose rows these are
rows         total, answers (rows that have one to judge), without_answer {status: rows}
confidence   of the intervals
judges       a list: name, method, model, engine, fingerprint, gives, scale, measures; answers, scored (with a verdict),
             unscored, statuses {reason: rows}; flagged and refused, each a rate or null where the judge does not tell;
             score {mean, minimum, maximum} or null; categories, a list of {category, rows}, commonest first
             a rate: rows, scored, share, low, high (Wilson), and worst_low, worst_high with every answer that has no
             verdict taken as not counted, as counted
flagged_rows the first of the rows that a judge flags, most probable first: judge, row_index, row_id, source, line,
             probability, score, categories
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from bds.evaluation.statistics.intervals import wilson
from bds.evaluation.verdicts import REASONS

SCHEMA = "bds.moderation/v1"
CONFIDENCE = 0.95
ROWS_LISTED = 100


@dataclass(frozen=True)
class JudgeFacts:
    """What a report says of one judge."""

    name: str
    method: str
    model: str | None
    engine: str
    """What ran the model, with its version; "keywords" where there is none."""
    fingerprint: str
    gives: tuple[str, ...]
    scale: tuple[float, float] | None
    measures: str

    @property
    def tells_harm(self) -> bool:
        return "harmful" in self.gives or self.scale is not None


def moderation_metrics(
    table: pl.DataFrame, judges: Sequence[JudgeFacts], *, name: str, dataset: str, audit: str | None
) -> dict[str, Any]:
    """
    Args:
        table: moderation.parquet, of every judge.
    """
    first = table.filter(pl.col("judge") == judges[0].name)
    without = first.filter(~_was_judged())["status"].value_counts(sort=True)
    return {
        "schema": SCHEMA,
        "name": name,
        "dataset": dataset,
        "audit": audit,
        "rows": {
            "total": first.height,
            "answers": first.filter(_was_judged()).height,
            "without_answer": dict(without.iter_rows()),
        },
        "confidence": CONFIDENCE,
        "judges": [_judge(table.filter(pl.col("judge") == judge.name), judge) for judge in judges],
        "flagged_rows": _listed(table),
    }


def _was_judged() -> pl.Expr:
    """Whether a row had an answer: its status is then the judge's."""
    return pl.col("status").is_in(["ok", *REASONS])


def _judge(table: pl.DataFrame, judge: JudgeFacts) -> dict[str, Any]:
    answers = table.filter(_was_judged())
    unscored = answers.filter(pl.col("status") != "ok")
    scores = answers["score"].drop_nulls()
    names = answers["categories"].explode().drop_nulls().value_counts(name="rows")
    return {
        **asdict(judge),
        "answers": answers.height,
        "scored": answers.height - unscored.height,
        "unscored": unscored.height,
        "statuses": dict(unscored["status"].value_counts(sort=True).iter_rows()),
        "flagged": _rate(answers["flagged"]) if judge.tells_harm else None,
        "refused": _rate(answers["refused"]) if "refused" in judge.gives else None,
        "score": {"mean": scores.mean(), "minimum": scores.min(), "maximum": scores.max()} if len(scores) else None,
        "categories": names.sort(["rows", "categories"], descending=[True, False])
        .rename({"categories": "category"})
        .to_dicts(),
    }


def _rate(values: pl.Series) -> dict[str, Any]:
    """Share of true among the values that are there, and what the others could make of it."""
    rows, scored, answers = int(values.sum() or 0), len(values.drop_nulls()), len(values)
    interval = wilson(rows, scored, CONFIDENCE)
    return {
        "rows": rows,
        "scored": scored,
        "share": rows / scored if scored else None,
        "low": None if interval is None else interval.low,
        "high": None if interval is None else interval.high,
        "method": "Wilson",
        "worst_low": rows / answers if answers else None,
        "worst_high": (rows + answers - scored) / answers if answers else None,
    }


def _listed(table: pl.DataFrame) -> list[dict[str, Any]]:
    flagged = table.filter(pl.col("flagged")).sort(
        ["probability", "row_index", "judge"], descending=[True, False, False], nulls_last=True
    )
    shown = flagged.head(ROWS_LISTED)
    return shown.select(
        "judge", "row_index", "row_id", "source", "line", "probability", "score", "categories"
    ).to_dicts()
