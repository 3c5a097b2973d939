"""From the fine-tunes of a study to what its evaluations ask, and back to the cells that they belong to."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bds.runs.directory import RunDirectory
from bds.spec.evaluate import ConditionSpec
from bds.spec.study import StudySpec
from bds.studies.plan import FinetuneRun, Input, Training, finetunes_folder, input_name

FINETUNES = "finetunes.json"


def condition_name(spec: StudySpec, training: Training) -> str:
    draws = spec.selections[training.input.selection].draws
    draw = "" if draws == 1 else f".draw-{training.input.draw}"
    return f"{training.cell.group}{draw}.seed-{training.seed}"


def finished_results(
    spec: StudySpec, root: str, run: FinetuneRun, trainings: Iterable[Training]
) -> dict[str, dict[str, Any]]:
    """What the fine-tunes of a run that have finished told of themselves (result.json), by condition."""
    try:
        results = RunDirectory(root).read_json(f"{finetunes_folder(run)}/{FINETUNES}")["results"]
    except FileNotFoundError:
        return {}
    finished = {(each["dataset"], each["recipe"], each["mitigation"], each["seed"]): each for each in results}
    found = {}
    for each in trainings:
        key = (input_name(spec, each.input), each.cell.recipe, each.cell.mitigation, each.seed)
        if key in finished:
            found[condition_name(spec, each)] = finished[key]
    return found


def finetuned_conditions(
    spec: StudySpec, root: str, run: FinetuneRun, trainings: Sequence[Training]
) -> dict[str, ConditionSpec]:
    """What an evaluation asks: every fine-tune of a run that has finished, by condition."""
    groups = {condition_name(spec, each): each.cell.group for each in trainings}
    results = finished_results(spec, root, run, trainings)
    return {name: _condition(root, run, result, groups[name]) for name, result in results.items()}


def own_trainings(trainings: Iterable[Training], twins: Mapping[Input, Input]) -> list[Training]:
    """The fine-tunes that are to be trained: of inputs with the same rows, those of the first."""
    return list(dict.fromkeys(own_training(each, twins) for each in trainings))


def own_training(training: Training, twins: Mapping[Input, Input]) -> Training:
    """The fine-tune that stands for one: its own, or that of the first input with the same rows."""
    given = twins.get(training.input, training.input)
    cell = replace(training.cell, dataset=given.dataset, selection=given.selection, scorer=given.scorer)
    return Training(cell, given, training.seed)


def _condition(root: str, run: FinetuneRun, result: Mapping[str, Any], group: str) -> ConditionSpec:
    saved = f"{root}/{finetunes_folder(run)}/models/{result['id']}/{result['output']}"
    if result["output"] == "adapter":
        path, revision = result["base_model"], result["base_revision"]
        return ConditionSpec(path=path, revision=revision, adapter=saved, group=group, seed=result["seed"])
    return ConditionSpec(path=saved, group=group, seed=result["seed"])
