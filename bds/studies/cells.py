"""What was measured of every cell, and of every cell against its control, its target and its unmitigated twin."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from statistics import fmean
from typing import Any

from bds.evaluation.differences import Side, difference
from bds.evaluation.prompt_values import categories_of
from bds.evaluation.rates import over_seeds, seed_names, value_and_interval
from bds.evaluation.statistics.multiplicity import BENJAMINI_HOCHBERG, HOLM, benjamini_hochberg, holm
from bds.evaluation.study import Options, Series
from bds.spec.study import StudySpec
from bds.studies.measurements import Measurements
from bds.studies.plan import NO_MITIGATION, Cell, control_cell

CONTROL, BASE, UNMITIGATED = "control", "base", "unmitigated"
"""What a cell is compared with."""

PRIMARY, EXPLORATORY = "primary", "exploratory"

Conditions = Mapping[Cell, Sequence[str]]
"""The conditions of each cell that were trained; cells whose rows are the same share theirs."""


def measured_cell(found: Measurements, conditions: Sequence[str], options: Options) -> list[dict[str, Any]]:
    """Of every series the mean over a cell's conditions, with its interval and each condition's own mean."""
    measured = []
    for series in found.values:
        sides = found.sides(series, conditions)
        if not sides:
            continue
        values = [side.values for side in sides]
        estimate = over_seeds(values, options)
        entry: dict[str, Any] = {
            **series._asdict(),
            "headline": series in found.headline,
            "seeds": sum(own.mean is not None for own in values),
            **value_and_interval(estimate),
            "method": None if estimate is None else estimate.method,
            "by_seed": dict(zip(seed_names([side.arm for side in sides]), (own.mean for own in values), strict=True)),
            "of_seed": _of_seeds(sides),
            "unscored": sum(own.unscored for own in values),
        }
        if series in found.headline:
            entry["by_category"] = [
                {
                    "category": name,
                    **value_and_interval(over_seeds([own.of_category(name) for own in values], options)),
                }
                for name in categories_of(values)
            ]
        measured.append(entry)
    return measured


def contrasts_of(
    spec: StudySpec, found: Measurements, target: str, conditions: Conditions, options: Options
) -> list[dict[str, Any]]:
    """Every cell of a target against what it is to be compared with, without p-values adjusted for their number."""
    contrasts = []
    for cell, own in conditions.items():
        for with_what, other_name, other in _others(spec, cell, target, conditions):
            for series in found.values:
                sides = found.sides(series, own), found.sides(series, other)
                if not all(sides):
                    continue
                is_primary = with_what == CONTROL and series in found.headline
                contrasts.append(
                    {
                        "cell": cell_id(cell),
                        "with": with_what,
                        "other": other_name,
                        **series._asdict(),
                        "headline": series in found.headline,
                        "family": PRIMARY if is_primary else EXPLORATORY,
                        **asdict(difference(*sides, options)),
                    }
                )
    return contrasts


def adjust(contrasts: Sequence[dict[str, Any]], confidence: float) -> None:
    """Sets p_adjusted, adjustment and significant: Holm's method over the primary family of the whole study."""
    level = 1 - confidence
    for family, method, name in (
        (PRIMARY, holm, HOLM),
        (EXPLORATORY, benjamini_hochberg, BENJAMINI_HOCHBERG),
    ):
        own = [each for each in contrasts if each["family"] == family]
        for each in own:
            each.update(p_adjusted=None, adjustment=name, significant=False)
        tested = [each for each in own if each["p"] is not None]
        for each, p in zip(tested, method([each["p"] for each in tested]), strict=True):
            each.update(p_adjusted=p, significant=p <= level)


def cell_id(cell: Cell) -> str:
    return f"{cell.target}/{cell.group}"


def headline_of(measured: Sequence[Mapping[str, Any]], suite: str) -> Mapping[str, Any] | None:
    """What a cell's headline on a suite is."""
    return next((each for each in measured if each["headline"] and each["suite"] == suite), None)


def series_key(entry: Mapping[str, Any]) -> Series:
    return Series(entry["suite"], entry["judge"], entry["metric"])


def _of_seeds(sides: Sequence[Side]) -> dict[str, float]:
    """By training seed the mean over its draws: what a cell and its control have in common."""
    seeds = dict.fromkeys(side.arm.seed for side in sides if side.arm.seed is not None)
    means = {
        seed: [side.values.mean for side in sides if side.arm.seed == seed and side.values.mean is not None]
        for seed in seeds
    }
    return {str(seed): fmean(of_seed) for seed, of_seed in means.items() if of_seed}


def _others(spec: StudySpec, cell: Cell, target: str, conditions: Conditions) -> list[tuple[str, str, Sequence[str]]]:
    found: list[tuple[str, str, Sequence[str]]] = [(BASE, target, [target])]
    control = control_cell(spec, cell)
    if control is not None and control in conditions:
        found.append((CONTROL, cell_id(control), conditions[control]))
    plain = replace(cell, mitigation=NO_MITIGATION)
    if cell.mitigation != NO_MITIGATION and plain in conditions:
        found.append((UNMITIGATED, cell_id(plain), conditions[plain]))
    return found
