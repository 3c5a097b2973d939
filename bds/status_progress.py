"""How far a run is, by its kind: what is done of what was planned, read from the run directory alone."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bds.errors import BdsError
from bds.runs.directory import RunDirectory
from bds.runs.manifest import read_manifest
from bds.runs.plan import Plan, read_plan
from bds.runs.receipts import remaining
from bds.runs.stage import StageDirectory
from bds.runs.status import attempt_events, seconds_since
from bds.spec.evaluate import EvaluateSpec
from bds.spec.finetune import FinetuneSpec
from bds.spec.moderate import ModerateSpec
from bds.spec.study import StudySpec


@dataclass(frozen=True)
class Progress:
    """One thing that is counted."""

    what: str
    """shards, fine-tunes, answers, steps, ..."""
    done: int
    planned: int | None
    """None where it cannot be known from here."""
    per_second: float | None = None
    """Over the last attempt alone; None until something of it is done."""

    @property
    def seconds_left(self) -> float | None:
        if self.per_second is None or self.planned is None:
            return None
        return max(0, self.planned - self.done) / self.per_second


@dataclass(frozen=True)
class StepState:
    """One step of a study."""

    id: str
    folder: str
    """Its run directory within the study's."""
    state: str
    """waiting, running, done or incomplete."""
    reason: str = ""
    seconds: float | None = None


def progress_of(run: RunDirectory, spec: dict[str, Any], attempt: int, *, running: bool) -> list[Progress]:
    """What the run counts, in the order in which it is done.

    Args:
        running: whether the attempt is alive: its rate then counts the time until now.

    Raises:
        BdsError: a file of the run is damaged.
    """
    events = attempt_events(run, attempt)
    match spec.get("kind", "audit"):
        case "audit":
            return list(_of_plan(run, "shards", events, running))
        case "finetune":
            return [_of_finetunes(run, FinetuneSpec.model_validate(spec), events, running)]
        case "evaluate":
            return _of_answers(run, EvaluateSpec.model_validate(spec), events, running)
        case "moderate":
            return list(_of_judges(run, ModerateSpec.model_validate(spec), events, running))
        case "study":
            steps = steps_of_study(run, StudySpec.model_validate(spec), attempt)
            return [Progress("steps", sum(step.state == "done" for step in steps), len(steps))]
    return []


def steps_of_study(run: RunDirectory, spec: StudySpec, attempt: int) -> list[StepState]:
    """Every step of a study: as the last attempt logged it, or else as an earlier one left it."""
    from bds.studies.plan import audit_folder, evaluation_folder, finetunes_folder, plan_study
    from bds.studies.steps import steps_of

    logged: dict[str, dict[str, Any]] = {}
    for event in attempt_events(run, attempt):
        if event.get("event") in {"step", "step_ended"}:
            logged[str(event.get("id"))] = event
    found = []
    for step in steps_of(spec, plan_study(spec)):
        if step.audit is not None:
            folder = audit_folder(*step.audit)
        else:
            folder = finetunes_folder(step.run) if step.run is not None else evaluation_folder(str(step.target))
        at = logged.get(step.id)
        if at is None:
            entries = read_manifest(RunDirectory(f"{run.uri}/{folder}")).get("attempts", [])
            done = bool(entries) and entries[-1].get("outcome") == "finished"
            found.append(StepState(step.id, folder, "done" if done else "waiting"))
        elif at["event"] == "step":
            found.append(StepState(step.id, folder, "running", seconds=round(seconds_since(at["at"]), 1)))
        else:
            failure, seconds = str(at.get("failure", "")), at.get("seconds")
            found.append(StepState(step.id, folder, "incomplete" if failure else "done", failure, seconds))
    return found


def _of_plan(run: RunDirectory, what: str, events: Sequence[dict[str, Any]], running: bool) -> Iterator[Progress]:
    plan = read_plan(run)
    if plan is None:
        yield Progress(what, 0, None)
        return
    left = remaining(plan, run)
    yield Progress(what, len(plan.shards) - len(left), len(plan.shards))
    rows = {shard.index: shard.rows for shard in plan.shards}
    scored = [(event, rows.get(event["shard"], 0)) for event in events if event.get("event") == "shard"]
    rate = _rate([(event["at"], event.get("seconds", 0.0), amount) for event, amount in scored], running and bool(left))
    yield Progress("rows", plan.rows - sum(shard.rows for shard in left), plan.rows, rate)


def _of_finetunes(run: RunDirectory, spec: FinetuneSpec, events: Sequence[dict[str, Any]], running: bool) -> Progress:
    from bds.training.plan import RECEIPT, expand

    tasks = expand(spec)
    there = run.list("models")
    done = sum(f"{task.folder}/{RECEIPT}" in there for task in tasks)
    ended = [(event["at"], 0.0, 1) for event in events if event.get("event") == "finetune"]
    begun = [(events[0]["at"], 0.0, 0)] if ended else []
    return Progress("fine-tunes", done, len(tasks), _rate(begun + ended, running))


def _of_answers(
    run: RunDirectory, spec: EvaluateSpec, events: Sequence[dict[str, Any]], running: bool
) -> list[Progress]:
    from bds.evaluation.answers import FOLDER as ANSWERS
    from bds.evaluation.private import logged_rows
    from bds.evaluation.verdict_rows import FOLDER as VERDICTS
    from bds.planning_evaluate import plan_evaluation

    try:
        planned = plan_evaluation(spec)
    except BdsError:  # its suites or fine-tunes are on another machine
        planned = {}
    answers = [row for row in logged_rows(run, ANSWERS).values() if row["status"] != "failed"]
    since = _unix(events[0]["at"]) if events else 0.0
    now = [(row["at"], 0.0, 1) for row in answers if row.get("at", 0.0) >= since]
    verdicts = len(logged_rows(run, VERDICTS))
    return [
        Progress("answers", len(answers), planned.get("answers"), _rate(sorted(now), running)),
        Progress("verdicts", verdicts, planned.get("verdicts")),
    ]


def _of_judges(
    run: RunDirectory, spec: ModerateSpec, events: Sequence[dict[str, Any]], running: bool
) -> Iterator[Progress]:
    from bds.evaluation.private import PRIVATE

    planned_in = RunDirectory(spec.audit) if spec.audit is not None else run
    plan: Plan | None = read_plan(planned_in)
    for name in spec.judges:
        if plan is None:
            yield Progress(f"shards judged by {name}", 0, None)
            continue
        stage = StageDirectory(planned_in, f"{run.uri}/{PRIVATE}/{name}")
        left = remaining(plan, stage)
        own = [event for event in events if event.get("event") == "shard" and event.get("judge") == name]
        rate = _rate([(event["at"], event.get("seconds", 0.0), 1) for event in own], running and bool(left))
        yield Progress(f"shards judged by {name}", len(plan.shards) - len(left), len(plan.shards), rate)


def _rate(done: Sequence[tuple[str | float, float, int]], running: bool) -> float | None:
    """Amounts a second, from (when, how many seconds it took, how much), in the order of time.

    What starting up took belongs to nothing that is counted: the clock starts with the work on the first.
    """
    if not done:
        return None
    at, took, _ = done[0]
    begun = _unix(at) - took
    ended = _unix(done[-1][0])
    elapsed = max(ended - begun, time.time() - begun if running else 0.0)
    amount = sum(each for _, _, each in done)
    return amount / elapsed if elapsed > 0 and amount else None


def _unix(at: str | float) -> float:
    return datetime.fromisoformat(at).timestamp() if isinstance(at, str) else at
