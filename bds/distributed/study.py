"""Studies: audits, fine-tunes and evaluations, each begun when what it needs is there, then what they say together.

Every step is a run of its own below the study's directory and resumes by itself, so running the study again does what
is missing and nothing else. A step that fails leaves the others running.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bds.checks_hub import check_hub
from bds.distributed.study_runners import open_runner
from bds.errors import BdsError, IncompleteError
from bds.report.study import write_study_report
from bds.runs.attempts import Attempt, open_attempt
from bds.runs.directory import RunDirectory
from bds.runs.kind import SPEC, expect_kind
from bds.runs.progress import duration
from bds.spec.study import StudySpec
from bds.studies.calibration import calibration_file
from bds.studies.plan import StudyPlan, plan_study
from bds.studies.results import study_results
from bds.studies.steps import Ended, steps_of
from bds.studies.tables import CELLS, CONTRASTS, cells_table, contrasts_table


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
    check_hub(spec)
    run = RunDirectory(spec.run.dir)
    plan = plan_study(spec)
    with open_attempt(run, command, fresh=fresh) as attempt:
        expect_kind(run, "study", "the study")
        run.write_json(SPEC, spec.model_dump(mode="json"))
        attempt.begin(report)
        ended = _run_steps(spec, plan, attempt, local=local, report=report)
        results = study_results(spec, plan, run, ended)
        for scorer, learned in results["calibrations"].items():
            run.write_json(calibration_file(scorer), learned)
        run.write_table(CELLS, cells_table(results["cells"]))
        run.write_table(CONTRASTS, contrasts_table(results["contrasts"]))
        page = write_study_report(run, results)
        failed = [each for each in ended if each.failure]
        if failed:
            attempt.error = IncompleteError(
                f"{len(failed)} of {len(ended)} steps have not all their results, the first of them {failed[0].step}: "
                f"{failed[0].failure}; run the same command again to try what is missing anew"
            )
    return StudyResult(run.uri, results, page, attempt.error)


def _run_steps(
    spec: StudySpec, plan: StudyPlan, attempt: Attempt, *, local: bool, report: Callable[[str], None]
) -> list[Ended]:
    """Every step, begun when those before it have ended and there is room for it; how each ended, in order."""
    steps = steps_of(spec, plan)
    report(
        f"audits: {len(plan.audits)}, fine-tunes: {len(plan.trainings)} of {len(plan.cells)} cells, "
        f"evaluations: {len(plan.targets)}"
    )
    ended: dict[str, Ended] = {}
    running: dict[str, float] = {}
    with open_runner(spec, plan, local=local, report=lambda step, line: report(f"[{step.id}] {line}")) as runner:
        while len(ended) < len(steps):
            attempt.lease.check()
            for step in steps:
                waits = step.id in ended or step.id in running or not all(before in ended for before in step.after)
                if not waits and runner.has_room(step, [each for each in steps if each.id in running]):
                    attempt.log.add("step", {"id": step.id})
                    report(f"begins: {step.id} ({len(ended)} of {len(steps)} steps have ended)")
                    running[step.id] = time.monotonic()
                    runner.begin(step)
            for step, failure in runner.ended():
                seconds = time.monotonic() - running.pop(step.id)
                ended[step.id] = Ended(step.id, seconds, failure)
                attempt.log.add("step_ended", {"id": step.id, "failure": failure, "seconds": seconds})
                report(
                    f"{step.id} has not all its results after {duration(seconds)}: {failure}"
                    if failure
                    else f"{step.id} is done after {duration(seconds)}"
                )
    return [ended[step.id] for step in steps]
