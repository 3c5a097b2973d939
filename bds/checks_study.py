"""What can be known of a study without reading a dataset or loading a model, checked before any step begins."""

import functools
from collections.abc import Callable, Iterator, Mapping

from bds.checks import check_run_dir, check_spec
from bds.checks_evaluate import check_evaluate_spec
from bds.checks_finetune import check_finetune_spec
from bds.errors import BdsError, PreflightError, SpecError
from bds.spec.fields import suggestion
from bds.spec.paths import is_uri
from bds.spec.study import StudySpec
from bds.studies.conditions import own_trainings
from bds.studies.plan import StudyPlan, audit_spec, evaluate_spec, finetune_spec, input_name, plan_study

Check = tuple[Callable[[], list[str]], Mapping[str, str]]
"""The check of a step, and what its fields are called in the study."""


def check_study_spec(spec: StudySpec, *, may_lack_files: bool = False) -> list[str]:
    """Check names, files, folders, and every step as its own command would.

    Args:
        may_lack_files: tell of the first thing that each step lacks in a note: a plan needs none of them.

    Returns:
        Notes, one line each: what only the run itself can check.

    Raises:
        SpecError: names that do not go together, or what a step cannot be asked.
        PreflightError: a file or folder that is not there or cannot be what the spec says.
    """
    if is_uri(spec.run.dir):
        raise PreflightError(f"field run.dir: {spec.run.dir} is no local folder, and models are served from one")
    plan = plan_study(spec)
    _check_controls(spec)
    notes: list[str] = []
    for check, fields in [*_audit_checks(spec, plan), *_finetune_checks(spec, plan), *_evaluation_checks(spec, plan)]:
        try:
            notes += _as_of_study(check, fields)
        except PreflightError as error:
            if not may_lack_files:
                raise
            notes.append(f"not there yet: {error}")
    check_run_dir(spec.run.dir)
    return list(dict.fromkeys(notes))


def _check_controls(spec: StudySpec) -> None:
    for name, own in spec.selections.items():
        others = [other for other in spec.selections if other != name]
        if own.control is not None and own.control not in others:
            raise SpecError(
                f"field selections.{name}.control: there is no other selection '{own.control}'; "
                f"{suggestion(own.control, others)}"
            )


def _audit_checks(spec: StudySpec, plan: StudyPlan) -> Iterator[Check]:
    drawn = [name for name, own in spec.selections.items() if own.kind != "whole" for _ in range(own.draws)]
    for dataset, scorer in plan.audits:
        audit = audit_spec(spec, dataset, scorer, spec.run.dir)
        fields = {"field data.": f"field datasets.{dataset}.", "field model.": f"field models.{scorer}."}
        fields |= {f"select.{index}": f"selections.{name}" for index, name in reversed(list(enumerate(drawn)))}
        yield functools.partial(check_spec, audit), fields


def _finetune_checks(spec: StudySpec, plan: StudyPlan) -> Iterator[Check]:
    audits = {audit_spec(spec, *audit, spec.run.dir).run.dir for audit in plan.audits}
    for run in plan.runs:
        trainings = own_trainings(plan.of_run(run), {})
        finetunes = finetune_spec(spec, run, trainings, spec.run.dir)
        fields = {
            f"field datasets.{input_name(spec, each.input)}.path": f"field datasets.{each.input.dataset}.path"
            for each in trainings
        }
        fields |= {
            f"field datasets.{input_name(spec, each.input)}": f"field selections.{each.input.selection}"
            for each in trainings
        }
        fields |= {"field then.": f"field experiments.{run.then}.then."}
        yield functools.partial(check_finetune_spec, finetunes, to_come=audits), fields


def _evaluation_checks(spec: StudySpec, plan: StudyPlan) -> Iterator[Check]:
    for target in plan.targets:
        yield functools.partial(check_evaluate_spec, evaluate_spec(spec, target, {}, spec.run.dir)), {}


def _as_of_study(check: Callable[[], list[str]], fields: Mapping[str, str]) -> list[str]:
    """The check of a step, whose errors name the fields of the study."""
    try:
        return check()
    except BdsError as error:
        told = str(error)
        for of_step, of_study in fields.items():
            told = told.replace(of_step, of_study)
        raise type(error)(told) from error
