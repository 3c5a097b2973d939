"""How far judges agree on the same answers: "agreement" of metrics.json."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import polars as pl

from bds.evaluation.prompt_values import RATINGS, PromptValues
from bds.evaluation.statistics.agreement import agreement
from bds.evaluation.study import Series

_ANSWER = ["condition", "prompt_id", "sample"]


def agreements(reported: pl.DataFrame, values: Mapping[Series, Mapping[str, PromptValues]]) -> list[dict[str, Any]]:
    """One of each suite, metric and pair of judges that give it, over the answers of all conditions that both scored.

    Ratings are left out: two judges' scales need not be one.

    Args:
        reported: rows with the metrics that are reported.
        values: the series, in order.
    """
    found = []
    for first, second in combinations(values, 2):
        if (first.suite, first.metric) != (second.suite, second.metric) or first.metric in RATINGS:
            continue
        both = _scored(reported, first).join(_scored(reported, second), on=_ANSWER, suffix="_second")
        told = agreement(both["value"].to_numpy(), both["value_second"].to_numpy())
        found.append(
            {
                "suite": first.suite,
                "judges": [first.judge, second.judge],
                "metric": first.metric,
                "answers": told.answers,
                "agree": told.agree,
                "kappa": told.kappa,
            }
        )
    return found


def _scored(reported: pl.DataFrame, series: Series) -> pl.DataFrame:
    own = [pl.col(name) == value for name, value in series._asdict().items()]
    return reported.filter(*own, pl.col("value").is_not_null()).select(*_ANSWER, "value")
