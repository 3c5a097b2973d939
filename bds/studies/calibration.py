"""What a study's damage says of the detectors: weights for the scores of each scorer, where there is enough of it.

D detectors.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import polars as pl

from bds.evaluation.prompt_values import RATINGS
from bds.evaluation.study import Series
from bds.runs.directory import RunDirectory
from bds.scoring.calibration import (
    MINIMUM_FAMILIES_OF_TARGET,
    Calibration,
    Cells,
    calibrate,
    of_measured_targets,
    shortage,
)
from bds.scoring.detectors import DETECTORS, Need, normalised_rank
from bds.scoring.learned_weights import learned_weights
from bds.scoring.passes import requested_detectors
from bds.spec.study import StudySpec
from bds.studies.cells import cell_id, headline_of, series_key
from bds.studies.conditions import condition_name, own_training
from bds.studies.measurements import METRICS
from bds.studies.plan import (
    NO_MITIGATION,
    Input,
    StudyPlan,
    audit_folder,
    audit_of,
    audit_spec,
    evaluation_folder,
    selection_of,
)
from bds.studies.twins import SELECTED_ROWS, twins

SCORES = "scores.parquet"

LEAST_COVERAGE = 0.9
"""Of a cell's rows, the share that every detector must have scored for their mean to stand for all of them."""

WITHOUT_MEANING = frozenset({"random"})
"""Detectors that cannot know anything of a row: a weight of theirs would be chance."""


@dataclass(frozen=True)
class Trained:
    """One measured fine-tune."""

    input: Input
    share: float
    """Of attacks that succeeded."""
    prompts: float


@dataclass(frozen=True)
class Observation:
    """One cell, as one scorer sees its rows."""

    cell: Mapping[str, Any]
    """As in study.json."""
    family: str
    features_D: tuple[float, ...]
    share: float
    """Of attacks that succeeded."""
    prompts: float


def calibration_file(scorer: str) -> str:
    """Where the weights of a scorer's detectors stand in a study's directory."""
    return f"calibration/{scorer}.json"


def calibration(
    spec: StudySpec, plan: StudyPlan, run: RunDirectory, cells: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Any]] | None:
    """For each scorer what `<study>/calibration/<scorer>.json` is to hold; None where the study measured nothing.

    A cell tells of the scorer whose scores chose its rows; random draws and whole datasets tell of each in turn, by its
    own scores of the same rows. All targets share weights, each with its own intercept. Only cells of one recipe (the
    one with the most), without a mitigation, further stages or rows of another dataset mixed in count: all of these
    change the damage for reasons that no score of a row tells. So does the number of rows, which is told of each cell
    and not allowed for: a study that sets out to learn weights should give its selections one size.

    Args:
        cells: those of study.json.
    """
    told = _headline(cells)
    if told is None:
        return None
    unlike = _unlike(spec, cells, told)
    trained = _trained(spec, plan, run, told)
    return {
        scorer: _of_scorer(_Scored(spec, run, scorer), told, cells, unlike, trained)
        for scorer in dict.fromkeys(scorer for _, scorer in plan.audits)
    }


def _headline(cells: Sequence[Mapping[str, Any]]) -> Series | None:
    """The headline of the first suite to refuse."""
    found = (entry for cell in cells for entry in cell["measured"] if entry["headline"])
    first = next(found, None)
    return None if first is None else series_key(first)


def _unlike(spec: StudySpec, cells: Sequence[Mapping[str, Any]], told: Series) -> dict[str, str]:
    """By id of each cell why it cannot stand beside the others; empty where nothing differs but rows and target."""
    found = {cell["id"]: _peculiar(spec, cell, told) for cell in cells}
    # most_common keeps the order in which recipes were first met, so that of equals the first of the study wins.
    recipes = Counter(cell["recipe"] for cell in cells if not found[cell["id"]]).most_common(1)
    for cell in cells:
        if recipes and not found[cell["id"]] and cell["recipe"] != recipes[0][0]:
            found[cell["id"]] = "another recipe"
    return found


def _peculiar(spec: StudySpec, cell: Mapping[str, Any], told: Series) -> str:
    if cell["mitigation"] != NO_MITIGATION:
        return "a mitigation"
    if cell["then"]:
        return "further stages"
    if spec.selections[cell["selection"]].mix is not None:
        return "rows of another dataset mixed in"
    headline = headline_of(cell["measured"], told.suite)
    if headline is None or series_key(headline) != told or headline["value"] is None:
        return "nothing measured"
    return ""


def _trained(spec: StudySpec, plan: StudyPlan, run: RunDirectory, told: Series) -> dict[str, list[Trained]]:
    """The measured fine-tunes of every cell, by its id."""
    alike = twins(spec, run.uri, dict.fromkeys(each.input for each in plan.trainings))
    rates = {target: _rates(run, target, told) for target in plan.targets}
    found: dict[str, list[Trained]] = {}
    for each in plan.trainings:
        rate = rates[each.cell.target].get(condition_name(spec, own_training(each, alike)))
        if rate is not None:
            found.setdefault(cell_id(each.cell), []).append(Trained(each.input, rate["value"], rate["scored"]))
    return found


def _rates(run: RunDirectory, target: str, told: Series) -> dict[str, Mapping[str, Any]]:
    """Of a target's evaluation what was measured of each condition."""
    try:
        rates = run.read_json(f"{evaluation_folder(target)}/{METRICS}")["rates"]
    except FileNotFoundError:
        return {}
    return {each["condition"]: each for each in rates if series_key(each) == told and each["value"] is not None}


def _of_scorer(
    scored: "_Scored",
    told: Series,
    cells: Sequence[Mapping[str, Any]],
    unlike: Mapping[str, str],
    trained: Mapping[str, Sequence[Trained]],
) -> dict[str, Any]:
    left_out: Counter[str] = Counter()
    observed: list[Observation] = []
    for cell in cells:
        if cell["scorer"] not in (None, scored.scorer):
            continue
        found = unlike[cell["id"]] or _observation(scored, cell, trained.get(cell["id"], []))
        if isinstance(found, str):
            left_out[found] += 1
        else:
            observed.append(found)
    given = _as_cells(observed, len(scored.detectors))
    kept = of_measured_targets(given)
    if not kept.all():
        left_out[f"of a target with fewer than {MINIMUM_FAMILIES_OF_TARGET} kinds of selection"] = int((~kept).sum())
        observed = [each for each, is_kept in zip(observed, kept, strict=True) if is_kept]
        given = given.at(kept)
    problem = _refusal(told, scored, given)
    learned = None if problem else calibrate(given)
    facts = {
        "scorer": scored.scorer,
        "outcome": told._asdict(),
        "recipe": observed[0].cell["recipe"] if observed else None,
        "targets": sorted({str(each.cell["target"]) for each in observed}),
        "families": len({each.family for each in observed}),
        "left_out": [{"reason": reason, "cells": count} for reason, count in sorted(left_out.items())],
        "cells": [
            {
                "id": each.cell["id"],
                "family": each.family,
                "samples": each.cell["samples"],
                "features": dict(zip(scored.detectors, each.features_D, strict=True)),
                "measured": each.share,
                "prompts": each.prompts,
                "predicted": None if learned is None else float(learned.predicted_C[place]),
            }
            for place, each in enumerate(observed)
        ],
        **_facts(learned),
    }
    weights = None if learned is None else learned.fit.weights_D.tolist()
    return learned_weights(scored.detectors, weights, learned.failure if learned else problem, facts)


def _observation(scored: "_Scored", cell: Mapping[str, Any], trained: Sequence[Trained]) -> Observation | str:
    """A cell as a scorer sees it, its fine-tunes averaged; or why it tells the scorer nothing."""
    if not trained:
        return "nothing measured"
    seen = [scored.features(each.input) for each in trained]
    for features in seen:
        if isinstance(features, str):
            return features
    return Observation(
        cell,
        scored.family(trained[0].input),
        tuple(fmean(column) for column in zip(*seen, strict=True)),
        fmean(each.share for each in trained),
        fmean(each.prompts for each in trained),
    )


def _as_cells(observed: Sequence[Observation], detectors: int) -> Cells:
    prompts_C = np.array([each.prompts for each in observed], dtype=float)
    return Cells(
        features_CD=np.array([each.features_D for each in observed], dtype=float).reshape(len(observed), detectors),
        successes_C=np.array([each.share for each in observed], dtype=float) * prompts_C,
        trials_C=prompts_C,
        targets_C=np.array([each.cell["target"] for each in observed], dtype=object),
        families_C=np.array([each.family for each in observed], dtype=object),
    )


def _refusal(told: Series, scored: "_Scored", cells: Cells) -> str:
    """Why no weights are learned; empty where they are."""
    if told.metric in RATINGS:
        return f"{told.metric} is a rating, and weights are learned from the share of attacks that succeed"
    if len(scored.detectors) < 2:
        return "weights need two detectors that may know something of a row"
    return shortage(cells)


def _facts(learned: Calibration | None) -> dict[str, Any]:
    """Of a calibration, what file and report tell besides its weights."""
    names = (
        "ridge",
        "error",
        "mean_error",
        "share_error",
        "mean_share_error",
        "rank_correlation",
        "gain",
        "gain_error",
    )
    return {
        **{name: None if learned is None else getattr(learned, name) for name in names},
        "intercepts": None if learned is None else learned.fit.intercepts,
    }


class _Scored:
    """The rows of every dataset that a scorer audited, each with its normalised ranks."""

    def __init__(self, spec: StudySpec, run: RunDirectory, scorer: str) -> None:
        self.scorer = scorer
        self._spec, self._run = spec, run
        self._tables: dict[str, pl.DataFrame | None] = {}
        self._selected: dict[tuple[str, str], pl.DataFrame | None] = {}
        first = next(iter(spec.datasets))
        self.detectors = {
            each.column: each.name
            for each in requested_detectors(audit_spec(spec, first, scorer, run.uri))
            # A detector made of others says nothing that they do not.
            if Need.OTHER_RANKS not in DETECTORS[each.name].needs and each.name not in WITHOUT_MEANING
        }

    def features(self, given: Input) -> tuple[float, ...] | str:
        """Mean normalised rank of an input's rows by each detector, or why there is none."""
        ranks = self._ranks(given.dataset)
        if ranks is None:
            return "no scores"
        rows = self._rows(given, ranks)
        if rows is None or rows.is_empty():
            return "no rows"
        if any(rows[column].count() < LEAST_COVERAGE * rows.height for column in self.detectors):
            return f"less than {LEAST_COVERAGE:.0%} of the rows with scores"
        return tuple(fmean(rows[column].drop_nulls()) for column in self.detectors)

    def family(self, given: Input) -> str:
        """What is left out together. Draws of one kind and seeds are alike; a larger selection holds a smaller one."""
        own = self._spec.selections[given.selection]
        return f"{given.dataset}: {own.kind}" + ("" if own.detector is None else f" by {own.detector}")

    def _ranks(self, dataset: str) -> pl.DataFrame | None:
        if dataset not in self._tables:
            table = self._read(f"{audit_folder(dataset, self.scorer)}/{SCORES}")
            ranks = {column: normalised_rank(column) for column in self.detectors}
            self._tables[dataset] = None if table is None else table.select("row_index", **ranks)
        return self._tables[dataset]

    def _rows(self, given: Input, ranks: pl.DataFrame) -> pl.DataFrame | None:
        audit = audit_of(given, self._spec)
        if audit is None:
            return ranks
        if audit not in self._selected:
            self._selected[audit] = self._read(f"{audit_folder(*audit)}/{SELECTED_ROWS}")
        selected = self._selected[audit]
        if selected is None:
            return None
        own = selected.filter(pl.col("selection") == selection_of(self._spec, given))
        return own.select("row_index").join(ranks, on="row_index", how="left")

    def _read(self, name: str) -> pl.DataFrame | None:
        try:
            return self._run.read_table(name)
        except FileNotFoundError:
            return None
