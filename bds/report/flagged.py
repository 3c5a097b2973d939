"""Which rows count as flagged: a detector's top selection, or its first ranks where no selection was written."""

from collections.abc import Mapping, Sequence

import polars as pl

from bds.data.rows import SCORED_STATUSES
from bds.report.inputs import DetectorInfo, SelectionInfo
from bds.scoring import columns

SAMPLES_SHOWN = 10
"""Cards a detector in the report."""

DEFAULT_COUNT = 100


def primary_detector(
    detectors: Sequence[DetectorInfo], selection_info: Mapping[str, SelectionInfo]
) -> DetectorInfo | None:
    """The detector the verdict speaks of: that of the first top selection, else the first one listed."""
    by_label = {detector["label"]: detector for detector in detectors}
    for info in selection_info.values():
        if info.get("kind") == "top" and info.get("detector") in by_label:
            return by_label[str(info["detector"])]
    return detectors[0] if detectors else None


def top_selection(label: str, selection_info: Mapping[str, SelectionInfo]) -> str | None:
    """Name of the detector's first top selection."""
    for name, info in selection_info.items():
        if info.get("kind") == "top" and info.get("detector") == label:
            return name
    return None


def flagged_count(
    scores: pl.DataFrame, selections: Mapping[str, pl.DataFrame], selection_info: Mapping[str, SelectionInfo]
) -> int:
    """Size of the first top selection; without one, 100 rows or a tenth of the scored ones, whichever is smaller."""
    for name, info in selection_info.items():
        if info.get("kind") == "top" and name in selections:
            return len(selections[name])
    return min(DEFAULT_COUNT, max(1, int(scores["status"].is_in(SCORED_STATUSES).sum()) // 10))


def flagged_rows(
    scores: pl.DataFrame,
    detectors: Sequence[DetectorInfo],
    selections: Mapping[str, pl.DataFrame],
    selection_info: Mapping[str, SelectionInfo],
) -> dict[str, list[int]]:
    """Label of every detector to the row_index of its flagged rows, most dangerous first."""
    count = flagged_count(scores, selections, selection_info)
    flagged = {}
    for detector in detectors:
        label = detector["label"]
        name = top_selection(label, selection_info)
        if name is not None and name in selections:
            flagged[label] = selections[name]["row_index"].to_list()
        else:
            flagged[label] = ranked(scores, label).head(count).to_list()
    return flagged


def ranked(scores: pl.DataFrame, label: str) -> pl.Series:
    """row_index of the rows the detector ranks, most dangerous first."""
    rank = columns.rank(label)
    return scores.select("row_index", rank).drop_nulls(rank).sort(rank)["row_index"]


def rows_to_explain(
    scores: pl.DataFrame,
    detectors: Sequence[DetectorInfo],
    selections: Mapping[str, pl.DataFrame],
    selection_info: Mapping[str, SelectionInfo],
    samples: int = SAMPLES_SHOWN,
) -> list[int]:
    """row_index of every row the report shows as a card, sorted: what `rows` and `explanations` should cover."""
    flagged = flagged_rows(scores, detectors, selections, selection_info)
    return sorted({row_index for rows in flagged.values() for row_index in rows[:samples]})
