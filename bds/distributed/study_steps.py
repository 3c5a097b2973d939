"""What one step of a study does: it makes the spec of its run and runs it, as the command of its kind would."""

from collections.abc import Callable, Sequence

from bds.checks import check_spec
from bds.checks_evaluate import check_evaluate_spec
from bds.checks_finetune import check_finetune_spec
from bds.distributed.audit import run_audit
from bds.distributed.evaluate import run_evaluation
from bds.distributed.finetune import run_finetunes
from bds.errors import BdsError, IncompleteError, PreflightError
from bds.spec.evaluate import ConditionSpec
from bds.spec.study import StudySpec
from bds.studies.conditions import finetuned_conditions, own_trainings
from bds.studies.plan import FinetuneRun, StudyPlan, Training, audit_spec, evaluate_spec, finetune_spec
from bds.studies.steps import Step
from bds.studies.twins import twins

Report = Callable[[str], None]


def run_step(spec: StudySpec, plan: StudyPlan, step: Step, *, local: bool, report: Report) -> BdsError | None:
    """Runs a step, or what is missing of it.

    Returns:
        The error of a step that came to its end without all its results; None where it has them.

    Raises:
        BdsError: the step cannot be done.
        Interrupted: SIGINT or SIGTERM.
    """
    if step.audit is not None:
        audit = audit_spec(spec, *step.audit, spec.run.dir)
        check_spec(audit)
        return run_audit(audit, local=local, report=report).exit_error
    if step.run is not None:
        return _finetune(spec, plan, step.run, local=local, report=report)
    assert step.target is not None, "a step is one of the three"
    return _evaluate(spec, plan, step.target, local=local, report=report)


def _finetune(spec: StudySpec, plan: StudyPlan, run: FinetuneRun, *, local: bool, report: Report) -> BdsError | None:
    wanted = plan.of_run(run)
    there, missing = _trainable(spec, wanted)
    if not there:
        raise PreflightError("none of the audits that it trains on has finished")
    finetunes = finetune_spec(spec, run, there, spec.run.dir)
    check_finetune_spec(finetunes)
    error = run_finetunes(finetunes, local=local, report=report).exit_error
    if error is None and missing:
        return IncompleteError(f"{missing} of {len(wanted)} fine-tunes wait for audits that have not finished")
    return error


def _evaluate(spec: StudySpec, plan: StudyPlan, target: str, *, local: bool, report: Report) -> BdsError | None:
    conditions: dict[str, ConditionSpec] = {}
    wanted = 0
    for run in (run for run in plan.runs if run.target == target):
        trainings, missing = _trainable(spec, plan.of_run(run))
        conditions |= finetuned_conditions(spec, spec.run.dir, run, trainings)
        wanted += len(trainings) + missing
    if not conditions:
        raise PreflightError(f"none of the fine-tunes of {target} has finished")
    evaluation = evaluate_spec(spec, target, conditions, spec.run.dir)
    check_evaluate_spec(evaluation)
    error = run_evaluation(evaluation, local=local, report=report).exit_error
    if error is None and len(conditions) < wanted:
        return IncompleteError(f"{wanted - len(conditions)} of {wanted} fine-tunes were not there to be evaluated")
    return error


def _trainable(spec: StudySpec, wanted: Sequence[Training]) -> tuple[list[Training], int]:
    """The distinct fine-tunes whose rows are there, and how many of those wanted have none."""
    alike = twins(spec, spec.run.dir, dict.fromkeys(each.input for each in wanted))
    there = [each for each in wanted if each.input in alike]
    return own_trainings(there, alike), len(wanted) - len(there)
