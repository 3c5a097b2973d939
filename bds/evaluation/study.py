"""What the tables of an evaluation are computed with: who is compared, in which order, and how."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import polars as pl

from bds.evaluation.exports.reported import reported_rows
from bds.evaluation.statistics.ratings import Resampling
from bds.spec.evaluate import StatisticsSpec


@dataclass(frozen=True)
class Layout:
    """Names in the order of the tables, which is not that of the rows. A name without a place comes last."""

    conditions: Sequence[str]
    suites: Sequence[str]
    judges: Sequence[str]
    scales: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Least and greatest score of each judge that rates."""

    @classmethod
    def of_metrics(cls, metrics: Mapping[str, Any]) -> "Layout":
        """That of a finished evaluation, from its metrics.json."""
        return cls(
            conditions=[each["name"] for each in metrics["conditions"]],
            suites=[each["name"] for each in metrics["suites"]],
            judges=[each["name"] for each in metrics["judges"]],
            scales={each["name"]: tuple(each["scale"]) for each in metrics["judges"] if each["scale"] is not None},
        )


@dataclass(frozen=True)
class Options:
    """How numbers are compared. Fixed before anything is measured."""

    baseline: str | None
    """The group that others are compared with; None compares nothing."""
    primary_judge: str
    confidence: float = 0.95
    margin: float = 0.02
    """Of non-inferiority, as a share."""
    bootstrap: int = 10_000
    """Resamples."""
    seed: int = 0
    """Draws the resamples."""

    @classmethod
    def of_spec(cls, statistics: StatisticsSpec, *, baseline: str | None, primary_judge: str) -> "Options":
        """As a spec says, whose own names of baseline and judge may be left out."""
        fields = ("confidence", "margin", "bootstrap", "seed")
        return cls(baseline, primary_judge, **{field: getattr(statistics, field) for field in fields})

    @property
    def resampling(self) -> Resampling:
        return Resampling(self.confidence, self.bootstrap, self.seed)


@dataclass(frozen=True)
class Arm:
    """A condition, as far as tables tell it."""

    name: str
    group: str
    seed: int | None
    fingerprint: str


class Series(NamedTuple):
    """One metric by one judge on one suite, over all conditions."""

    suite: str
    judge: str
    metric: str


def arms_of(rows: pl.DataFrame, layout: Layout) -> list[Arm]:
    """The conditions of rows.parquet, in the layout's order."""
    found = {row[0]: Arm(*row) for row in rows.select("condition", "group", "seed", "fingerprint").unique().iter_rows()}
    return [found[name] for name in in_order(found, layout.conditions)]


def suite_kinds(rows: pl.DataFrame) -> dict[str, str]:
    """By name of the suites in rows.parquet."""
    return dict(rows.select("suite", "suite_kind").unique().iter_rows())


def reported(rows: pl.DataFrame, layout: Layout) -> pl.DataFrame:
    """rows.parquet with the metrics that are reported (exports/reported.py)."""
    return reported_rows(rows, [{"name": name, "scale": scale} for name, scale in layout.scales.items()])


def groups_of(arms: Sequence[Arm]) -> dict[str, list[Arm]]:
    """The conditions of each group, groups in the order of their first."""
    found: dict[str, list[Arm]] = {}
    for arm in arms:
        found.setdefault(arm.group, []).append(arm)
    return found


def paired_arms(a: Sequence[Arm], b: Sequence[Arm]) -> list[tuple[Arm, Arm]] | None:
    """Which conditions of two groups are compared with one another, in A's order.

    A single condition stands against each of the other group. Several stand against those of the same seed, if two
    seeds or more are common; conditions with other seeds are then left out. None where neither is so.
    """
    if len(a) == 1 or len(b) == 1:
        return [(one, other) for one in a for other in b]
    if not (seeds_differ(a) and seeds_differ(b)):
        return None
    by_seed = {arm.seed: arm for arm in b}
    pairs = [(arm, by_seed[arm.seed]) for arm in a if arm.seed in by_seed]
    return pairs if len(pairs) > 1 else None


def seeds_differ(arms: Sequence[Arm]) -> bool:
    """Whether their seeds tell the conditions apart."""
    seeds = {arm.seed for arm in arms}
    return None not in seeds and len(seeds) == len(arms)


def in_order(names: Iterable[str], order: Sequence[str]) -> list[str]:
    """The names in the order given, those that are not in it at the end by name."""
    places = {name: place for place, name in enumerate(order)}
    return sorted(names, key=lambda name: (places.get(name, len(places)), name))


def categories_in_order(names: Iterable[str]) -> list[str]:
    """Numbers by their value, then names; 10 comes after 9."""
    return sorted(names, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))
