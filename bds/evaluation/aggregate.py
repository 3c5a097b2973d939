"""From measurements to what is told of them: the parts of metrics.json that are made of rows.parquet.

The same rows give the same numbers, in whatever order they are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from bds.evaluation.agreements import agreements
from bds.evaluation.answer_counts import answer_counts
from bds.evaluation.contrasts import contrasts
from bds.evaluation.prompt_values import prompt_values
from bds.evaluation.rates import groups, rates
from bds.evaluation.study import Layout, Options, arms_of, groups_of, reported, suite_kinds
from bds.evaluation.unharmed import suite_checks, task_checks


def aggregate(
    rows: pl.DataFrame, layout: Layout, options: Options, utility: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """answers, rates, groups, contrasts, non_inferiority and agreement of metrics.json.

    Args:
        rows: rows.parquet.
        utility: the list of metrics.json, with lm-eval's `filter`.
    """
    arms, kinds = arms_of(rows, layout), suite_kinds(rows)
    told = reported(rows, layout)
    values = prompt_values(told, layout)
    names, baseline = list(groups_of(arms)), options.baseline
    compared = [(name, baseline) for name in names if name != baseline] if baseline in names else []
    found = contrasts(values, arms, compared, kinds, options)
    return {
        "answers": answer_counts(rows, layout, options.primary_judge),
        "rates": rates(values, arms, options),
        "groups": groups(values, arms, options),
        "contrasts": found,
        "non_inferiority": [
            *suite_checks(found, kinds, layout.judges, options),
            *task_checks(utility, arms, options),
        ],
        "agreement": agreements(told, values),
    }
