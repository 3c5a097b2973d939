"""Fine-tunes: freeze what is asked and the data, train what is missing, report what there is.

A fine-tune that fails is reported and the others go on. Running the same command again trains what is missing.
"""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from bds.checks_hub import check_hub
from bds.data.tokens import check_template
from bds.distributed.trainers import open_trainers
from bds.errors import BdsError, IncompleteError, PreflightError
from bds.report.finetunes import write_finetune_report
from bds.runs.attempts import open_attempt
from bds.runs.directory import RunDirectory
from bds.runs.events import EventLog
from bds.runs.kind import SPEC, expect_kind
from bds.runs.progress import duration, show_progress
from bds.scoring.loading import load_configuration, load_tokenizer
from bds.spec.finetune import FinetuneSpec
from bds.training.curve import read_curve
from bds.training.data import FrozenData, freeze
from bds.training.plan import (
    CURVE,
    PROGRESS,
    RECEIPT,
    RESULT,
    Assignment,
    Finetune,
    amounts,
    check_batches,
    expand,
    finetune_key,
    finished,
    input_fingerprints,
)
from bds.training.several import Failure, Outcome

FAILURE = "failure.json"


@dataclass(frozen=True)
class FinetuneResult:
    """What the fine-tunes of a run leave behind."""

    run_dir: str
    runs: pl.DataFrame
    """One row a fine-tune: id, model, dataset, recipe, mitigation, seed, status (finished or failed), reason, steps,
    samples_seen, final_loss, seconds and output, the folder of the trained model or adapter."""
    headline: str
    report: str
    """Path or URI of report.html."""
    exit_error: BdsError | None
    """Set where a fine-tune failed."""


def run_finetunes(
    spec: FinetuneSpec,
    *,
    fresh: bool = False,
    local: bool = False,
    command: Sequence[str] = (),
    report: Callable[[str], None] = lambda line: None,
) -> FinetuneResult:
    """Trains every fine-tune of a checked spec that is not finished yet.

    Args:
        fresh: delete an earlier run in the same directory first.
        local: train in this process, one after the other, without Ray.
        command: what the user typed, for the manifest.
        report: called with one line of progress at a time.

    Raises:
        SpecError: the directory holds something else under one of the names.
        PreflightError: data, models, storage or resources cannot do it.
        Interrupted: SIGINT or SIGTERM; running the same command again resumes.
    """
    check_hub(spec)
    run = RunDirectory(spec.run.dir)
    with open_attempt(run, command, fresh=fresh) as attempt:
        expect_kind(run, "finetune", "the fine-tunes")
        prepared = _prepare(spec, run, report)
        attempt.begin(report)
        if prepared.missing:
            _train(spec, run, prepared, attempt.lease.check, attempt.log, local=local, report=report)
        result = _result(spec, run, prepared)
        attempt.error = result.exit_error
    return result


@dataclass(frozen=True)
class _Prepared:
    """What is fixed before any model loads."""

    assignments: list[Assignment]
    missing: list[Assignment]


def _prepare(spec: FinetuneSpec, run: RunDirectory, report: Callable[[str], None]) -> _Prepared:
    for name, model in spec.models.items():
        configuration = load_configuration(model.aligned)
        if spec.resources.sharding == "fsdp2" and configuration.get_text_config(decoder=True).tie_word_embeddings:
            # Its FSDP2 plan computes the output head from a copy of the embedding that no step updates.
            raise PreflightError(
                f"model {name} ties its output head to its embedding, which transformers' FSDP2 trains wrongly; set "
                "resources.sharding to ddp"
            )
        template = check_template(load_tokenizer(model.aligned), spec.tokens.template, spec.tokens.supervise)
        for warning in template.warnings:
            report(f"warning: {warning}")
    inputs = input_fingerprints(spec)
    finished_on = {name.split("/")[2] for name in run.list("models") if name.endswith(f"/{RECEIPT}")}
    data = {
        name: freeze(run, f"data/{name}", asked, in_use=name in finished_on) for name, asked in spec.datasets.items()
    }
    then = [
        freeze(run, f"then/{number}", stage.data, in_use=bool(finished_on))
        for number, stage in enumerate(spec.then, start=1)
    ]
    _report_amounts(spec, data, then, report)
    assignments = []
    for task in expand(spec):
        key = finetune_key(spec, task, data, then, inputs)
        assignments.append(Assignment(task, key, data[task.dataset], tuple(then)))
    missing = [each for each in assignments if finished(run, each.task, each.key) is None]
    run.write_json(SPEC, spec.model_dump(mode="json"))
    done = len(assignments) - len(missing)
    report(f"{len(assignments)} fine-tunes" + (f", {done} of them finished already" if done else ""))
    return _Prepared(assignments, missing)


def _report_amounts(
    spec: FinetuneSpec, data: Mapping[str, FrozenData], then: Sequence[FrozenData], report: Callable[[str], None]
) -> None:
    """Samples seen, optimiser steps and effective batch of every recipe on every dataset, as read."""
    asked = dict.fromkeys((task.recipe, task.dataset) for task in expand(spec))
    pairs = [(f"recipe {name} on {each}", spec.recipes[name], data[each]) for name, each in asked]
    pairs += [(f"stage {number}", stage.recipe, then[number - 2]) for number, stage in enumerate(spec.then, start=2)]
    for name, recipe, frozen in pairs:
        for note in check_batches(name.split()[1], recipe, frozen.readable):
            report(f"warning: {note}")
        counted = amounts(recipe, frozen.readable)
        report(
            f"{name}: {frozen.readable:,} samples x {recipe.epochs} epochs = {counted['samples_seen']:,} samples seen "
            f"in {counted['steps']:,} optimiser steps of {recipe.batch} (effective batch)"
        )


class FinetuneMeter:
    """Counts fine-tunes and optimiser steps, over this attempt alone."""

    label = "training"

    def __init__(self, finetunes: int, steps: Mapping[str, int]) -> None:
        self._finetunes = finetunes
        self._steps = dict(steps)
        self._done: dict[str, int] = {}
        self._ended = 0
        self._failed = 0
        self._started = time.monotonic()
        self._first: tuple[float, int] | None = None
        """When the first steps were seen, and how many: what starting up takes belongs to no step."""

    @property
    def total(self) -> int:
        return sum(self._steps.values())

    @property
    def completed(self) -> int:
        return sum(min(done, self._steps[name]) for name, done in self._done.items())

    def at(self, name: str, steps_done: int) -> None:
        """A fine-tune under way has done so many steps."""
        self._done[name] = steps_done
        if self._first is None and self.completed:
            self._first = time.monotonic(), self.completed

    def ended(self, name: str, *, failed: bool) -> None:
        self._ended += 1
        self._failed += failed
        self._done[name] = self._steps[name]

    def line(self) -> str:
        parts = [f"{self._ended}/{self._finetunes} fine-tunes", f"{self.completed:,}/{self.total:,} steps"]
        if self._failed:
            parts.append(f"{self._failed} failed")
        if self._ended == self._finetunes:
            parts.append("done")
        else:
            left = self._seconds_left()
            parts.append("estimating the remaining time" if left is None else f"{duration(left)} left")
        return ", ".join(parts)

    def _seconds_left(self) -> float | None:
        """From the whole time a step took once a fine-tune has ended, before that from the steps alone."""
        started, before = (self._started, 0) if self._ended else self._first or (0.0, self.completed)
        done = self.completed - before
        return (time.monotonic() - started) / done * (self.total - self.completed) if done else None


def _train(
    spec: FinetuneSpec,
    run: RunDirectory,
    prepared: _Prepared,
    check_lease: Callable[[], None],
    log: EventLog,
    *,
    local: bool,
    report: Callable[[str], None],
) -> None:
    steps = {each.task.id: _steps(spec, each) for each in prepared.missing}
    meter = FinetuneMeter(len(prepared.missing), steps)
    with (
        open_trainers(spec, run, prepared.missing, local=local, report=report) as trainers,
        show_progress(meter) as show,
    ):

        def on_outcome(outcome: Outcome) -> None:
            check_lease()
            task = outcome.assignment.task
            meter.ended(task.id, failed=outcome.failure is not None)
            if outcome.failure is not None:
                run.write_json(f"{task.folder}/{FAILURE}", asdict(outcome.failure))
                report(f"{task.id} failed: {outcome.failure.reason}")
                log.add("failure", {"id": task.id, **asdict(outcome.failure)})
            else:
                run.delete(f"{task.folder}/{FAILURE}")
                log.add("finetune", {"id": task.id})
            show()

        def on_wait(running: Sequence[Assignment]) -> None:
            check_lease()
            for each in running:
                with contextlib.suppress(FileNotFoundError):
                    meter.at(each.task.id, run.read_json(f"{each.task.folder}/{PROGRESS}")["steps_done"])
            show()

        trainers.train(prepared.missing, on_outcome=on_outcome, on_wait=on_wait)


def _steps(spec: FinetuneSpec, assignment: Assignment) -> int:
    recipe = spec.recipes[assignment.task.recipe]
    stages = zip(assignment.then, spec.then, strict=True)
    return amounts(recipe, assignment.data.readable)["steps"] + sum(
        amounts(stage.recipe, frozen.readable)["steps"] for frozen, stage in stages
    )


def _result(spec: FinetuneSpec, run: RunDirectory, prepared: _Prepared) -> FinetuneResult:
    results, failures, curves, rows = [], [], {}, []
    for each in prepared.assignments:
        task = each.task
        names: dict[str, Any] = {"id": task.id, **asdict(task)}
        if finished(run, task, each.key) is None:
            failure = _failure(run, task)
            failures.append({**names, "reason": failure.reason})
            rows.append({**names, "status": "failed", "reason": failure.reason})
            continue
        result = run.read_json(f"{task.folder}/{RESULT}")
        results.append(result)
        curves[task.id] = read_curve(run.read_bytes(f"{task.folder}/{CURVE}").decode())
        rows.append(
            {
                **names,
                "status": "finished",
                "reason": "",
                "steps": sum(stage["steps"] for stage in result["stages"]),
                "samples_seen": sum(stage["samples_seen"] for stage in result["stages"]),
                "final_loss": result["stages"][-1]["last_loss"],
                "seconds": result["seconds"],
                "output": run.url_of(f"{task.folder}/{result['output']}"),
            }
        )
    page = write_finetune_report(
        run, results, failures, {name: [asdict(point) for point in curve] for name, curve in curves.items()}
    )
    headline = f"{len(results)} of {len(rows)} fine-tunes finished"
    error = None
    if failures:
        headline += f", {len(failures)} failed"
        error = IncompleteError(
            f"{len(failures)} of {len(rows)} fine-tunes failed, the first of them {failures[0]['id']}: "
            f"{failures[0]['reason']}; run the same command again to try them anew"
        )
    return FinetuneResult(run.uri, pl.DataFrame(rows, schema=_COLUMNS), headline, page, error)


_COLUMNS = {
    "id": pl.String,
    "model": pl.String,
    "dataset": pl.String,
    "recipe": pl.String,
    "mitigation": pl.String,
    "seed": pl.Int64,
    "status": pl.String,
    "reason": pl.String,
    "steps": pl.Int64,
    "samples_seen": pl.Int64,
    "final_loss": pl.Float64,
    "seconds": pl.Float64,
    "output": pl.String,
}


def _failure(run: RunDirectory, task: Finetune) -> Failure:
    try:
        return Failure(**run.read_json(f"{task.folder}/{FAILURE}"))
    except FileNotFoundError:
        return Failure("it has no result and no failure was recorded", "")
