"""The steps that a study stands for: every distinct audit, fine-tune and evaluation once, whoever asks for it.

An input is what a model is fine-tuned on: rows of a dataset, chosen by the scores of a model or by none. A cell is an
input with a target model, a recipe and a mitigation: its fine-tunes differ by the draw of the input and by seed.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from bds.errors import SpecError
from bds.spec.evaluate import ConditionSpec, EvaluateSpec
from bds.spec.fields import suggestion
from bds.spec.finetune import FinetuneSpec, OnlySpec, StageSpec, TrainingDataSpec
from bds.spec.models import AuditSpec, ModelSpec
from bds.spec.study import SCORERLESS_KINDS, ExperimentSpec, StudySpec

NO_MITIGATION = "none"
_DIMENSIONS = ("scorers", "datasets", "selections", "targets", "recipes", "mitigations")


@dataclass(frozen=True)
class Input:
    """What is trained on."""

    dataset: str
    selection: str
    scorer: str | None
    """The model whose scores chose the rows; None where no scores did."""
    draw: int = 0

    def name(self, draws: int) -> str:
        """As a dataset of the fine-tunes is named."""
        parts = [self.dataset, self.selection, *([] if self.scorer is None else [self.scorer])]
        return ".".join(parts if draws == 1 else [*parts, f"draw-{self.draw}"])


@dataclass(frozen=True)
class Cell:
    """One treatment of one target model."""

    target: str
    dataset: str
    selection: str
    scorer: str | None
    recipe: str
    mitigation: str
    then: str = ""
    """The experiment whose further stages follow; empty for none."""

    @property
    def run(self) -> str:
        """The name of the run that its fine-tunes are in."""
        return _run_name(self.target, self.then)

    @property
    def group(self) -> str:
        """As an evaluation names its conditions, but for draw and seed."""
        parts = [self.dataset, self.selection, *([] if self.scorer is None else [self.scorer])]
        return "+".join([".".join(parts), self.recipe, self.mitigation, *([self.then] if self.then else [])])


@dataclass(frozen=True)
class Training:
    """One fine-tune of a cell."""

    cell: Cell
    input: Input
    seed: int


@dataclass(frozen=True)
class FinetuneRun:
    """The fine-tunes of one run directory."""

    target: str
    then: str
    stages: tuple[StageSpec, ...]

    @property
    def name(self) -> str:
        return _run_name(self.target, self.then)


@dataclass
class StudyPlan:
    """What a study does, in the order of its spec."""

    audits: list[tuple[str, str]] = field(default_factory=list)
    """(dataset, scorer)."""
    trainings: list[Training] = field(default_factory=list)
    experiments: dict[str, list[Cell]] = field(default_factory=dict)
    """The cells of each."""
    runs: list[FinetuneRun] = field(default_factory=list)

    @property
    def targets(self) -> list[str]:
        return list(dict.fromkeys(run.target for run in self.runs))

    @property
    def cells(self) -> list[Cell]:
        return list(dict.fromkeys(training.cell for training in self.trainings))

    def of_run(self, run: FinetuneRun) -> list[Training]:
        return [each for each in self.trainings if (each.cell.target, each.cell.then) == (run.target, run.then)]

    def audits_of(self, run: FinetuneRun, spec: StudySpec) -> list[tuple[str, str]]:
        """The audits whose selections a run trains on."""
        found = (audit_of(each.input, spec) for each in self.of_run(run))
        return list(dict.fromkeys(audit for audit in found if audit is not None))


def _run_name(target: str, then: str) -> str:
    return f"{target}+{then}" if then else target


def plan_study(spec: StudySpec) -> StudyPlan:
    """Every distinct step of a study.

    Raises:
        SpecError: an experiment names what the study does not have, or two inputs would have one name.
    """
    plan = StudyPlan()
    trainings: dict[Training, None] = {}
    for name, experiment in spec.experiments.items():
        then = _stages_name(spec, name)
        cells: dict[Cell, None] = {}
        for training in _trainings(spec, name, experiment, then):
            cells[training.cell] = None
            trainings[training] = None
        plan.experiments[name] = list(cells)
    plan.trainings = list(trainings)
    plan.audits = list(
        dict.fromkeys(audit for each in plan.trainings if (audit := audit_of(each.input, spec)) is not None)
    )
    for each in plan.trainings:
        stages = tuple(spec.experiments[each.cell.then].then) if each.cell.then else ()
        run = FinetuneRun(each.cell.target, each.cell.then, stages)
        if run not in plan.runs:
            plan.runs.append(run)
    _refuse_equal_names(spec, plan)
    return plan


def audit_of(given: Input, spec: StudySpec) -> tuple[str, str] | None:
    """The audit that wrote an input; None for a whole dataset. Draws that no scores decide are the first scorer's."""
    if spec.selections[given.selection].kind == "whole":
        return None
    return given.dataset, given.scorer or scorers_of(spec)[0]


def scorers_of(spec: StudySpec) -> list[str]:
    return spec.scorers or list(spec.models)


def control_of(spec: StudySpec, selection: str) -> str | None:
    """The selection that another is compared with; None for one that is a control itself, or where there is none."""
    own = spec.selections[selection]
    if own.control is not None:
        return own.control
    kinds = {name: each.kind for name, each in spec.selections.items()}
    if own.kind == "filtered":
        return next((name for name, kind in kinds.items() if kind == "whole"), None)
    if own.kind in {"whole", "random"}:
        return None
    # A control of the same size, where there is one: how many samples there are matters by itself.
    alike = [name for name, kind in kinds.items() if kind == "random" and _size(spec, name) == _size(spec, selection)]
    return next(iter([*alike, *(name for name, kind in kinds.items() if kind == "random")]), None)


def _size(spec: StudySpec, selection: str) -> tuple[int | None, float | None]:
    own = spec.selections[selection]
    return own.count, own.share


def control_cell(spec: StudySpec, cell: Cell) -> Cell | None:
    """What a cell is compared with; it need not be among those of the study."""
    control = control_of(spec, cell.selection)
    if control is None:
        return None
    scorer = None if spec.selections[control].kind in SCORERLESS_KINDS else cell.scorer
    return replace(cell, selection=control, scorer=scorer)


def audit_folder(dataset: str, scorer: str) -> str:
    return f"audits/{dataset}/{scorer}"


def finetunes_folder(run: FinetuneRun) -> str:
    return f"finetunes/{run.name}"


def evaluation_folder(target: str) -> str:
    return f"evaluations/{target}"


def audit_spec(spec: StudySpec, dataset: str, scorer: str, root: str) -> AuditSpec:
    """What the audit of a dataset by a scorer is asked. `root` is the study's run directory."""
    model = spec.models[scorer]
    select = [
        own.of_audit(_draw_name(name, own.draws, draw), draw)
        for name, own in spec.selections.items()
        if own.kind != "whole"
        for draw in range(own.draws)
    ]
    return AuditSpec(
        name=f"{spec.name}: {dataset} by {scorer}",
        data=spec.datasets[dataset],
        model=ModelSpec(path=model.path, revision=model.revision, adapter=model.adapter, dtype=model.dtype),
        tokens=spec.tokens,
        anchors=spec.anchors,
        score=spec.score,
        select=select or None,
        resources=spec.resources.scoring.model_copy(update=_cluster(spec)),
        run={
            "dir": f"{root}/{audit_folder(dataset, scorer)}",
            "rows_per_shard": spec.run.rows_per_shard,
            "max_failed_fraction": spec.run.max_failed_fraction,
        },
    )


def finetune_spec(spec: StudySpec, run: FinetuneRun, trainings: Sequence[Training], root: str) -> FinetuneSpec:
    """What the fine-tunes of a run are asked.

    Args:
        trainings: those of the run that are to be trained; an input that is another's twin is not among them.
    """
    model = spec.models[run.target]
    names = {each.input: input_name(spec, each.input) for each in trainings}
    combined: dict[tuple[str, str, str], list[int]] = {}
    for each in trainings:
        combined.setdefault((names[each.input], each.cell.recipe, each.cell.mitigation), []).append(each.seed)
    return FinetuneSpec(
        name=f"{spec.name}: {run.name}",
        models={run.target: model.model_dump(include={"path", "revision", "adapter", "base"})},
        datasets={name: _training_data(spec, given, root) for given, name in names.items()},
        recipes={name: spec.recipes[name] for name in dict.fromkeys(each.cell.recipe for each in trainings)},
        mitigations={
            name: spec.mitigations[name] for name in dict.fromkeys(each.cell.mitigation for each in trainings)
        },
        seeds=list(dict.fromkeys(each.seed for each in trainings)),
        only=[
            OnlySpec(datasets=[dataset], recipes=[recipe], mitigations=[mitigation], seeds=seeds)
            for (dataset, recipe, mitigation), seeds in combined.items()
        ],
        then=list(run.stages),
        tokens=spec.tokens,
        resources=(model.training or spec.resources.training).model_copy(update=_cluster(spec)),
        run={
            "dir": f"{root}/{finetunes_folder(run)}",
            "checkpoint_steps": spec.run.checkpoint_steps,
            "restarts": spec.run.restarts,
            "max_unusable_fraction": spec.run.max_unusable_fraction,
        },
    )


def evaluate_spec(spec: StudySpec, target: str, finetuned: dict[str, ConditionSpec], root: str) -> EvaluateSpec:
    """What a target and its fine-tunes are asked; the target itself is the baseline."""
    model = spec.models[target]
    aligned = ConditionSpec(path=model.path, revision=model.revision, adapter=model.adapter)
    return EvaluateSpec(
        name=f"{spec.name}: {target}",
        models={target: aligned, **finetuned},
        suites=spec.suites,
        judges=spec.judges,
        sampling=spec.sampling,
        serving=model.serving or spec.serving,
        utility=spec.utility,
        statistics=spec.statistics.model_copy(update={"baseline": target}),
        resources=_cluster(spec),
        run={
            "dir": f"{root}/{evaluation_folder(target)}",
            "max_unscored_fraction": spec.run.max_unscored_fraction,
        },
    )


def input_name(spec: StudySpec, given: Input) -> str:
    return given.name(spec.selections[given.selection].draws)


def selection_of(spec: StudySpec, given: Input) -> str:
    """The name of an input's selection within its audit."""
    return _draw_name(given.selection, spec.selections[given.selection].draws, given.draw)


def _draw_name(selection: str, draws: int, draw: int) -> str:
    return selection if draws == 1 else f"{selection}.draw-{draw}"


def _cluster(spec: StudySpec) -> dict[str, object]:
    return {"address": spec.resources.address, "wait_seconds": spec.resources.wait_seconds}


def _training_data(spec: StudySpec, given: Input, root: str) -> TrainingDataSpec:
    mix = spec.selections[given.selection].mix
    audit = audit_of(given, spec)
    if audit is None:
        return TrainingDataSpec(**spec.datasets[given.dataset].model_dump(), mix=mix)
    return TrainingDataSpec(audit=f"{root}/{audit_folder(*audit)}", selection=selection_of(spec, given), mix=mix)


def _trainings(spec: StudySpec, name: str, experiment: ExperimentSpec, then: str) -> Iterator[Training]:
    chosen = {dimension: _chosen(spec, name, experiment, dimension) for dimension in _DIMENSIONS}
    for target, dataset, selection in itertools.product(chosen["targets"], chosen["datasets"], chosen["selections"]):
        own = spec.selections[selection]
        scorers: list[str | None] = [None] if own.kind in SCORERLESS_KINDS else list(chosen["scorers"])
        for scorer, recipe, mitigation in itertools.product(scorers, chosen["recipes"], chosen["mitigations"]):
            cell = Cell(target, dataset, selection, scorer, recipe, mitigation, then)
            for draw, seed in itertools.product(range(own.draws), experiment.seeds or spec.seeds):
                yield Training(cell, Input(dataset, selection, scorer, draw), seed)


def _chosen(spec: StudySpec, experiment: str, own: ExperimentSpec, dimension: str) -> list[str]:
    known = list(spec.models if dimension in {"scorers", "targets"} else getattr(spec, dimension))
    by_default = known
    if dimension in {"scorers", "targets"}:
        by_default = getattr(spec, dimension) or known
        _expect_known(by_default, known, dimension, "model")
    given = getattr(own, dimension)
    if given is not None:
        _expect_known(given, known, f"experiments.{experiment}.{dimension}", dimension.rstrip("s"))
    return list(by_default if given is None else given)


def _expect_known(names: Sequence[str], known: Sequence[str], field_name: str, what: str) -> None:
    for name in names:
        if name not in known:
            raise SpecError(f"field {field_name}: there is no {what} '{name}' in this study; {suggestion(name, known)}")


def _stages_name(spec: StudySpec, experiment: str) -> str:
    """The first experiment with the same further stages; empty where there are none."""
    own = _dumped(spec.experiments[experiment])
    if not spec.experiments[experiment].then:
        return ""
    return next(name for name, each in spec.experiments.items() if _dumped(each) == own)


def _dumped(experiment: ExperimentSpec) -> str:
    return json.dumps([stage.model_dump(mode="json") for stage in experiment.then], sort_keys=True)


def _refuse_equal_names(spec: StudySpec, plan: StudyPlan) -> None:
    inputs = dict.fromkeys(each.input for each in plan.trainings)
    named: dict[str, Input] = {}
    for given in inputs:
        name = input_name(spec, given)
        if name in named:
            raise SpecError(
                f"two inputs would be named {name}: rename a dataset, a selection or a model that has a dot in its name"
            )
        named[name] = given
