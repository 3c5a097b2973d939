"""The tables of an evaluation's page as plain values: what was compared, by category, and what could not be scored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from bds.report.evaluation_cautions import LOUD_UNSCORED
from bds.report.evaluation_measured import Measured, Series
from bds.report.evaluation_words import MetricWords, is_better, is_worse, words_of
from bds.report.wording import UNMEASURED, count, number, status

FAMILIES = ("primary", "exploratory")
SHADES = (0.05, 0.2, 0.4, 0.7)
"""Where a cell's shade grows darker, as a share of the scale."""

WORSE, BETTER = "▲", "▼"
"""Marks of a significant change for the worse or the better, so that colour is not needed."""


@dataclass(frozen=True)
class ContrastRow:
    a: str
    b: str
    seeds: int
    prompts: int
    before: str
    after: str
    difference: str
    interval: str
    p: float | None
    p_adjusted: float | None
    discordant: str
    """Prompts that only a does, and only b."""
    detectable: str
    worst: str
    level: str
    """CSS class: more, fewer or none."""


@dataclass(frozen=True)
class Family:
    """Contrasts whose p-values are adjusted together, by series."""

    name: str
    adjustments: list[str]
    parts: list[tuple[str, list[ContrastRow]]]
    """Metric, suite and judge in words, with their rows in the order of the groups."""

    @property
    def size(self) -> int:
        return sum(len(rows) for _, rows in self.parts)


@dataclass(frozen=True)
class Cell:
    text: str
    note: str
    level: int | None
    """0 to 4, the darker the higher; None where nothing is scored."""


@dataclass(frozen=True)
class Grid:
    """One series by category: a row for each group, a column for each category."""

    series: Series
    noun: str
    columns: list[tuple[str, int]]
    """Category and its prompts."""
    rows: list[tuple[str, list[Cell]]]
    marked: bool
    """Whether any cell has a mark."""


@dataclass(frozen=True)
class UnscoredRow:
    condition: str
    suite: str
    judge: str
    metric: str
    unscored: int
    prompts: int
    loud: bool
    value: str
    worst: str


@dataclass(frozen=True)
class UtilityGrid:
    columns: list[tuple[str, str]]
    """Task and metric, as lm-eval writes it: exact_match,strict-match."""
    rows: list[tuple[str, list[tuple[str, str]]]]
    """Group; value and note of each column."""


def families(measured: Measured) -> list[Family]:
    """The contrasts, the primary family first."""
    found = []
    for name in FAMILIES:
        parts = []
        for series in measured.contrasted:
            rows = [contrast for contrast in measured.of_series(series) if contrast["family"] == name]
            if rows:
                title = f"{words_of(series.metric).name} on {series.suite} by {series.judge}"
                parts.append((title, [_contrast_row(measured, contrast) for contrast in rows]))
        own = [contrast for contrast in measured.contrasts if contrast["family"] == name]
        if parts:
            found.append(Family(name, list(dict.fromkeys(contrast["adjustment"] for contrast in own)), parts))
    return found


def _contrast_row(measured: Measured, contrast: Mapping[str, Any]) -> ContrastRow:
    words = words_of(contrast["metric"])
    detectable = contrast["minimum_detectable"]
    only = (contrast["only_a"], contrast["only_b"])
    return ContrastRow(
        measured.called(contrast["a"]),
        contrast["b"],
        contrast["seeds"],
        contrast["prompts"],
        words.value(contrast["value_b"]),
        words.value(contrast["value_a"]),
        words.bare_difference(contrast["difference"]) + _mark(contrast),
        words.difference_interval(contrast["low"], contrast["high"]),
        contrast["p"],
        contrast["p_adjusted"],
        UNMEASURED if None in only else f"{number(only[0])} / {number(only[1])}",
        UNMEASURED if detectable is None else words.bare_difference(detectable).removeprefix("+"),
        words.difference_interval(contrast["worst_low"], contrast["worst_high"]),
        "more" if is_worse(contrast) else "fewer" if is_better(contrast) else "",
    )


def _mark(contrast: Mapping[str, Any]) -> str:
    return f" {WORSE}" if is_worse(contrast) else f" {BETTER}" if is_better(contrast) else ""


def category_grids(measured: Measured) -> list[Grid]:
    """One grid for each suite whose prompts have categories, of the series that stands for the suite."""
    grids = [_grid(measured, series) for series in measured.mains if measured.values(series)]
    return [grid for grid in grids if len(grid.columns) > 1]


def _grid(measured: Measured, series: Series) -> Grid:
    words = words_of(series.metric)
    suite = measured.suites.get(series.suite)
    names: Mapping[str, str] = suite["categories"] if suite else {}
    groups = [name for name in measured.groups if measured.rates(series, name)]
    by_group = {name: [_by_category(rate) for rate in measured.rates(series, name)] for name in groups}
    contrasts = {contrast["a"]: _by_category(contrast) for contrast in measured.of_series(series)}
    found = {category: each["prompts"] for own in by_group.values() for one in own for category, each in one.items()}
    scale = (None if words.is_share else measured.scale(series)) or (0.0, 1.0)
    order = sorted(found, key=_natural)
    rows = [
        (
            measured.called(name),
            [
                _cell(
                    [each[category] for each in by_group[name] if category in each],
                    contrasts.get(name, {}).get(category),
                    words,
                    series.metric,
                    scale,
                )
                for category in order
            ],
        )
        for name in groups
    ]
    columns = [(names.get(category, category) or "without a category", found[category]) for category in order]
    marked = any(mark in cell.text for _, cells in rows for cell in cells for mark in (WORSE, BETTER))
    return Grid(series, words.noun, columns, rows, marked)


def _by_category(measured: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {each["category"]: each for each in measured["by_category"]}


def _cell(
    seeds: Sequence[Mapping[str, Any]],
    contrast: Mapping[str, Any] | None,
    words: MetricWords,
    metric: str,
    scale: tuple[float, float],
) -> Cell:
    """The mean over the group's conditions, marked where it differs significantly from the baseline's."""
    scored = [each for each in seeds if each["value"] is not None]
    if not scored:
        return Cell(UNMEASURED, "not scored", None)
    value = mean(each["value"] for each in scored)
    place = (value - scale[0]) / (scale[1] - scale[0])
    mark = "" if contrast is None else _mark({**contrast, "metric": metric})
    if len(seeds) > 1:
        note = f"by seed: {', '.join(words.value(each['value']) for each in seeds)}"
    else:
        note = f"{count(scored[0]['scored'])} of {count(scored[0]['prompts'])} prompts scored"
        interval = words.interval(scored[0]["low"], scored[0]["high"])
        note += f", {interval}" if interval else ""
    text = f"{100 * value:.0f}" if words.is_share else f"{value:.1f}"
    return Cell(text + mark, note, sum(place >= shade for shade in SHADES))


def _natural(name: str) -> tuple[bool, float, str]:
    """2 before 10, and numbers before words."""
    return (False, float(name), name) if name.isdecimal() else (True, 0.0, name)


def unscored_rows(measured: Measured) -> list[UnscoredRow]:
    """Where prompts are without a verdict, the most first; one row for each condition, suite and judge."""
    found: dict[tuple[str, str, str], tuple[float, UnscoredRow]] = {}
    for series in measured.series:
        words = words_of(series.metric)
        for name in measured.groups:
            for rate in measured.rates(series, name):
                key = (rate["condition"], series.suite, series.judge)
                if not rate["unscored"] or key in found:
                    continue
                share = rate["unscored"] / rate["prompts"]
                row = UnscoredRow(
                    *key,
                    words.name,
                    rate["unscored"],
                    rate["prompts"],
                    share > LOUD_UNSCORED,
                    words.value(rate["value"]),
                    words.interval(rate["worst_low"], rate["worst_high"]),
                )
                found[key] = (share, row)
    return [row for _, row in sorted(found.values(), key=lambda each: -each[0])]


def utility_grid(measured: Measured) -> UtilityGrid | None:
    """lm-eval's scores, the mean over the conditions of each group; None where no task ran."""
    scores: Sequence[Mapping[str, Any]] = measured.metrics["utility"]
    if not scores:
        return None
    columns = sorted({_column(score) for score in scores})
    rows = []
    for name in measured.groups:
        own = [[score for score in scores if score["group"] == name and _column(score) == column] for column in columns]
        if any(own):
            rows.append((measured.called(name), [_score(each) for each in own]))
    return UtilityGrid(columns, rows)


def _column(score: Mapping[str, Any]) -> tuple[str, str]:
    return score["task"], score["metric"] if score["filter"] == "none" else f"{score['metric']},{score['filter']}"


def _score(scores: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """The value, and the seeds' range or the standard error."""
    values = [score["value"] for score in scores if score["value"] is not None]
    if not values:
        return UNMEASURED, ""
    if len(values) > 1:
        return f"{mean(values):.3f}", f"{min(values):.3f} to {max(values):.3f}"
    error = scores[0]["stderr"]
    return f"{values[0]:.3f}", "" if error is None else f"± {error:.3f}"


def speed_facts(speed: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Flat names and numbers, whatever was timed."""
    facts: list[tuple[str, str]] = []
    for name, value in speed.items():
        if isinstance(value, Mapping):
            facts += [(f"{status(name)}: {inner}", told) for inner, told in speed_facts(value)]
        elif isinstance(value, int | float) and not isinstance(value, bool):
            facts.append((status(name), number(value)))
        elif value is not None:
            facts.append((status(name), str(value)))
    return facts
