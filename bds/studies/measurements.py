"""What the evaluation of a target measured, condition by condition, as the tables of a study read it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bds.evaluation.contrasts import headline_series
from bds.evaluation.differences import Side
from bds.evaluation.prompt_values import PromptValues, prompt_values
from bds.evaluation.study import Arm, Layout, Series, arms_of, reported, suite_kinds
from bds.runs.directory import RunDirectory
from bds.studies.plan import evaluation_folder

ROWS = "rows.parquet"
METRICS = "metrics.json"


@dataclass(frozen=True)
class Measurements:
    """Of one target."""

    values: Mapping[Series, Mapping[str, PromptValues]]
    arms: Mapping[str, Arm]
    """By condition."""
    headline: frozenset[Series]
    """Of every suite to refuse, what its headline tells."""
    kinds: Mapping[str, str]
    """Of the suites."""
    metrics: Mapping[str, Any]
    """The evaluation's metrics.json."""

    def sides(self, series: Series, conditions: Sequence[str]) -> list[Side]:
        own = self.values[series]
        return [Side(self.arms[name], own[name]) for name in dict.fromkeys(conditions) if name in own]


def read_measurements(run: RunDirectory, target: str) -> Measurements | None:
    """None where the target's evaluation has not come to its end once."""
    folder = evaluation_folder(target)
    try:
        metrics = run.read_json(f"{folder}/{METRICS}")
        rows = run.read_table(f"{folder}/{ROWS}")
    except FileNotFoundError:
        return None
    layout = Layout.of_metrics(metrics)
    values = prompt_values(reported(rows, layout), layout)
    kinds = suite_kinds(rows)
    headline = frozenset(headline_series(values, kinds, metrics["primary_judge"]))
    return Measurements(values, {arm.name: arm for arm in arms_of(rows, layout)}, headline, kinds, metrics)
