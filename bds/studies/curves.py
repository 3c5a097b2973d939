"""How the damage grows: with the number of samples, and with the learning rate."""

from collections.abc import Mapping, Sequence
from typing import Any

from bds.spec.study import StudySpec
from bds.studies.cells import series_key

_VALUE = ("value", "low", "high", "seeds", "by_seed")


def dose_curves(spec: StudySpec, cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A curve for every target, recipe and way of choosing that was trained in two sizes or more.

    Points are in the order of their size: `samples` rows, alike in all else.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for cell in cells:
        own = spec.selections[cell["selection"]]
        if own.count is None and own.share is None:
            continue
        way = (cell["dataset"], cell["target"], cell["recipe"], cell["mitigation"], cell["then"])
        groups.setdefault((*way, own.kind, own.detector, cell["scorer"]), []).append(cell)
    names = ("dataset", "target", "recipe", "mitigation", "then", "kind", "detector", "scorer")
    return [
        curve
        for key, members in groups.items()
        for curve in _curves(dict(zip(names, key, strict=True)), members, "samples")
    ]


def rate_curves(spec: StudySpec, cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A curve for every input and target that was trained by recipes which differ in their learning rate alone."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for cell in cells:
        recipe = spec.recipes[cell["recipe"]].model_dump_json(exclude={"learning_rate", "source", "samples"})
        names = ("dataset", "selection", "scorer", "target", "mitigation", "then")
        groups.setdefault((*(cell[name] for name in names), recipe), []).append(cell)
    names = ("dataset", "selection", "scorer", "target", "mitigation", "then")
    return [
        curve
        for key, members in groups.items()
        for curve in _curves(dict(zip(names, key[:-1], strict=True)), members, "learning_rate")
    ]


def _curves(about: dict[str, Any], members: Sequence[Mapping[str, Any]], along: str) -> list[dict[str, Any]]:
    """One curve a headline, where there are two points or more."""
    curves: dict[Any, list[dict[str, Any]]] = {}
    for cell in sorted((each for each in members if each[along] is not None), key=lambda each: each[along]):
        for measured in cell["measured"]:
            if measured["headline"]:
                point = {along: cell[along], "cell": cell["id"], **{name: measured[name] for name in _VALUE}}
                curves.setdefault(series_key(measured), []).append(point)
    return [
        {**about, **series._asdict(), "along": along, "points": points}
        for series, points in curves.items()
        if len({point[along] for point in points}) > 1
    ]
