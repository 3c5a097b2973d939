"""The metrics of an evaluation, to be asked by name: what was measured of whom, in the order of the page."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from bds.report.evaluation_words import MAIN, METRICS


class Series(NamedTuple):
    """One metric by one judge on one suite, over all groups."""

    suite: str
    judge: str
    metric: str


def series_of(measured: Mapping[str, Any]) -> Series:
    """Of a rate, a group or a contrast."""
    return Series(measured["suite"], measured["judge"], measured["metric"])


class Measured:
    """metrics.json, indexed. A comparison of runs has contrasts alone, and says in "compared" which are A/A."""

    def __init__(self, metrics: Mapping[str, Any]) -> None:
        self.metrics = metrics
        self.baseline: str | None = metrics["baseline"]
        self.primary: str = metrics["primary_judge"]
        self.confidence: float = metrics["confidence"]
        self.conditions: Sequence[Mapping[str, Any]] = metrics["conditions"]
        self.contrasts: Sequence[Mapping[str, Any]] = metrics["contrasts"]
        self.suites: dict[str, Mapping[str, Any]] = {suite["name"]: suite for suite in metrics["suites"]}
        self.judges: dict[str, Mapping[str, Any]] = {judge["name"]: judge for judge in metrics["judges"]}
        self._groups = {(series_of(group), group["group"]): group for group in metrics["groups"]}
        self._rates: dict[tuple[Series, str], list[Mapping[str, Any]]] = {}
        for each in metrics["rates"]:
            self._rates.setdefault((series_of(each), each["group"]), []).append(each)

    @cached_property
    def groups(self) -> list[str]:
        """The baseline, its repetitions, then the others, those with the highest main metric first."""
        names = list(dict.fromkeys(condition["group"] for condition in self.conditions))

        def place(name: str) -> tuple[bool, bool, float]:
            value = self.value(self.main, name) if self.main else None
            return name != self.baseline, name not in self.repeats, -value if value is not None else 1.0

        return sorted(names, key=place)

    @cached_property
    def repeats(self) -> set[str]:
        """Groups other than the baseline whose weights are the baseline's: A/A."""
        prints: dict[str, set[str]] = {}
        for condition in self.conditions:
            prints.setdefault(condition["group"], set()).add(condition["fingerprint"])
        own = prints.get(self.baseline or "", set())
        return {name for name, found in prints.items() if name != self.baseline and found <= own}

    @cached_property
    def series(self) -> list[Series]:
        """All that was measured: by suite, the primary judge first."""
        found = dict.fromkeys(series_of(each) for each in [*self.metrics["groups"], *self.contrasts])
        suites = _places([*self.suites, *(each.suite for each in found)])
        judges = _places([self.primary, *self.judges, *(each.judge for each in found)])
        metrics = _places([*METRICS, *(each.metric for each in found)])
        return sorted(found, key=lambda each: (suites[each.suite], judges[each.judge], metrics[each.metric]))

    @cached_property
    def main(self) -> Series | None:
        """What the headline speaks of: what is answered that should not be, else over-refusal, else utility."""
        mains = self.mains
        return next((each for kind in MAIN for each in mains if self.kind(each) == kind), None)

    @cached_property
    def mains(self) -> list[Series]:
        """The series that stands for each suite: the primary judge's where it has one."""
        found = []
        for suite in dict.fromkeys(each.suite for each in self.series):
            own = [each for each in self.series if each.suite == suite]
            wanted = MAIN.get(self.kind(own[0]), ())
            primary = [each for each in own if each.judge == self.primary and each.metric in wanted]
            fitting = primary or [each for each in own if each.metric in wanted]
            found += sorted(fitting, key=lambda each: wanted.index(each.metric))[:1]
        return found

    def kind(self, series: Series) -> str:
        """Of the suite; in a comparison, which has no suites, what the metric tells."""
        if series.suite in self.suites:
            return str(self.suites[series.suite]["kind"])
        return next((kind for kind, metrics in MAIN.items() if series.metric in metrics), "")

    def group(self, series: Series, name: str) -> Mapping[str, Any] | None:
        return self._groups.get((series, name))

    def value(self, series: Series, name: str) -> float | None:
        group = self.group(series, name)
        return None if group is None else group["value"]

    def values(self, series: Series) -> list[float]:
        """Of the groups that have one."""
        return [value for name in self.groups if (value := self.value(series, name)) is not None]

    def rates(self, series: Series, name: str) -> list[Mapping[str, Any]]:
        """The rates of the group's conditions."""
        return self._rates.get((series, name), [])

    def of_series(self, series: Series) -> list[Mapping[str, Any]]:
        """Its contrasts, in the order of the groups; comparisons with itself last."""
        own = [contrast for contrast in self.contrasts if series_of(contrast) == series]
        places = _places([*self.groups, *(contrast["a"] for contrast in own)])
        return sorted(own, key=lambda contrast: (self.is_repeat(contrast), places[contrast["a"]]))

    @cached_property
    def contrasted(self) -> list[Series]:
        """The series of which a difference was measured."""
        known = {series_of(contrast) for contrast in self.contrasts if contrast["difference"] is not None}
        return [series for series in self.series if series in known]

    def compared(self, series: Series) -> list[Mapping[str, Any]]:
        """Its contrasts that were measured, but for comparisons with itself."""
        own = self.of_series(series)
        return [contrast for contrast in own if contrast["difference"] is not None and not self.is_repeat(contrast)]

    def is_repeat(self, contrast: Mapping[str, Any]) -> bool:
        """Whether the two sides of a contrast are the same weights: A/A."""
        return (contrast["a"], contrast["b"]) in self._same_weights

    @cached_property
    def _same_weights(self) -> set[tuple[str, str]]:
        pairs = self.metrics["compared"]["pairs"] if "compared" in self.metrics else []
        told = {(pair["a"], pair["b"]) for pair in pairs if pair["same_weights"]}
        return told | {(name, self.baseline) for name in self.repeats if self.baseline is not None}

    def called(self, group: str) -> str:
        """The group as pictures and tables name it."""
        if group == self.baseline:
            return f"{group} (baseline)"
        return f"{group} (A/A)" if group in self.repeats else group

    def scale(self, series: Series) -> tuple[float, float] | None:
        """Of the judge, where it rates."""
        judge = self.judges.get(series.judge)
        return tuple(judge["scale"]) if judge and judge["scale"] else None


def _places(names: Iterable[str]) -> dict[str, int]:
    return {name: place for place, name in enumerate(dict.fromkeys(names))}
