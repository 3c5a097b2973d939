"""One value a prompt: what rows.parquet says of a prompt's answers, averaged within the prompt.

Several answers to one prompt are no independent observations, so every interval and test begins here. N prompts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean

import numpy as np
import polars as pl

from bds.evaluation.statistics.bounds import prompt_bounds
from bds.evaluation.study import Layout, Series, categories_in_order, in_order

HEADLINE_METRICS = ("attack_success", "harmful", "harmfulness_rate", "harmfulness_score", "score")
"""Of a suite to refuse, the best first: the first that the primary judge gives is the headline's."""

METRICS = (*HEADLINE_METRICS, "over_refusal", "refused", "correct", "degenerate")
"""In the order of the tables."""

RATINGS = frozenset({"harmfulness_score", "score"})
"""On the judge's scale; every other metric is 0 or 1 of each answer."""


@dataclass(frozen=True, eq=False)
class PromptValues:
    """One series of one condition. The arrays are (N,), in the order of `prompts`."""

    prompts: np.ndarray
    """Ids, sorted."""
    categories: np.ndarray
    values: np.ndarray
    """Mean over the prompt's scored answers; NaN, here alone, where none is scored."""
    least: np.ndarray
    """As `values`, with every unscored answer at the metric's least."""
    greatest: np.ndarray
    range: tuple[float, float]
    """Least and greatest value of the metric."""
    is_count: bool
    """Whether each prompt is 0 or 1: a metric that is, of a single answer."""

    @cached_property
    def is_scored(self) -> np.ndarray:
        return ~np.isnan(self.values)

    @property
    def scored(self) -> int:
        return int(self.is_scored.sum())

    @property
    def unscored(self) -> int:
        return len(self.prompts) - self.scored

    @property
    def mean(self) -> float | None:
        return fmean(self.values[self.is_scored]) if self.scored else None

    def at(self, chosen: np.ndarray) -> "PromptValues":
        """The chosen prompts, by a mask or by places."""
        return replace(
            self,
            prompts=self.prompts[chosen],
            categories=self.categories[chosen],
            values=self.values[chosen],
            least=self.least[chosen],
            greatest=self.greatest[chosen],
        )

    def of_category(self, name: str) -> "PromptValues":
        return self.at(self.categories == name)


def prompt_values(reported: pl.DataFrame, layout: Layout) -> dict[Series, dict[str, PromptValues]]:
    """The values of every series and condition, both in the layout's order, whatever the order of the rows.

    Args:
        reported: rows.parquet with the metrics that are reported.
    """
    keys = ["suite", "judge", "metric", "condition"]
    ordered = reported.sort([*keys, "prompt_id", "sample"])
    found: dict[Series, dict[str, PromptValues]] = {}
    for key, own in ordered.partition_by(keys, as_dict=True, maintain_order=True).items():
        suite, judge, metric, condition = (str(part) for part in key)
        span = layout.scales[judge] if metric in RATINGS else (0.0, 1.0)
        found.setdefault(Series(suite, judge, metric), {})[condition] = _values(own, metric, span)
    return {
        series: {name: found[series][name] for name in in_order(found[series], layout.conditions)}
        for series in _series_in_order(found, layout)
    }


def complete(values: Sequence[PromptValues]) -> list[PromptValues]:
    """The same, without prompts that one of them lacks or has unscored: their arrays are of the same prompts."""
    common = values[0].prompts[values[0].is_scored]
    for each in values[1:]:
        common = np.intersect1d(common, each.prompts[each.is_scored], assume_unique=True)
    return [each.at(np.searchsorted(each.prompts, common)) for each in values]


def categories_of(values: Iterable[PromptValues]) -> list[str]:
    """Their categories in order; none where no prompt has one."""
    names = {name for each in values for name in each.categories.tolist()}
    return [] if names <= {""} else categories_in_order(names)


def on_common_prompts(a: PromptValues, b: PromptValues) -> tuple[PromptValues, PromptValues]:
    """Both on the prompts that both were asked, scored or not."""
    _, of_a, of_b = np.intersect1d(a.prompts, b.prompts, assume_unique=True, return_indices=True)
    return a.at(of_a), b.at(of_b)


def _values(rows: pl.DataFrame, metric: str, span: tuple[float, float]) -> PromptValues:
    """Of rows sorted by prompt and sample."""
    prompts = rows["prompt_id"].to_numpy().astype(str)
    measured = rows["value"].cast(pl.Float64).to_numpy()
    is_scored = ~np.isnan(measured)
    starts = np.flatnonzero(np.concatenate([[True], prompts[1:] != prompts[:-1]]))
    totals_N = np.add.reduceat(np.where(is_scored, measured, 0.0), starts)
    scored_N = np.add.reduceat(is_scored.astype(int), starts)
    asked_N = np.diff([*starts, len(prompts)])
    least_N, greatest_N = prompt_bounds(totals_N, scored_N, asked_N, *span)
    return PromptValues(
        prompts[starts],
        rows["category"].to_numpy().astype(str)[starts],
        np.where(scored_N > 0, totals_N / np.maximum(scored_N, 1), np.nan),
        least_N,
        greatest_N,
        span,
        is_count=metric not in RATINGS and int(asked_N.max()) == 1,
    )


def _series_in_order(found: Mapping[Series, object], layout: Layout) -> list[Series]:
    suites, judges, metrics = (
        in_order({series[part] for series in found}, order)
        for part, order in enumerate((layout.suites, layout.judges, METRICS))
    )
    return sorted(
        found, key=lambda each: (suites.index(each.suite), judges.index(each.judge), metrics.index(each.metric))
    )
