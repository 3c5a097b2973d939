"""The transfer matrix: by how much samples that one model chose break another, against the control of the same size.

Each entry rests on a few seeds, and a study has many entries. Whether samples transfer at all is one question: it is
answered by the mean over all pairs of models, one value a seed, so that pairs with a control in common count as one.
"""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from bds.evaluation.statistics.multiplicity import holm
from bds.evaluation.statistics.seeds import t_interval, t_test
from bds.studies.cells import CONTROL, series_key

_MATRIX = ("dataset", "selection", "recipe", "mitigation", "then")
"""What is alike in all entries of one matrix."""

_TAKEN = ("value_a", "value_b", "difference", "low", "high", "p_adjusted", "significant", "seeds", "method")


def transfer_matrices(
    cells: Sequence[Mapping[str, Any]], contrasts: Sequence[Mapping[str, Any]], confidence: float
) -> list[dict[str, Any]]:
    """A matrix of every headline, dataset, ranked selection, recipe and mitigation, of two models or more.

    An entry is what its contrast with the control is; scorers and targets stand in the order of the study. `averages`
    has the mean over the entries where a model is broken by its own choice and over those where by another's, with t
    intervals over seeds and p-values adjusted over all averages of the study by Holm's method.
    """
    found = {
        (each["cell"], each["suite"], each["judge"], each["metric"]): each
        for each in contrasts
        if each["with"] == CONTROL and each["headline"]
    }
    matrices = []
    for key, members in _grouped([cell for cell in cells if cell["scorer"] is not None], _MATRIX).items():
        scorers, targets = (list(dict.fromkeys(cell[name] for cell in members)) for name in ("scorer", "target"))
        if len({*scorers, *targets}) < 2:
            continue
        own = {cell["id"]: cell for cell in members}
        of_matrix = [each for each in found.items() if each[0][0] in own]
        for series in dict.fromkeys(name[1:] for name, _ in of_matrix):
            entries = [
                {
                    "scorer": own[each["cell"]]["scorer"],
                    "target": own[each["cell"]]["target"],
                    "cell": each["cell"],
                    "control": each["other"],
                    **{name: each[name] for name in _TAKEN},
                }
                for name, each in of_matrix
                if name[1:] == series
            ]
            matrices.append(
                {
                    **dict(zip(_MATRIX, key, strict=True)),
                    **dict(zip(("suite", "judge", "metric"), series, strict=True)),
                    "scorers": scorers,
                    "targets": targets,
                    "entries": entries,
                    **_summary(entries),
                    "averages": {
                        name: _average([each for each in entries if is_own(each) == wanted], cells, series, confidence)
                        for name, wanted in (("own", True), ("transfer", False))
                    },
                }
            )
    _adjust([average for matrix in matrices for average in matrix["averages"].values()], confidence)
    return matrices


def _average(
    entries: Sequence[Mapping[str, Any]], cells: Sequence[Mapping[str, Any]], series: Sequence[str], confidence: float
) -> dict[str, Any]:
    """The mean difference over the entries, one value for every seed that all of them and their controls have."""
    named = {cell["id"]: cell for cell in cells}
    pairs = [(_of_seeds(named[entry["cell"]], series), _of_seeds(named[entry["control"]], series)) for entry in entries]
    seeds = [seed for seed in (pairs[0][0] if pairs else {}) if all(seed in a and seed in b for a, b in pairs)]
    values = [fmean(a[seed] - b[seed] for a, b in pairs) for seed in seeds]
    interval = t_interval(values, confidence)
    return {
        "entries": len(pairs),
        "seeds": len(values),
        "difference": fmean(values) if values else None,
        "low": None if interval is None else interval.low,
        "high": None if interval is None else interval.high,
        "p": t_test(values),
    }


def _of_seeds(cell: Mapping[str, Any], series: Sequence[str]) -> dict[str, float]:
    found = [each["of_seed"] for each in cell["measured"] if series_key(each) == tuple(series)]
    return dict(found[0]) if found else {}


def _adjust(averages: Sequence[dict[str, Any]], confidence: float) -> None:
    tested = [each for each in averages if each["p"] is not None]
    for each in averages:
        each.update(p_adjusted=None, significant=False)
    for each, p in zip(tested, holm([each["p"] for each in tested]), strict=True):
        each.update(p_adjusted=p, significant=p <= 1 - confidence)


def _summary(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean difference where the scorer is the target, and where it is another model."""
    own, other = (
        [each["difference"] for each in entries if each["difference"] is not None and is_own(each) == wanted]
        for wanted in (True, False)
    )
    return {
        "own_mean": sum(own) / len(own) if own else None,
        "transfer_mean": sum(other) / len(other) if other else None,
        "transferred": sum(
            bool(each["significant"]) and each["difference"] > 0 and not is_own(each) for each in entries
        ),
        "transfers": len(other),
    }


def is_own(entry: Mapping[str, Any]) -> bool:
    """Whether the model was broken by samples that it chose itself."""
    return bool(entry["scorer"] == entry["target"])


def _grouped(cells: Iterable[Mapping[str, Any]], by: Sequence[str]) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for cell in cells:
        groups.setdefault(tuple(cell[name] for name in by), []).append(cell)
    return groups
