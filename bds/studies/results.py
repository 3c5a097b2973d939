"""study.json: what the steps of a study say together. The same runs give the same bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from bds.evaluation.study import Options
from bds.runs.directory import RunDirectory
from bds.spec.study import StudySpec
from bds.studies.calibration import calibration
from bds.studies.cells import adjust, cell_id, contrasts_of, measured_cell
from bds.studies.conditions import condition_name, finished_results, own_training, own_trainings
from bds.studies.curves import dose_curves, rate_curves
from bds.studies.defences import defence_charts
from bds.studies.grade import dataset_grades
from bds.studies.measurements import read_measurements
from bds.studies.plan import Cell, Input, StudyPlan, control_of
from bds.studies.sources import audits_told, evaluations_told, finetunes_told, rows_to_train_on
from bds.studies.steps import Ended
from bds.studies.transfer import transfer_matrices
from bds.studies.twins import twins

Results = dict[str, dict[str, dict[str, Any]]]
"""By run of fine-tunes and condition, what each fine-tune told of itself."""


def study_results(spec: StudySpec, plan: StudyPlan, run: RunDirectory, ended: Sequence[Ended]) -> dict[str, Any]:
    """Everything that the report shows, but for its verdict."""
    alike = twins(spec, run.uri, dict.fromkeys(each.input for each in plan.trainings))
    results = {
        each.name: finished_results(spec, run.uri, each, own_trainings(plan.of_run(each), alike)) for each in plan.runs
    }
    cells, contrasts, targets = _measured(spec, plan, run, results, _conditions(spec, plan, alike))
    audits = audits_told(plan, run)
    doses = dose_curves(spec, cells)
    return {
        "name": spec.name,
        "notes": spec.notes.model_dump(),
        "confidence": spec.statistics.confidence,
        "seeds": spec.seeds,
        "models": {name: model.path for name, model in spec.models.items()},
        "datasets": {name: data.path for name, data in spec.datasets.items()},
        "experiments": {
            name: {"question": spec.experiments[name].question, "cells": [cell_id(cell) for cell in own]}
            for name, own in plan.experiments.items()
        },
        "selections": {
            name: {**own.model_dump(mode="json"), "control": control_of(spec, name)}
            for name, own in spec.selections.items()
        },
        "recipes": {name: recipe.model_dump(mode="json") for name, recipe in spec.recipes.items()},
        "mitigations": {name: own.model_dump(mode="json") for name, own in spec.mitigations.items()},
        "targets": targets,
        "cells": cells,
        "contrasts": contrasts,
        "transfer": transfer_matrices(cells, contrasts, spec.statistics.confidence),
        "doses": doses,
        "rates": rate_curves(spec, cells),
        "defences": defence_charts(cells, targets),
        "grades": dataset_grades(cells, targets, doses, rows_to_train_on(spec, audits), spec.statistics.confidence),
        "calibrations": calibration(spec, plan, run, cells) or {},
        "audits": audits,
        "evaluations": evaluations_told(plan, run),
        "finetunes": finetunes_told(plan, results),
        "steps": [asdict(each) for each in ended],
    }


def _conditions(spec: StudySpec, plan: StudyPlan, alike: Mapping[Input, Input]) -> dict[Cell, list[str]]:
    """Of every cell the conditions that stand for its fine-tunes."""
    wanted: dict[Cell, list[str]] = {}
    for training in plan.trainings:
        wanted.setdefault(training.cell, []).append(condition_name(spec, own_training(training, alike)))
    return wanted


def _measured(
    spec: StudySpec, plan: StudyPlan, run: RunDirectory, results: Results, wanted: Mapping[Cell, Sequence[str]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Cells, contrasts and targets, target by target."""
    cells: list[dict[str, Any]] = []
    contrasts: list[dict[str, Any]] = []
    targets: list[dict[str, Any]] = []
    for target in plan.targets:
        found = read_measurements(run, target)
        own = {cell: names for cell, names in wanted.items() if cell.target == target}
        if found is None:
            cells += [_cell(spec, plan, results, cell, names, []) for cell, names in own.items()]
            targets.append({"name": target, "evaluated": False, "measured": []})
            continue
        options = Options.of_spec(spec.statistics, baseline=None, primary_judge=found.metrics["primary_judge"])
        there = {cell: [name for name in names if name in found.arms] for cell, names in own.items()}
        for cell, names in own.items():
            told = _cell(spec, plan, results, cell, names, there[cell])
            cells.append({**told, "measured": measured_cell(found, there[cell], options)})
        contrasts += contrasts_of(spec, found, target, there, options)
        targets.append({"name": target, "evaluated": True, "measured": measured_cell(found, [target], options)})
    adjust(contrasts, spec.statistics.confidence)
    return cells, contrasts, targets


def _cell(
    spec: StudySpec, plan: StudyPlan, results: Results, cell: Cell, wanted: Sequence[str], there: Sequence[str]
) -> dict[str, Any]:
    """What a cell is, and of how many samples and steps its fine-tunes were."""
    own = [results[cell.run][name] for name in there if name in results[cell.run]]
    return {
        "id": cell_id(cell),
        **asdict(cell),
        "kind": spec.selections[cell.selection].kind,
        "experiments": [name for name, cells in plan.experiments.items() if cell in cells],
        "conditions": list(dict.fromkeys(there)),
        "wanted": len(set(wanted)),
        "samples": own[0]["data"]["samples"] if own else None,
        "steps": sum(stage["steps"] for stage in own[0]["stages"]) if own else None,
        "final_loss": fmean(each["stages"][-1]["last_loss"] for each in own) if own else None,
        "learning_rate": spec.recipes[cell.recipe].learning_rate,
        "measured": [],
    }
