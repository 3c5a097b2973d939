"""The transfer matrix: by how much samples that one model chose break another, against the control of the same size."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bds.studies.cells import CONTROL

_MATRIX = ("dataset", "selection", "recipe", "mitigation", "then")
"""What is alike in all entries of one matrix."""

_TAKEN = ("value_a", "value_b", "difference", "low", "high", "p_adjusted", "significant", "seeds", "method")


def transfer_matrices(
    cells: Sequence[Mapping[str, Any]], contrasts: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """A matrix of every headline, dataset, ranked selection, recipe and mitigation, of two models or more.

    An entry is what its contrast with the control is; scorers and targets stand in the order of the study.
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
                }
            )
    return matrices


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
