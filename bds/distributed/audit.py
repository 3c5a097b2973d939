"""The audit: freeze what is asked, prepare the anchors once, score the shards, then everything that is a formula.

Each step finds its own finished work in the run directory, so that running the same command again resumes.
"""

import functools
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from bds.data.anchors import AnchorSample, check_anchor_sets, load_anchor_set
from bds.data.files import fingerprint
from bds.data.reader import Dataset, open_dataset, read_rows
from bds.data.rows import SCORED_STATUSES
from bds.data.tokens import check_template
from bds.distributed.outcome import exit_error
from bds.distributed.results import write_results
from bds.distributed.workers import Workers, open_workers
from bds.errors import BdsError, PreflightError, SpecError
from bds.report.archive import load_inputs, write_archived_report
from bds.runs.attempts import open_attempt
from bds.runs.directory import RunDirectory, canonical_json
from bds.runs.events import EventLog
from bds.runs.execute import ShardFailure
from bds.runs.kind import SPEC, expect_kind
from bds.runs.lease import Lease
from bds.runs.plan import Plan, read_plan, write_plan
from bds.runs.progress import Meter, show_progress
from bds.runs.receipts import Receipt, read_parts, remaining, valid_receipts
from bds.scoring.checks import check_detectors, check_selections
from bds.scoring.learned_weights import LearnedWeights, cautions, weights_of
from bds.scoring.loading import load_configuration, load_tokenizer
from bds.scoring.passes import Passes, plan_passes, roles_of
from bds.scoring.stages import decoder_blocks, load_scorer, prepare_anchors, read_spec
from bds.spec.identity import spec_diff, spec_hash
from bds.spec.models import AuditSpec

INPUTS = "inputs.json"
ANCHOR_FACTS = "facts.json"


@dataclass(frozen=True)
class AuditResult:
    """What an audit leaves behind. The tables are those of the run directory."""

    run_dir: str
    components: pl.DataFrame
    """One row a dataset row, see bds/scoring/columns.py."""
    scores: pl.DataFrame
    """The same rows with `score.<detector>` and `rank.<detector>`; 1 is the most dangerous."""
    selections: dict[str, pl.DataFrame]
    """Selection name to row_index in order."""
    metrics: dict[str, Any]
    report: str
    """Path or URI of report.html."""
    exit_error: BdsError | None
    """Set where the run finished but too many rows failed or a gate tripped."""


def run_audit(
    spec: AuditSpec,
    *,
    fresh: bool = False,
    local: bool = False,
    command: Sequence[str] = (),
    report: Callable[[str], None] = lambda line: None,
) -> AuditResult:
    """Runs or resumes the audit of a checked spec (`bds.checks.check_spec`).

    Args:
        fresh: delete an earlier run in the same directory first.
        local: score in this process, without Ray.
        command: what the user typed, for the report.
        report: called with one line of progress at a time.

    Raises:
        SpecError: the directory holds a run of another spec.
        PreflightError: data, model, anchors, storage or resources cannot do it.
        BdsError: the run failed.
        Interrupted: SIGINT or SIGTERM; running the same command again resumes.
    """
    run = RunDirectory(spec.run.dir)
    with open_attempt(run, command, fresh=fresh) as attempt:
        expect_kind(run, "audit", "the audit")
        clock = time.perf_counter()
        prepared = _prepare(spec, run, report)
        attempt.begin(report)
        with open_workers(spec, run, prepared.plan, local=local, report=report) as workers:
            facts = _anchor_stage(run, prepared, workers, report)
            _score_stage(run, prepared, workers, attempt.lease, attempt.log, report)
            seconds = time.perf_counter() - clock
            finished = _finish_facts(spec, prepared, facts, attempt.started, seconds, attempt.command)
            _write_tables(run, spec, prepared, facts, finished, workers, report)
    return read_result(spec)


def read_result(spec: AuditSpec) -> AuditResult:
    """A finished run's tables."""
    run = RunDirectory(spec.run.dir)
    inputs = load_inputs(run)
    metrics = run.read_json("metrics.json")
    return AuditResult(
        run_dir=run.uri,
        components=run.read_table("components.parquet"),
        scores=inputs.scores,
        selections=inputs.selections,
        metrics=metrics,
        report=run.url_of("report.html"),
        exit_error=exit_error(spec, inputs.scores, metrics),
    )


@dataclass(frozen=True)
class _Prepared:
    """What is fixed before any model loads."""

    plan: Plan
    passes: Passes
    dataset: Dataset
    anchors: dict[str, list[AnchorSample]]
    inputs: dict[str, str]
    """SHA-256 of every input file, by what it is."""
    warnings: list[str]
    learned: dict[str, LearnedWeights]
    """Of every calibrated detector, by its column."""


def _prepare(spec: AuditSpec, run: RunDirectory, report: Callable[[str], None]) -> _Prepared:
    load_configuration(spec.model)
    passes = plan_passes(spec, decoder_blocks(spec))
    anchors = {name: load_anchor_set(entry.path, name) for name, entry in spec.anchors.sets.items()}
    check_detectors(passes.detectors, roles_of(spec), {name: len(samples) for name, samples in anchors.items()})
    check_selections(spec.select or [], passes.detectors)
    template = check_template(load_tokenizer(spec.model), spec.tokens.template, spec.tokens.supervise)
    learned = weights_of(passes.detectors)
    warnings = [*check_anchor_sets(anchors, roles_of(spec)), *template.warnings, *cautions(learned)]
    dataset = open_dataset(spec.data)
    report(dataset.describe())
    for warning in warnings:
        report(f"warning: {warning}")
    inputs = {"data": fingerprint(spec.data.path, split=spec.data.split, subset=spec.data.subset)}
    inputs |= {f"anchors.sets.{name}": fingerprint(entry.path) for name, entry in spec.anchors.sets.items()}
    inputs |= {f"calibration.{column}": weights.sha256 for column, weights in learned.items()}
    plan = _begin_or_resume(spec, run, dataset, inputs, report)
    return _Prepared(plan, passes, dataset, anchors, inputs, warnings, learned)


def _begin_or_resume(
    spec: AuditSpec, run: RunDirectory, dataset: Dataset, inputs: dict[str, str], report: Callable[[str], None]
) -> Plan:
    if (plan := read_plan(run)) is not None:
        differences = spec_diff(read_spec(run), spec)
        if differences:
            raise SpecError(
                f"{run.uri} holds a run of another spec ({'; '.join(differences[:4])}); give another run.dir, "
                "or --fresh to delete that run"
            )
        changed = [name for name, digest in run.read_json(INPUTS).items() if inputs.get(name) != digest]
        if changed:
            raise PreflightError(
                f"the file of {changed[0]} changed since the run in {run.uri} began; restore it, or give --fresh "
                "to start anew"
            )
        done = len(valid_receipts(plan, run))
        report(f"resuming: {done} of {len(plan.shards)} shards are done")
        return plan
    run.write_json(SPEC, spec.model_dump(mode="json"))
    run.write_json(INPUTS, inputs)
    plan = write_plan(
        run,
        read_rows(spec.data),
        rows_per_shard=spec.run.rows_per_shard,
        spec_sha256=spec_hash(spec),
        data_format=dataset.format.name,
    )
    report(f"{plan.rows:,} rows in {len(plan.shards)} shards")
    return plan


def _reference_path(prepared: _Prepared) -> str:
    """Named by what decides every number in it: the spec, and the bytes of the anchor files."""
    files = {name: digest for name, digest in prepared.inputs.items() if name.startswith("anchors.sets.")}
    content = canonical_json([prepared.plan.spec_sha256, files])
    return f"anchors/{hashlib.sha256(content).hexdigest()[:16]}/reference.safetensors"


def _anchor_stage(
    run: RunDirectory, prepared: _Prepared, workers: Workers, report: Callable[[str], None]
) -> dict[str, Any]:
    path = _reference_path(prepared)
    facts_path = os.path.join(os.path.dirname(path), ANCHOR_FACTS)
    if not run.exists(facts_path):
        sizes = ", ".join(f"{len(samples)} {name}" for name, samples in prepared.anchors.items()) or "none"
        report(f"loading the model and preparing the anchors ({sizes})")
        run.write_json(facts_path, workers.once(functools.partial(prepare_anchors, run.uri, path)))
    facts: dict[str, Any] = run.read_json(facts_path)
    return facts


def _score_stage(
    run: RunDirectory,
    prepared: _Prepared,
    workers: Workers,
    lease: Lease,
    log: EventLog,
    report: Callable[[str], None],
) -> None:
    waiting = remaining(prepared.plan, run)
    if not waiting:
        return
    rows_before = prepared.plan.rows - sum(shard.rows for shard in waiting)
    meter = Meter(
        shards=len(prepared.plan.shards),
        rows=prepared.plan.rows,
        shards_before=len(prepared.plan.shards) - len(waiting),
        rows_before=rows_before,
    )

    def failed(failure: ShardFailure) -> None:
        report(f"shard {failure.shard} failed in try {failure.tries}: {failure.reason}")
        log.add("failure", {"shard": failure.shard, "tries": failure.tries, "trace": failure.trace})

    with show_progress(meter) as show:

        def done(receipt: Receipt) -> None:
            lease.check()
            meter.add(receipt)
            show()
            log.add("shard", {"shard": receipt.shard, "seconds": receipt.seconds, "rows_ok": receipt.rows_ok})

        workers.score(
            run,
            waiting,
            functools.partial(load_scorer, run.uri, _reference_path(prepared)),
            attempt=lease.record.attempt,
            on_receipt=done,
            on_failure=failed,
        )


def _finish_facts(
    spec: AuditSpec, prepared: _Prepared, facts: dict[str, Any], started: datetime, seconds: float, command: str
) -> dict[str, Any]:
    """What the report says of the run."""
    from bds.runs.manifest import versions

    seeds = {f"select.{index}": entry.seed for index, entry in enumerate(spec.select or [])}
    seeds |= {
        detector.column: detector.seed or 0 for detector in prepared.passes.detectors if detector.name == "random"
    }
    if spec.score.parameters == "lora" and spec.model.adapter is None:
        seeds["lora"] = spec.score.lora.seed
    return {
        "started": started.isoformat(timespec="seconds"),
        "wall_seconds": round(seconds, 1),
        "command": command,
        "versions": versions(),
        "model": spec.model.path,
        "model_parameters": facts["model_parameters"],
        "parameter_scope": spec.score.parameters,
        "scored_parameters": facts["scored_parameters"],
        "device": facts["device"],
        "dtype": facts["dtype"],
        "dataset": spec.data.path,
        "format": prepared.dataset.format.name,
        "rows": prepared.plan.rows,
        "seeds": seeds,
        "hashes": {"spec": prepared.plan.spec_sha256, "rows": prepared.plan.data_sha256, **prepared.inputs},
        "anchors": {
            name: {
                "role": spec.anchors.sets[name].role,
                "count": len(samples),
                "hash": prepared.inputs[f"anchors.sets.{name}"],
                "path": spec.anchors.sets[name].path,
            }
            for name, samples in prepared.anchors.items()
        },
        "layer_choices": facts["layer_choices"],
        "warnings": list(prepared.warnings),
    }


def _write_tables(
    run: RunDirectory,
    spec: AuditSpec,
    prepared: _Prepared,
    facts: dict[str, Any],
    manifest: dict[str, Any],
    workers: Workers,
    report: Callable[[str], None],
) -> None:
    receipts = valid_receipts(prepared.plan, run)
    components = read_parts(run, receipts.values(), "components")
    scored = int(components["status"].is_in(SCORED_STATUSES).sum())
    if components.height != prepared.plan.rows:
        raise BdsError(
            f"{components.height} rows came back of {prepared.plan.rows}; this is a defect of bds, please report it"
        )
    report(f"scored {scored:,} of {components.height:,} rows; writing tables, selections and the report")
    write_results(
        run,
        spec,
        plan=prepared.plan,
        passes=prepared.passes,
        context=prepared.passes.context(
            facts["larf_layer"], {column: each.weights for column, each in prepared.learned.items()}
        ),
        anchors=prepared.anchors,
        components=components,
        manifest=manifest,
        once=workers.once,
    )
    write_archived_report(run)
