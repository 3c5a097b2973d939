"""What a report is made of: plain data, gathered by the caller, so that a page can be rebuilt from a finished run."""

from dataclasses import dataclass, field
from typing import Any, TypedDict

import polars as pl

from bds.scoring.explanation import Explanation


class DetectorInfo(TypedDict):
    label: str
    """Column suffix: `score.<label>` and `rank.<label>`."""
    name: str
    formula: str
    source: str


class SelectionInfo(TypedDict, total=False):
    kind: str
    """One of SelectionSpec.kind."""
    detector: str | None
    """Label of the detector that ranks it or that a matched control matches; null for a plain random draw."""
    count: int
    """Rows asked for; the frame may hold fewer."""
    seed: int
    ties_at_cut_off: int
    """Rows that share the last selected score, where not all of them were selected; 0 where the cut is clear."""
    notes: list[str]
    """What a reader must know about how the rows were chosen."""
    path: str
    """Where the selection was written as a dataset."""


class AnchorSetInfo(TypedDict, total=False):
    role: str
    """harmful or safe."""
    count: int
    hash: str
    path: str


class LayerChoice(TypedDict):
    detector: str
    layer: int
    criterion: str
    """What was maximised, in words."""
    curve: dict[str, float]
    """Layer number to the criterion's value."""


class Manifest(TypedDict, total=False):
    """Facts of the run; each is shown where present and left out where not."""

    started: str
    wall_seconds: float
    command: str
    versions: dict[str, str]
    model: str
    model_parameters: int
    parameter_scope: str
    scored_parameters: int
    device: str
    dtype: str
    token_budget: int
    dataset: str
    format: str
    rows: int
    seeds: dict[str, int]
    hashes: dict[str, str]
    anchors: dict[str, AnchorSetInfo]
    layer_choices: list[LayerChoice]
    warnings: list[str]


class GuardInfo(TypedDict):
    """A judge of the audit's moderation."""

    name: str
    method: str
    tells_harm: bool


@dataclass(frozen=True)
class Moderation:
    """What judges said of the audited rows (`bds moderate --audit`)."""

    judges: list[GuardInfo]
    verdicts: pl.DataFrame
    """row_index, judge, flagged, refused, status: one row a row and judge; null where nothing was measured."""


@dataclass(frozen=True)
class ReportInputs:
    spec: dict[str, Any]
    """The resolved AuditSpec, as JSON-ready values."""
    manifest: Manifest
    scores: pl.DataFrame
    """One row a dataset row: identity columns, the scalar component columns of bds/scoring/columns.py, and
    `score.<label>` (higher is more dangerous) with `rank.<label>` (1 is the most dangerous) for every detector.
    A row that was not scored has nulls."""
    rows: pl.DataFrame
    """row_index, prompt, answer: the text of at least the rows that `rows_to_explain` names."""
    selections: dict[str, pl.DataFrame]
    """Name to a frame with row_index, in rank order."""
    selection_info: dict[str, SelectionInfo]
    explanations: dict[int, Explanation] = field(default_factory=dict)
    """By row_index, for the rows that `rows_to_explain` names; a row without one is shown without its why."""
    detectors: list[DetectorInfo] = field(default_factory=list)
    moderation: Moderation | None = None
