"""What came of the questions asked: "answers" of metrics.json."""

from typing import Any

import polars as pl

from bds.evaluation.study import Layout, in_order

_ANSWER = ["condition", "suite", "prompt_id", "sample"]


def answer_counts(rows: pl.DataFrame, layout: Layout, primary_judge: str) -> list[dict[str, Any]]:
    """Of each condition and suite: answers asked = ok + empty + failed, and of those ok the truncated ones.

    An answer failed where every row of it did, which is so only if it never came; it is empty where it has no
    characters, and truncated where it reached the length limit. `statuses` counts why answers have no verdict of the
    primary judge. `mean_tokens` is over the answers whose length is known, None where none is.

    Args:
        rows: rows.parquet.
    """
    is_unscored = (pl.col("judge") == primary_judge) & pl.col("value").is_null()
    of_each = rows.group_by(_ANSWER).agg(
        failed=(pl.col("status") == "failed").all(),
        empty=(pl.col("answer_characters") == 0).any(),
        truncated=(pl.col("finish_reason") == "length").any(),
        tokens=pl.col("answer_tokens").max(),
        reason=pl.col("status").filter(is_unscored).min(),
    )
    parts = of_each.partition_by("condition", "suite", as_dict=True)
    own = {(str(condition), str(suite)): answers for (condition, suite), answers in parts.items()}
    conditions, suites = ({key[place] for key in own} for place in (0, 1))
    return [
        {"condition": condition, "suite": suite, **_counted(own[condition, suite])}
        for condition in in_order(conditions, layout.conditions)
        for suite in in_order(suites, layout.suites)
        if (condition, suite) in own
    ]


def _counted(answers: pl.DataFrame) -> dict[str, Any]:
    failed = int(answers["failed"].sum())
    empty = int((answers["empty"] & ~answers["failed"]).sum())
    tokens = answers["tokens"].drop_nulls().to_list()
    return {
        "asked": answers.height,
        "ok": answers.height - failed - empty,
        "empty": empty,
        "truncated": int(answers["truncated"].sum()),
        "failed": failed,
        "statuses": dict(sorted(answers["reason"].drop_nulls().value_counts().iter_rows())),
        "mean_tokens": sum(tokens) / len(tokens) if tokens else None,
    }
