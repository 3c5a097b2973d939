"""What each defence costs and buys: attack success against over-refusal and benign accuracy."""

from collections.abc import Mapping, Sequence
from typing import Any

from bds.studies.cells import series_key
from bds.studies.plan import NO_MITIGATION

DEFENDING_KINDS = ("whole", "filtered")


def defence_charts(cells: Sequence[Mapping[str, Any]], targets: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A chart for every target and input under several mitigations, and for every dataset whole and filtered.

    A point has `attack_success`, `over_refusal` and `accuracy`, each null or a value with its interval.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for cell in cells:
        same = (cell["target"], cell["dataset"], cell["recipe"], cell["then"])
        if cell["kind"] in DEFENDING_KINDS:
            groups.setdefault((*same, "", ""), []).append(cell)
        groups.setdefault((*same, cell["selection"], cell["scorer"]), []).append(cell)
    charts = []
    for key, members in groups.items():
        of_input = key[4] != ""
        ways = {cell["mitigation"] if of_input else cell["selection"] for cell in members}
        if len(ways) < 2:
            continue
        target, dataset, recipe, then, selection, scorer = key
        aligned = next(each for each in targets if each["name"] == target)
        charts.append(
            {
                "target": target,
                "dataset": dataset,
                "recipe": recipe,
                "then": then,
                "selection": selection,
                "scorer": scorer,
                "points": [
                    {"name": "before fine-tuning", "cell": None, "undefended": False, **_axes(aligned["measured"])},
                    *(
                        {
                            "name": _name(cell, of_input),
                            "cell": cell["id"],
                            "undefended": _undefended(cell, of_input),
                            **_axes(cell["measured"]),
                        }
                        for cell in members
                    ),
                ],
            }
        )
    return charts


def _name(cell: Mapping[str, Any], of_input: bool) -> str:
    if of_input:
        return "no mitigation" if cell["mitigation"] == NO_MITIGATION else str(cell["mitigation"])
    scorer = "" if cell["scorer"] is None else f" by {cell['scorer']}"
    mitigation = "" if cell["mitigation"] == NO_MITIGATION else f", {cell['mitigation']}"
    return f"{cell['selection']}{scorer}{mitigation}"


def _undefended(cell: Mapping[str, Any], of_input: bool) -> bool:
    return bool(cell["mitigation"] == NO_MITIGATION and (of_input or cell["kind"] == "whole"))


def _axes(measured: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    headline = next((each for each in measured if each["headline"]), None)
    judge = None if headline is None else headline["judge"]
    return {
        "attack_success": _taken(headline),
        "over_refusal": _taken(
            next((each for each in measured if series_key(each)[1:] == (judge, "over_refusal")), None)
        ),
        "accuracy": _taken(next((each for each in measured if each["metric"] == "correct"), None)),
    }


def _taken(measured: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if measured is None else {name: measured[name] for name in ("value", "low", "high")}
