"""What each step of a study has to do and has done: counted where it can be read here, assumed where it cannot."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bds.data.reader import read_rows
from bds.errors import BdsError
from bds.evaluation.engines.plan import tensor_shapes
from bds.evaluation.private import logged_rows
from bds.evaluation.suites.asked import suites_asked
from bds.evaluation.suites.suite import Suite
from bds.planning import CHARACTERS_PER_TOKEN, count_rows
from bds.runs.directory import RunDirectory
from bds.runs.plan import read_plan
from bds.runs.receipts import Receipt, valid_receipts
from bds.scoring.detectors import DETECTORS
from bds.scoring.passes import requested_detectors
from bds.spec.finetune import MixSpec, StageSpec, TrainingDataSpec
from bds.spec.models import DataSpec
from bds.spec.paths import is_uri
from bds.spec.study import StudySelectionSpec, StudySpec
from bds.studies.conditions import condition_name, own_trainings
from bds.studies.measurements import METRICS
from bds.studies.plan import (
    FinetuneRun,
    Input,
    StudyPlan,
    Training,
    audit_folder,
    audit_spec,
    evaluation_folder,
    finetunes_folder,
    input_name,
    selection_of,
)
from bds.training.data import data_source
from bds.training.plan import RECEIPT, RESULT, amounts, check_batches

GRADIENT_PASSES, FORWARD_PASSES = 6, 2
"""Floating point operations a parameter and token: forward and backward, and forward only."""

ANSWERED = ("ok", "empty")


@dataclass(frozen=True)
class CountedData:
    """Rows of a dataset and how long they are."""

    rows: int
    samples: int
    """Rows with a prompt and an answer; all of them where they were not read."""
    tokens_per_row: float
    assumption: str = ""
    """What was assumed because the dataset cannot be read here; empty where it was counted."""


@dataclass(frozen=True)
class CountedSuites:
    prompts: int
    tokens_per_prompt: float
    names: Mapping[str, int]
    """Prompts of each suite; of one that cannot be read under its path."""
    assumptions: Mapping[str, str]
    """What was assumed, by path of a suite that cannot be read here."""


@dataclass(frozen=True)
class Spent:
    """What a finished piece of work took."""

    kind: str
    model: str
    seconds: float
    """Of one device, times the devices that it took."""
    passes: float
    device: str


@dataclass
class Work:
    """What one step comes to."""

    kind: str
    model: str
    passes: float = 0.0
    """Tokens times operations a parameter and token."""
    passes_done: float = 0.0
    amounts: dict[str, Any] = field(default_factory=dict)
    """What is told of it."""
    is_done: bool = False
    warnings: list[str] = field(default_factory=list)


class StudyReader:
    """Reads what a study's work depends on, each file once."""

    def __init__(self, spec: StudySpec, plan: StudyPlan) -> None:
        self.spec = spec
        self.plan = plan
        self.root = RunDirectory(spec.run.dir)
        self.spent: list[Spent] = []
        self._receipts: dict[tuple[str, str], list[Receipt]] = {}
        self._shards: dict[tuple[str, str], int | None] = {}
        self._rows_planned: dict[str, int] = {}
        self._sources: dict[str, CountedData] = {}
        for audit in plan.audits:
            self._read_audit(audit)
        self.datasets = {name: self._dataset(name) for name in self._datasets_used()}
        self.suites = counted_suites(spec)

    def _datasets_used(self) -> list[str]:
        return list(dict.fromkeys(each.input.dataset for each in self.plan.trainings))

    def _read_audit(self, audit: tuple[str, str]) -> None:
        run = RunDirectory(self.root.url_of(audit_folder(*audit)))
        planned = read_plan(run)
        self._shards[audit] = None if planned is None else len(planned.shards)
        if planned is None:
            return
        self._rows_planned[audit[0]] = planned.rows
        self._receipts[audit] = [each for each in valid_receipts(planned, run).values() if not each.failure]

    def _dataset(self, name: str) -> CountedData:
        """As read here; else as an audit read it; else as the spec's estimate assumes it."""
        found = self.counted(self.spec.datasets[name], name)
        told = [each for audit, receipts in self._receipts.items() if audit[0] == name for each in receipts]
        rows = sum(each.rows_ok + each.rows_not_ok for each in told)
        if name in self._rows_planned and found.assumption:
            found = CountedData(self._rows_planned[name], self._rows_planned[name], found.tokens_per_row)
        if rows:
            tokens_per_row = sum(each.tokens for each in told) / rows
            found = CountedData(found.rows, found.samples, tokens_per_row, found.assumption)
        return found

    def counted(self, data: DataSpec, name: str) -> CountedData:
        """A dataset of the spec, of a mixture or of a further stage."""
        if name not in self._sources:
            self._sources[name] = self._counted(data, name)
        return self._sources[name]

    def _counted(self, data: DataSpec, name: str) -> CountedData:
        own = self.spec.estimate
        if is_uri(data.path) or not Path(data.path).exists():
            rows = min(own.rows_per_dataset, data.limit or own.rows_per_dataset)
            why = f"{name} has {rows:,} rows of {own.tokens_per_row:,} tokens: {data.path} is not on this machine"
            return CountedData(rows, rows, float(own.tokens_per_row), why)
        count = count_rows(read_rows(data))
        tokens = count.characters / CHARACTERS_PER_TOKEN / count.rows if count.rows else 0.0
        return CountedData(count.rows, count.statuses["ok"], min(tokens, float(self.spec.tokens.max_tokens)))

    @property
    def sources(self) -> dict[str, CountedData]:
        """By name: datasets as they are read here or assumed, and what further stages train on."""
        return self._sources

    def audit(self, audit: tuple[str, str]) -> Work:
        dataset, scorer = audit
        counted = self.datasets[dataset]
        receipts = self._receipts.get(audit, [])
        shards = self._shards[audit] or math.ceil(counted.rows / self.spec.run.rows_per_shard)
        each_token, passes = _scoring_passes(self.spec, audit)
        tokens = counted.samples * counted.tokens_per_row
        done = sum(each.rows_ok + each.rows_not_ok for each in receipts)
        scoring = self.spec.resources.scoring
        gpus, parts = scoring.gpus_per_actor, scoring.parts_per_model
        for device in dict.fromkeys(each.worker.device for each in receipts):
            own = [each for each in receipts if each.worker.device == device]
            seconds = sum(each.seconds for each in own) * (1.0 if gpus == "auto" else gpus or 1.0) * parts
            self.spent.append(Spent("audit", scorer, seconds, each_token * sum(each.tokens for each in own), device))
        return Work(
            "audit",
            scorer,
            passes=each_token * tokens,
            passes_done=each_token * tokens * min(1.0, done / counted.rows) if counted.rows else 0.0,
            amounts={
                "rows": counted.rows,
                "rows_finished": done,
                "shards": shards,
                "finished_shards": len(receipts),
                "passes": passes,
                "estimated_tokens": round(tokens),
            },
            is_done=len(receipts) >= shards and self.root.exists(f"{audit_folder(*audit)}/selections/rows.parquet"),
        )

    def finetunes(self, run: FinetuneRun, alike: Mapping[Input, Input]) -> Work:
        trainings = own_trainings(self.plan.of_run(run), alike)
        there = self.root.list(finetunes_folder(run))
        work = Work("finetune", run.target)
        finished = samples = samples_seen = steps = 0
        for training in trainings:
            recipe = self.spec.recipes[training.cell.recipe]
            own_samples, tokens = self._trained_on(training.input)
            stages = [(recipe, own_samples, tokens), *(self._stage(stage) for stage in run.stages)]
            work.warnings += check_batches(training.cell.recipe, recipe, own_samples)
            done = [amounts(recipe, samples) for recipe, samples, _ in stages]
            passes = sum(
                GRADIENT_PASSES * each["samples_seen"] * tokens
                for each, (_, _, tokens) in zip(done, stages, strict=True)
            )
            samples += own_samples
            samples_seen += sum(each["samples_seen"] for each in done)
            steps += sum(each["steps"] for each in done)
            work.passes += passes
            folder = self._folder_of(run, training)
            if f"{folder}/{RECEIPT}" in there:
                finished += 1
                work.passes_done += passes
                result = self.root.read_json(f"{folder}/{RESULT}")
                seconds = result["seconds"] * result["workers"]
                self.spent.append(Spent("finetune", run.target, seconds, passes, result["device"]))
        work.amounts = {
            "finetunes": len(trainings),
            "finished_finetunes": finished,
            "samples": samples,
            "samples_seen": samples_seen,
            "steps": steps,
        }
        work.is_done = finished == len(trainings)
        return work

    def evaluation(self, target: str, alike: Mapping[Input, Input], seconds: float, judges_asking: int) -> Work:
        """`seconds` is what the evaluation has taken so far; 0 where that is not known."""
        trainings = [each for run in self.plan.runs if run.target == target for each in self.plan.of_run(run)]
        names = [target, *(condition_name(self.spec, each) for each in own_trainings(trainings, alike))]
        own = self.spec.sampling
        answers = self.suites.prompts * own.samples * len(names)
        there = min(answers, self._answers_there(target, names))
        passes = FORWARD_PASSES * answers * (self.suites.tokens_per_prompt + own.max_tokens)
        done = passes * there / answers if answers else 0.0
        if there and seconds:
            serving = self.spec.models[target].serving or self.spec.serving
            gpus = serving.tensor_parallel * serving.replicas
            device = next((each.device for each in self.spent), "a device that is not known")
            self.spent.append(Spent("evaluate", target, seconds * gpus, done, device))
        return Work(
            "evaluate",
            target,
            passes=passes,
            passes_done=done,
            amounts={
                "conditions": len(names),
                "prompts": self.suites.prompts,
                "samples": own.samples,
                "answers": answers,
                "answers_there": there,
                "answer_tokens_at_most": answers * own.max_tokens,
                "judge_requests": answers * judges_asking,
                "verdicts": answers * len(self.spec.judges),
            },
            is_done=there >= answers and self.root.exists(f"{evaluation_folder(target)}/{METRICS}"),
        )

    def _answers_there(self, target: str, names: Sequence[str]) -> int:
        folder = evaluation_folder(target)
        try:
            told = self.root.read_json(f"{folder}/{METRICS}")["answers"]
        except FileNotFoundError:
            rows = logged_rows(RunDirectory(self.root.url_of(folder)), "generations").values()
            return sum(row["status"] in ANSWERED and row["condition"] in names for row in rows)
        return sum(each["asked"] - each["failed"] for each in told if each["condition"] in names)

    def _folder_of(self, run: FinetuneRun, training: Training) -> str:
        parts = (run.target, input_name(self.spec, training.input), training.cell.recipe, training.cell.mitigation)
        return f"{finetunes_folder(run)}/models/{'/'.join(parts)}/seed-{training.seed}"

    def _trained_on(self, given: Input) -> tuple[int, float]:
        """Samples of an input, and tokens of each as the whole dataset has them."""
        counted = self.datasets[given.dataset]
        selection = self.spec.selections[given.selection]
        return self._mixed(selected(selection, counted.samples), selection.mix), counted.tokens_per_row

    def _stage(self, stage: StageSpec) -> tuple[Any, int, float]:
        own = self._own_selection(stage.data)
        if own is not None:
            dataset, selection = own
            counted = self.datasets[dataset] if dataset in self.datasets else self._dataset(dataset)
            return (
                stage.recipe,
                self._mixed(selected(selection, counted.samples), stage.data.mix),
                counted.tokens_per_row,
            )
        source = self._stage_source(stage.data)
        counted = self.counted(source, f"the further stage on {source.path}")
        return stage.recipe, self._mixed(counted.samples, stage.data.mix), counted.tokens_per_row

    def _stage_source(self, data: TrainingDataSpec) -> DataSpec:
        try:
            return data_source(data)
        except BdsError:
            return DataSpec(path=f"{data.audit}/selections/{data.selection}", limit=data.limit)

    def _own_selection(self, data: TrainingDataSpec) -> tuple[str, StudySelectionSpec] | None:
        """The dataset and the selection, where a further stage takes one that an audit of this study writes."""
        for dataset, scorer in self.plan.audits:
            if data.audit == audit_spec(self.spec, dataset, scorer, self.spec.run.dir).run.dir:
                for name, own in self.spec.selections.items():
                    draws = [selection_of(self.spec, Input(dataset, name, None, draw)) for draw in range(own.draws)]
                    if data.selection in draws:
                        return dataset, own
        return None

    def _mixed(self, samples: int, mix: MixSpec | None) -> int:
        return samples if mix is None else sum(mix.parts(samples))


def selected(selection: StudySelectionSpec, rows: int) -> int:
    """Rows of a selection of so many scored rows."""
    if selection.kind == "whole":
        return rows
    wanted = selection.count if selection.count is not None else max(1, round((selection.share or 0) * rows))
    return max(0, rows - wanted) if selection.kind == "filtered" else min(wanted, rows)


def parameters_of(spec: StudySpec, name: str) -> tuple[float | None, str]:
    """How many a model has, and who says so: the spec, else the headers of its files."""
    model = spec.models[name]
    if model.parameters is not None:
        return model.parameters, "as the spec says"
    shapes = tensor_shapes(Path(model.path)) if Path(model.path).is_dir() else {}
    if shapes:
        return float(sum(math.prod(shape) for shape in shapes.values())), "as its files say"
    return None, f"not known (models.{name}.parameters would tell)"


def counted_suites(spec: StudySpec) -> CountedSuites:
    """Prompts of the suites. One that cannot be read has as many as the spec's estimate assumes."""
    names: dict[str, int] = {}
    tokens = 0.0
    assumptions: dict[str, str] = {}
    own = spec.estimate
    for asked in spec.suites:
        if asked.path is not None and not Path(asked.path).exists():
            prompts = min(own.prompts_per_suite, asked.limit or own.prompts_per_suite)
            names[asked.path] = prompts
            tokens += prompts * own.tokens_per_row
            assumptions[asked.path] = (
                f"the suite at {asked.path} has {prompts:,} prompts of {own.tokens_per_row:,} tokens: it is not on "
                "this machine"
            )
            continue
        for suite in suites_asked([asked]).suites:
            names[suite.name] = len(suite.prompts)
            tokens += _characters(suite) / CHARACTERS_PER_TOKEN
    prompts = sum(names.values())
    return CountedSuites(prompts, tokens / prompts if prompts else 0.0, names, assumptions)


def _characters(suite: Suite) -> int:
    return sum(len(prompt.text) for prompt in suite.prompts)


def _scoring_passes(spec: StudySpec, audit: tuple[str, str]) -> tuple[int, str]:
    """Operations a parameter and token, and their name."""
    costs = {DETECTORS[each.name].cost for each in requested_detectors(audit_spec(spec, *audit, spec.run.dir))}
    if "one backward" in costs:
        return GRADIENT_PASSES, "forward and backward"
    return (FORWARD_PASSES, "forward only") if "forward only" in costs else (0, "none with the model")
