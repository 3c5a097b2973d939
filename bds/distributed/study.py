"""Studies: audits, fine-tunes and evaluations, each begun when what it needs is there, then what they say together.

Every step is a run of its own below the study's directory and resumes by itself, so running the study again does what
is missing and nothing else. A step that fails leaves the others running.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bds.distributed.study_steps import run_step
from bds.errors import BdsError, IncompleteError
from bds.report.study import write_study_report
from bds.runs.attempts import Attempt, open_attempt
from bds.runs.directory import RunDirectory
from bds.runs.kind import SPEC, expect_kind
from bds.runs.progress import duration
from bds.spec.models import ResourcesSpec
from bds.spec.study import StudySpec
from bds.study.plan import StudyPlan, plan_study
from bds.study.results import study_results
from bds.study.steps import Ended, Step, steps_of


@dataclass(frozen=True)
class StudyResult:
    """What a study leaves behind."""

    run_dir: str
    results: dict[str, Any]
    """As study.json: cells, contrasts, the transfer matrix, the verdict."""
    report: str
    """Path of report.html."""
    exit_error: BdsError | None
    """Set where a step has not all its results."""


def run_study(
    spec: StudySpec,
    *,
    fresh: bool = False,
    local: bool = False,
    command: Sequence[str] = (),
    report: Callable[[str], None] = lambda line: None,
) -> StudyResult:
    """Does what is missing of a checked study.

    Args:
        fresh: delete an earlier run in the same directory first.
        local: every step in this process, without Ray.
        command: what the user typed, for the manifest.
        report: called with one line of progress at a time.

    Raises:
        SpecError: the directory holds something else.
        PreflightError: the cluster cannot be reached, or nothing could be begun.
        Interrupted: SIGINT or SIGTERM; running the same command again resumes.
    """
    run = RunDirectory(spec.run.dir)
    plan = plan_study(spec)
    with open_attempt(run, command, fresh=fresh) as attempt:
        expect_kind(run, "study", "the study")
        run.write_json(SPEC, spec.model_dump(mode="json"))
        attempt.begin(report)
        with _cluster(spec, local=local):
            ended = _run_steps(spec, plan, attempt, local=local, report=report)
        results = study_results(spec, plan, run, ended)
        page = write_study_report(run, results)
        failed = [each for each in ended if each.failure]
        if failed:
            attempt.error = IncompleteError(
                f"{len(failed)} of {len(ended)} steps have not all their results, the first of them {failed[0].step}: "
                f"{failed[0].failure}; run the same command again to try what is missing anew"
            )
    return StudyResult(run.uri, results, page, attempt.error)


@contextlib.contextmanager
def _cluster(spec: StudySpec, *, local: bool) -> Any:
    """One Ray for all steps: each would start its own."""
    if local:
        yield
        return
    from bds.distributed.session import connect

    with connect(ResourcesSpec(address=spec.resources.address)):
        yield


def _run_steps(
    spec: StudySpec, plan: StudyPlan, attempt: Attempt, *, local: bool, report: Callable[[str], None]
) -> list[Ended]:
    steps = steps_of(spec, plan)
    report(
        f"{len(plan.audits)} audits, {len(plan.trainings)} fine-tunes of {len(plan.cells)} cells, "
        f"{len(plan.targets)} evaluations"
    )
    ended = []
    for number, step in enumerate(steps, start=1):
        attempt.lease.check()
        attempt.log.add("step", {"id": step.id})
        report(f"step {number} of {len(steps)}: {step.id}")
        started = time.monotonic()
        failure = _failure_of(
            functools.partial(run_step, spec, plan, step, local=local, report=_prefixed(step, report))
        )
        ended.append(Ended(step.id, time.monotonic() - started, failure))
        attempt.log.add("step_ended", {"id": step.id, "failure": failure, "seconds": ended[-1].seconds})
        if failure:
            report(f"{step.id} has not all its results: {failure}")
        else:
            report(f"{step.id} is done after {duration(ended[-1].seconds)}")
    return ended


def _failure_of(act: Callable[[], BdsError | None]) -> str:
    try:
        error = act()
    except BdsError as raised:
        error = raised
    return "" if error is None else str(error)


def _prefixed(step: Step, report: Callable[[str], None]) -> Callable[[str], None]:
    return lambda line: report(f"[{step.id}] {line}")
