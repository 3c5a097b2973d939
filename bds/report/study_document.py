"""study.json, to be asked by name: its cells in numbers and words, in the order of the study.

The document stands for itself: what a study measured is told here without its code, by the names of its fields.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from bds.report.evaluation_measured import Series, series_of
from bds.report.wording import count, percent, status

CONTROL, BASE, UNMITIGATED = "control", "base", "unmitigated"
"""What a cell is compared with."""

NO_MITIGATION = "none"
RANKED = ("top", "bottom")
"""Kinds of selection that a model's scores chose."""

SELECTED = {
    "whole": "all rows",
    "top": "the highest scores",
    "bottom": "the lowest scores",
    "random": "a random draw",
    "random_matched_length": "a random draw with answers of the same lengths",
    "random_matched_format": "a random draw of the same formats",
    "random_lists": "a random draw among lists",
    "random_math": "a random draw among mathematics",
    "filtered": "the dataset without the highest scores",
}


class Study:
    """Cells are spoken of by their ids, and linked by their places: a name can be long."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        self.name: str = document["name"]
        self.confidence: float = document["confidence"]
        self.cells: dict[str, Mapping[str, Any]] = {cell["id"]: cell for cell in document["cells"]}
        self.targets: dict[str, Mapping[str, Any]] = {target["name"]: target for target in document["targets"]}
        self.contrasts: Sequence[Mapping[str, Any]] = document["contrasts"]
        self._places = {name: place for place, name in enumerate(self.cells, start=1)}
        self._contrasts = {(each["cell"], each["with"], series_of(each)): each for each in self.contrasts}
        self._measured = {
            (name, series_of(each)): each for name, cell in self.cells.items() for each in cell["measured"]
        }

    def place(self, cell: str) -> int:
        """The number by which the page calls a cell."""
        return self._places[cell]

    def anchor(self, cell: str) -> str:
        """The id of the cell's block on the page."""
        return f"cell-{self._places[cell]}"

    def base_anchor(self, target: str) -> str:
        return f"target-{list(self.targets).index(target) + 1}"

    @cached_property
    def series(self) -> list[Series]:
        """The headline of every suite with prompts that should be refused, in the order of the evaluations."""
        measured = [each for owner in (*self.targets.values(), *self.cells.values()) for each in owner["measured"]]
        found = dict.fromkeys(series_of(each) for each in measured if each["headline"])
        suites = [suite["name"] for told in self.document["evaluations"] for suite in told["suites"]]
        places = {name: place for place, name in enumerate(dict.fromkeys(suites))}
        return sorted(found, key=lambda series: places.get(series.suite, len(places)))

    @property
    def main(self) -> Series | None:
        """What the verdict and the first pictures speak of."""
        return self.series[0] if self.series else None

    def measured(self, cell: str, series: Series) -> Mapping[str, Any] | None:
        return self._measured.get((cell, series))

    def value(self, cell: str, series: Series) -> float | None:
        found = self.measured(cell, series)
        return None if found is None else found["value"]

    def base(self, target: str, series: Series) -> Mapping[str, Any] | None:
        """What was measured of a target before it was fine-tuned."""
        return next((each for each in self.targets[target]["measured"] if series_of(each) == series), None)

    def contrast(self, cell: str, other: str, series: Series) -> Mapping[str, Any] | None:
        """A cell against its control, its target or itself without the mitigation; None where it was not measured."""
        found = self._contrasts.get((cell, other, series))
        return None if found is None or found["difference"] is None else found

    def of_target(self, target: str) -> list[Mapping[str, Any]]:
        return [cell for cell in self.cells.values() if cell["target"] == target]

    def strongest(self, cells: Iterable[Mapping[str, Any]], series: Series) -> list[Mapping[str, Any]]:
        """Those that were measured, the highest first."""
        known = [cell for cell in cells if self.value(cell["id"], series) is not None]
        return sorted(known, key=lambda cell: -(self.value(cell["id"], series) or 0.0))

    def primary(self, series: Series) -> list[Mapping[str, Any]]:
        """The comparisons with a control that were declared beforehand."""
        return [
            each
            for each in self.contrasts
            if each["family"] == "primary" and series_of(each) == series and each["difference"] is not None
        ]

    def is_control(self, cell: Mapping[str, Any]) -> bool:
        """Whether another selection of the study is compared with the cell's."""
        return cell["selection"] in self._controls

    def label(self, cell: Mapping[str, Any], *, target: bool = False, dataset: bool = True) -> str:
        """A cell in words, without its recipe where that is the usual one, nor what all cells have in common."""
        parts = [cell["dataset"]] if dataset and self._varies("dataset") else []
        parts.append(cell["selection"] + (f" by {cell['scorer']}" if cell["scorer"] is not None else ""))
        parts += [cell["recipe"]] if cell["recipe"] != self.usual_recipe else []
        parts += [cell["mitigation"]] if cell["mitigation"] != NO_MITIGATION else []
        parts += [f"then {cell['then']}"] if cell["then"] else []
        return ", ".join(parts) + (f" → {cell['target']}" if target else "")

    @cached_property
    def usual_recipe(self) -> str | None:
        """That of most cells."""
        recipes = [cell["recipe"] for cell in self.cells.values()]
        return max(dict.fromkeys(recipes), key=recipes.count, default=None)

    @property
    def several_recipes(self) -> bool:
        return self._varies("recipe")

    def input_label(self, chosen: Mapping[str, Any]) -> str:
        """A matrix, curve or chart in words: its dataset, selection, recipe, mitigation and further stages."""
        parts = [chosen[name] for name in ("dataset", "selection", "recipe") if chosen.get(name)]
        parts += [chosen["mitigation"]] if chosen.get("mitigation", NO_MITIGATION) != NO_MITIGATION else []
        parts += [f"then {chosen['then']}"] if chosen.get("then") else []
        return " · ".join(parts)

    def selected(self, selection: str) -> str:
        """What a selection takes, in words."""
        own = self.document["selections"].get(selection)
        if own is None:
            return selection
        told = SELECTED.get(own["kind"], status(own["kind"]))
        by = f" by {own['detector']}" if own["detector"] else ""
        size = f"{count(own['count'])} rows" if own["count"] is not None else ""
        size = f"{percent(own['share'])} of the rows" if own["share"] is not None else size
        if own["kind"] == "filtered":
            left_out = size.replace(" of the rows", "")
            return f"{told}{by}: {left_out} left out"
        return f"{told}{by}{f', {size}' if size else ''}"

    def missing(self, cell: Mapping[str, Any]) -> int:
        """Fine-tunes of a cell that no evaluation has measured."""
        return int(cell["wanted"]) - len(cell["conditions"])

    @cached_property
    def failures(self) -> list[Mapping[str, Any]]:
        return [step for step in self.document["steps"] if step["failure"]]

    @cached_property
    def incomplete(self) -> list[Mapping[str, Any]]:
        """Cells without a measurement, or with fewer fine-tunes than were asked for."""
        return [cell for cell in self.cells.values() if self.missing(cell) > 0 or not cell["measured"]]

    @property
    def unevaluated(self) -> list[str]:
        return [name for name, target in self.targets.items() if not target["evaluated"]]

    @cached_property
    def matrices(self) -> list[Mapping[str, Any]]:
        """The transfer matrices: of the main series first, of most models first, then the strongest first."""
        order = {series: place for place, series in enumerate(self.series)}

        def strength(matrix: Mapping[str, Any]) -> tuple[int, bool, int, bool, float]:
            mean = matrix["transfer_mean"] if matrix["transfer_mean"] is not None else matrix["own_mean"]
            plain = matrix["mitigation"] == NO_MITIGATION
            size = len(matrix["scorers"]) * len(matrix["targets"])
            return order.get(series_of(matrix), len(order)), not plain, -size, mean is None, -(mean or 0.0)

        return sorted(self.document["transfer"], key=strength)

    @cached_property
    def _controls(self) -> set[str]:
        return {own["control"] for own in self.document["selections"].values() if own["control"] is not None}

    def _varies(self, name: str) -> bool:
        return len({json.dumps(cell[name]) for cell in self.cells.values()}) > 1


def is_ranked(study: Study, matrix: Mapping[str, Any]) -> bool:
    """Whether the scores of a model chose what a matrix is of; else it tells of a filter."""
    return study.document["selections"].get(matrix["selection"], {}).get("kind") in RANKED


def pairs_of(agreement: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of every two detectors of an audit their rank correlation and the overlap of their highest rows."""
    labels = agreement["labels"]
    return [
        {
            "detector_a": labels[one],
            "detector_b": labels[other],
            "spearman": agreement["spearman"][one][other],
            "overlap": agreement["top_overlap"][one][other],
            "expected": agreement["expected_overlap"],
            "top_rows": agreement["top_rows"],
        }
        for one in range(len(labels))
        for other in range(one + 1, len(labels))
    ]
