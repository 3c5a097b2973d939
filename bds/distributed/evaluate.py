"""Evaluations: every condition answers every suite, every judge judges, and what is compared is written down.

Three stages with files between them: answers, verdicts, tables. Each does what is missing, so that another judge asks
no model again and another chart asks no judge.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import polars as pl

from bds.checks_evaluate import baseline_of, primary_of
from bds.checks_hub import check_hub
from bds.distributed.engines import Engines, open_engines
from bds.distributed.identity import identified
from bds.distributed.stages import answer_missing, judge_missing, utility_scores
from bds.errors import BdsError, IncompleteError
from bds.evaluation.answers import FOLDER as ANSWERS
from bds.evaluation.answers import Question, questions
from bds.evaluation.conditions import Condition, conditions_of
from bds.evaluation.exports.inspect import write_inspect_logs
from bds.evaluation.exports.lm_eval import write_lm_eval
from bds.evaluation.panel import PanelJudge, panel_judge
from bds.evaluation.private import logged_rows, open_private
from bds.evaluation.suites.asked import suites_asked
from bds.evaluation.suites.suite import Suite
from bds.evaluation.summary import evaluation_metrics
from bds.evaluation.table import rows_table
from bds.evaluation.verdict_rows import FOLDER as VERDICTS
from bds.evaluation.verdict_rows import cases
from bds.report.evaluation import write_evaluation_report
from bds.runs.attempts import open_attempt
from bds.runs.directory import RunDirectory
from bds.runs.interrupts import interruptible
from bds.runs.kind import SPEC, expect_kind
from bds.spec.evaluate import EvaluateSpec

ROWS = "rows.parquet"
COMPARISON = "compare.json"


@dataclass(frozen=True)
class EvaluationResult:
    """What an evaluation leaves behind."""

    run_dir: str
    rows: pl.DataFrame
    """As rows.parquet: one row a measurement of one answer, without texts."""
    metrics: dict[str, Any]
    """As metrics.json: rates, contrasts, agreement, utility and the verdict."""
    report: str
    """Path or URI of report.html."""
    exit_error: BdsError | None
    """Set where more answers than allowed have no verdict."""


@dataclass(frozen=True)
class _Prepared:
    """What is fixed before any model loads."""

    conditions: list[Condition]
    suites: tuple[Suite, ...]
    judges: list[PanelJudge]
    asked: list[Question]


def run_evaluation(
    spec: EvaluateSpec,
    *,
    fresh: bool = False,
    local: bool = False,
    command: Sequence[str] = (),
    report: Callable[[str], None] = lambda line: None,
) -> EvaluationResult:
    """Asks, judges and compares what a checked spec says; what the run directory holds already is not asked again.

    Args:
        fresh: delete an earlier run in the same directory first.
        local: answer with transformers in this process, without Ray.
        command: what the user typed, for the manifest.
        report: called with one line of progress at a time.

    Raises:
        SpecError: the directory holds something else.
        PreflightError: models, storage, servers or resources cannot do it.
        BdsError: a server fell silent, or a served adapter changes nothing.
        Interrupted: SIGINT or SIGTERM; running the same command again resumes.
    """
    check_hub(spec)
    run = RunDirectory(spec.run.dir)
    with open_attempt(run, command, fresh=fresh) as attempt:
        expect_kind(run, "evaluate", "the evaluation")
        with open_engines(spec, local=local) as engines, interruptible():
            prepared = _prepare(spec, run, engines, report)
            attempt.begin(report)
            answer_missing(spec, run, prepared.asked, engines, attempt.lease.check, report)
            open_to = cases(prepared.judges, prepared.asked, logged_rows(run, ANSWERS))
            judge_missing(run, open_to, engines, attempt.lease.check, report)
        result = _result(spec, run, prepared)
        attempt.error = result.exit_error
    return result


def _prepare(spec: EvaluateSpec, run: RunDirectory, engines: Engines, report: Callable[[str], None]) -> _Prepared:
    imported = suites_asked(spec.suites)
    conditions = [identified(condition) for condition in conditions_of(spec)]
    judges = [panel_judge(name, judge) for name, judge in spec.judges.items()]
    judges = [each if each.model is None else replace(each, model=identified(each.model)) for each in judges]
    if any(each.path is not None for each in conditions):
        report(engines.why)

    def engine(condition: Condition) -> str:
        return "endpoint" if condition.path is None else engines.version

    asked = questions(conditions, imported.suites, spec.sampling, engine)
    open_private(run)
    run.write_json(SPEC, spec.model_dump(mode="json"))
    for suite in imported.suites:
        report(f"suite {suite.name}: {len(suite.prompts):,} prompts to {suite.kind} ({suite.sha256[:12]})")
    told = "1 condition" if len(conditions) == 1 else f"{len(conditions)} conditions"
    report(f"{told}, judged by {', '.join(judge.name for judge in judges)}")
    return _Prepared(conditions, imported.suites, judges, asked)


def _result(spec: EvaluateSpec, run: RunDirectory, prepared: _Prepared) -> EvaluationResult:
    answers, verdicts = logged_rows(run, ANSWERS), logged_rows(run, VERDICTS)
    judged = cases(prepared.judges, prepared.asked, answers)
    rows = rows_table(prepared.asked, answers, prepared.judges, judged, verdicts, open_private(run))
    run.write_table(ROWS, rows)
    metrics = evaluation_metrics(
        spec,
        rows,
        conditions=prepared.conditions,
        suites=prepared.suites,
        judges=prepared.judges,
        answers=[answers[each.key] for each in prepared.asked if each.key in answers],
        utility=utility_scores(run, spec, prepared.conditions),
        baseline=baseline_of(spec, prepared.conditions),
        primary_judge=primary_of(spec, prepared.judges),
    )
    page = write_evaluation_report(run, metrics)
    compared = {"baseline": metrics["baseline"], "run": run.uri}
    run.write_json(COMPARISON, {"compared": compared, "contrasts": metrics["contrasts"]})
    # Named by the last answer, so that running again writes the same files again.
    last = max((row["at"] for row in answers.values()), default=0.0)
    write_lm_eval(run, metrics, rows, datetime.fromtimestamp(last, UTC))
    write_inspect_logs(run, metrics, rows, datetime.fromtimestamp(last, UTC))
    return EvaluationResult(run.uri, rows, metrics, page, _exit_error(spec, rows, metrics["primary_judge"]))


def _exit_error(spec: EvaluateSpec, rows: pl.DataFrame, primary: str) -> BdsError | None:
    own = rows.filter(pl.col("judge") == primary)
    unscored = own.filter(pl.col("value").is_null()).height
    if unscored <= spec.run.max_unscored_fraction * own.height:
        return None
    reasons = own.filter(pl.col("value").is_null())["status"].value_counts(sort=True).rows()
    told = ", ".join(f"{count} {reason}" for reason, count in reasons)
    return IncompleteError(
        f"{unscored:,} of {own.height:,} measurements by {primary} have no value ({told}), more than "
        f"run.max_unscored_fraction {spec.run.max_unscored_fraction:g} allows; the report shows what they could change"
    )
