"""A moderation: freeze the rows, let every judge judge every answer, then one table and its report.

Each judge has receipts of its own, so that running the same command again goes on where it stopped, and a judge that
was added later judges alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from bds.checks_hub import check_hub
from bds.data.files import fingerprint
from bds.data.reader import open_dataset, read_rows
from bds.distributed.appointed import Appointed, appoint, choose_engine
from bds.distributed.judge_stages import judge_missing
from bds.errors import BdsError, IncompleteError, PreflightError, SpecError
from bds.evaluation.moderation import REPLY, SCHEMA
from bds.evaluation.moderation_metrics import moderation_metrics
from bds.evaluation.private import PRIVATE, open_private
from bds.report.archive import FACTS, write_archived_report
from bds.report.moderation import PAGE, TABLE, write_moderation_report
from bds.runs.attempts import open_attempt
from bds.runs.directory import RunDirectory
from bds.runs.kind import SPEC, expect_kind, kind_of
from bds.runs.plan import Plan, read_plan, write_plan
from bds.runs.receipts import COMPONENTS, read_parts, valid_receipts
from bds.runs.stage import StageDirectory
from bds.spec.identity import spec_diff, spec_hash
from bds.spec.moderate import ModerateSpec

INPUTS = "inputs.json"


@dataclass(frozen=True)
class ModerationResult:
    """What a moderation leaves behind."""

    run_dir: str
    table: pl.DataFrame
    """As moderation.parquet: one row a row of the dataset and judge, without texts."""
    metrics: dict[str, Any]
    report: str
    """Path or URI of report.html: the audit's where an audit was moderated."""
    exit_error: BdsError | None
    """Set where more answers than allowed have no verdict."""


@dataclass(frozen=True)
class _Prepared:
    """What is fixed before any model loads."""

    plan: Plan
    planned: RunDirectory
    """Where the rows are: the audit, or the run itself."""
    dataset: str
    judges: list[Appointed]


def run_moderation(
    spec: ModerateSpec,
    *,
    fresh: bool = False,
    local: bool = False,
    command: Sequence[str] = (),
    report: Callable[[str], None] = lambda line: None,
) -> ModerationResult:
    """Judges what a checked spec says (`bds.checks_moderate`); verdicts that the run directory holds are kept.

    Args:
        fresh: delete an earlier run in the same directory first.
        local: judge with transformers in this process, without Ray.
        command: what the user typed, for the manifest.
        report: called with one line of progress at a time.

    Raises:
        SpecError: the directory holds something else, or verdicts of a judge of the same name that judged otherwise.
        PreflightError: data, models, storage or resources cannot do it.
        BdsError: an engine stopped.
        Interrupted: SIGINT or SIGTERM; running the same command again resumes.
    """
    check_hub(spec)
    run = RunDirectory(spec.run_dir)
    with open_attempt(run, command, fresh=fresh) as attempt:
        if kind_of(run) == "audit":
            raise SpecError(f"{run.uri} holds an audit; give it as --audit, or another run.dir")
        expect_kind(run, "moderate", "the moderation")
        prepared = _prepare(spec, run, local=local, report=report)
        attempt.begin(report)
        judge_missing(spec, prepared.plan, prepared.judges, attempt.lease, attempt.log, local=local, report=report)
        result = _result(spec, run, prepared)
        attempt.error = result.exit_error
    return result


def _prepare(spec: ModerateSpec, run: RunDirectory, *, local: bool, report: Callable[[str], None]) -> _Prepared:
    if spec.audit is not None:
        planned, plan, dataset = _rows_of_audit(spec.audit)
    else:
        planned, plan, dataset = run, *_rows_of_data(spec, run, report)
    engine, why = choose_engine(spec, local=local)
    if any(judge.model is not None for judge in spec.judges.values()):
        report(why)
    open_private(run)
    judges = [
        appoint(spec, name, engine, StageDirectory(planned, f"{run.uri}/{PRIVATE}/{name}")) for name in spec.judges
    ]
    run.write_json(SPEC, spec.model_dump(mode="json"))
    report(f"{plan.rows:,} rows in {len(plan.shards)} shards, judged by {', '.join(spec.judges)}")
    return _Prepared(plan, planned, dataset, judges)


def _rows_of_audit(uri: str) -> tuple[RunDirectory, Plan, str]:
    """The rows as the audit read them: what is judged is what was ranked, whatever became of the file."""
    audit = RunDirectory(uri)
    plan = read_plan(audit)
    if plan is None or not audit.exists(FACTS):
        raise PreflightError(f"{uri} holds no finished audit; run `bds audit` to its end first")
    return audit, plan, str(audit.read_json(SPEC)["data"]["path"])


def _rows_of_data(spec: ModerateSpec, run: RunDirectory, report: Callable[[str], None]) -> tuple[Plan, str]:
    data = spec.data
    assert data is not None, "the spec has one of the two"
    dataset = open_dataset(data)
    report(dataset.describe())
    inputs = {"data": fingerprint(data.path, split=data.split, subset=data.subset)}
    plan = read_plan(run)
    if plan is None:
        run.write_json(SPEC, spec.model_dump(mode="json"))
        run.write_json(INPUTS, inputs)
        plan = write_plan(
            run,
            read_rows(data),
            rows_per_shard=spec.run.rows_per_shard,
            spec_sha256=spec_hash(spec),
            data_format=dataset.format.name,
        )
        return plan, data.path
    before = ModerateSpec.model_validate(run.read_json(SPEC))
    differences = [line for line in spec_diff(before, spec) if line.startswith(("data.", "run."))]
    if differences:
        raise SpecError(
            f"{run.uri} holds a moderation of other rows ({'; '.join(differences[:4])}); give another run.dir, or "
            "--fresh to delete that run"
        )
    if run.read_json(INPUTS) != inputs:
        raise PreflightError(
            f"the file {data.path} changed since the run in {run.uri} began; restore it, or give --fresh to start anew"
        )
    return plan, data.path


def _result(spec: ModerateSpec, run: RunDirectory, prepared: _Prepared) -> ModerationResult:
    table = pl.concat([_verdicts(prepared.plan, appointed) for appointed in prepared.judges])
    run.write_table(TABLE, table)
    measured = moderation_metrics(
        table,
        [appointed.facts for appointed in prepared.judges],
        name=spec.name,
        dataset=prepared.dataset,
        audit=spec.audit,
    )
    metrics = write_moderation_report(run, measured)
    if spec.audit is not None:
        write_archived_report(prepared.planned)
    shown = run if spec.audit is None else prepared.planned
    return ModerationResult(run.uri, table, metrics, shown.url_of(PAGE), _exit_error(spec, metrics))


def _verdicts(plan: Plan, appointed: Appointed) -> pl.DataFrame:
    """Of one judge, every row in the dataset's order. Raises BdsError where rows are missing."""
    parts = read_parts(appointed.stage, valid_receipts(plan, appointed.stage).values(), COMPONENTS)
    if parts.height != plan.rows:
        raise BdsError(
            f"judge {appointed.name}: {parts.height} rows came back of {plan.rows}; this is a defect of bds, "
            "please report it"
        )
    # A shard that was given up has the rows' identity alone.
    whole = pl.concat([pl.DataFrame(schema=SCHEMA), parts.drop(REPLY, strict=False)], how="diagonal")
    return whole.with_columns(judge=pl.lit(appointed.name))


def _exit_error(spec: ModerateSpec, metrics: dict[str, Any]) -> BdsError | None:
    for judge in metrics["judges"]:
        if judge["unscored"] > spec.run.max_failed_fraction * judge["answers"]:
            told = ", ".join(f"{count:,} {reason}" for reason, count in judge["statuses"].items())
            return IncompleteError(
                f"{judge['unscored']:,} of {judge['answers']:,} answers have no verdict by {judge['name']} ({told}), "
                f"more than run.max_failed_fraction {spec.run.max_failed_fraction:g} allows; moderation.parquet names "
                "them and why"
            )
    return None
