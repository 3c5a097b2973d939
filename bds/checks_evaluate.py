"""What can be known of an evaluation without loading a model, checked before any work starts."""

import os

from bds.checks import check_adapter, check_model, check_run_dir
from bds.errors import PreflightError, SpecError
from bds.evaluation.conditions import Condition, conditions_of
from bds.evaluation.panel import PanelJudge, panel_judge
from bds.evaluation.suites.asked import suites_asked
from bds.evaluation.utility_tasks import find_tasks
from bds.spec.evaluate import EvaluateSpec
from bds.spec.fields import suggestion
from bds.spec.serving import EndpointSpec


def check_evaluate_spec(spec: EvaluateSpec) -> list[str]:
    """Check names, files, folders, suites and judges.

    Returns:
        Notes, one line each: what is unusual about the suites, and what only the run itself can check.

    Raises:
        SpecError: an unknown judge, suite format, task, group or judge's option, or names that are taken twice.
        PreflightError: a file, folder, run or key that is not there or cannot be what the spec says.
    """
    conditions = conditions_of(spec)
    notes = [note for condition in conditions for note in _check_served(condition, f"condition {condition.name}")]
    imported = suites_asked(spec.suites)
    notes += imported.warnings
    judges = [panel_judge(name, judge) for name, judge in spec.judges.items()]
    for judge in judges:
        if judge.model is not None:
            notes += _check_served(judge.model, f"field judges.{judge.name}")
    baseline_of(spec, conditions)
    primary_of(spec, judges)
    if spec.utility.tasks:
        find_tasks(spec.utility.tasks)
    check_run_dir(spec.run.dir)
    return list(dict.fromkeys(notes))


def baseline_of(spec: EvaluateSpec, conditions: list[Condition]) -> str:
    """The group that others are compared with. Raises SpecError where there is none of the name that the spec gives."""
    groups = list(dict.fromkeys(condition.group for condition in conditions))
    named = spec.statistics.baseline
    if named is not None and named not in groups:
        raise SpecError(f"field statistics.baseline: there is no group '{named}'; {suggestion(named, groups)}")
    return named or groups[0]


def primary_of(spec: EvaluateSpec, judges: list[PanelJudge]) -> str:
    """The judge of the headline. Raises SpecError where there is none of the name that the spec gives."""
    names = [judge.name for judge in judges]
    named = spec.statistics.primary_judge
    if named is not None and named not in names:
        raise SpecError(f"field statistics.primary_judge: there is no judge '{named}'; {suggestion(named, names)}")
    models = [judge.name for judge in judges if judge.model is not None]
    return named or [*models, *names][0]


def _check_served(condition: Condition, field: str) -> list[str]:
    if condition.endpoint is not None:
        _check_key(condition.endpoint, field)
        return [f"not checked: whether {condition.endpoint.url} answers as {condition.endpoint.model}"]
    assert condition.path is not None, "the spec has one of the two"
    notes = check_model(condition.path, field)
    return notes + ([] if condition.adapter is None else check_adapter(condition.adapter, f"{field}.adapter"))


def _check_key(endpoint: EndpointSpec, field: str) -> None:
    if endpoint.api_key_env is not None and not os.environ.get(endpoint.api_key_env):
        raise PreflightError(
            f"{field}: the variable {endpoint.api_key_env} is not set; export the key of {endpoint.url} under that name"
        )
