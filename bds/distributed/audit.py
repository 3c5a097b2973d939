"""The audit: freeze what is asked, prepare the anchors once, score the shards, then everything that is a formula.

Each step finds its own finished work in the run directory, so that running the same command again resumes. Shards hold
components, which other detectors and selections are formulas over: where those change, finished shards stay.
"""

import functools
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import polars as pl

from bds.checks_hub import check_hub
from bds.data.anchors import AnchorSample, check_anchor_sets, load_anchor_set
from bds.data.files import fingerprint
from bds.data.reader import Dataset, open_dataset, read_rows
from bds.data.tokens import check_template
from bds.distributed.finished_rows import FinishedComponents, PlannedRows
from bds.distributed.outcome import exit_error
from bds.distributed.results import COMPONENTS_FILE, TOKEN_SHARES, delete_results, write_results
from bds.distributed.workers import Workers, open_workers
from bds.errors import BdsError, PreflightError, SpecError
from bds.report.archive import load_inputs, write_archived_report
from bds.runs.attempts import open_attempt
from bds.runs.directory import RunDirectory, readable_json
from bds.runs.events import EventLog
from bds.runs.execute import ShardFailure
from bds.runs.kind import SPEC, expect_kind
from bds.runs.lease import Lease
from bds.runs.plan import Plan, Shard, read_plan, write_plan
from bds.runs.progress import Meter, show_progress
from bds.runs.receipts import Receipt, remaining, valid_receipts
from bds.scoring.checks import check_detectors, check_selections
from bds.scoring.collection import Collection
from bds.scoring.learned_weights import LearnedWeights, cautions, weights_of
from bds.scoring.loading import load_configuration
from bds.scoring.memory import AnchorTokens, MemoryModel, anchor_tokens
from bds.scoring.passes import Passes, plan_passes, roles_of
from bds.scoring.stages import (
    conversation_tokenizer,
    decoder_blocks,
    load_scorer,
    prepare_anchors,
    read_collection,
    read_spec,
    read_token_budget,
    write_collection,
)
from bds.spec.identity import components_diff, components_hash, spec_diff, spec_hash
from bds.spec.models import AuditSpec

INPUTS = "inputs.json"
ANCHOR_FACTS = "facts.json"


@dataclass(frozen=True)
class AuditResult:
    """What an audit leaves behind. The tables are those of the run directory."""

    run_dir: str
    scores: pl.DataFrame
    """One row a dataset row, with `score.<detector>` and `rank.<detector>`; 1 is the most dangerous."""
    selections: dict[str, pl.DataFrame]
    """Selection name to row_index in order."""
    metrics: dict[str, Any]
    report: str
    """Path or URI of report.html."""
    exit_error: BdsError | None
    """Set where the run finished but too many rows failed or a gate tripped."""

    @property
    def components(self) -> pl.DataFrame:
        """What the scores are formulas of, one row a dataset row; see bds/scoring/columns.py."""
        return RunDirectory(self.run_dir).read_table(COMPONENTS_FILE)


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
        SpecError: the directory holds a run of another spec, whose components do not serve this one.
        PreflightError: data, model, anchors, storage or resources cannot do it.
        BdsError: the run failed.
        Interrupted: SIGINT or SIGTERM; running the same command again resumes.
    """
    if local and spec.resources.parts_per_model > 1:
        raise SpecError(
            f"field resources.parts_per_model: --local is one process, not {spec.resources.parts_per_model}; "
            "set it to 1, or leave --local out"
        )
    check_hub(spec)
    run = RunDirectory(spec.run.dir)
    with open_attempt(run, command, fresh=fresh) as attempt:
        expect_kind(run, "audit", "the audit")
        clock = time.perf_counter()
        prepared = _prepare(spec, run, report)
        attempt.begin(report)
        # A cluster is there for the model's work; where none is left, nothing need wait for its resources.
        memory = functools.partial(MemoryModel, spec, prepared.collected, prepared.anchor_tokens)
        with open_workers(
            spec,
            run,
            shards=len(prepared.waiting),
            memory=memory if _needs_model(run, prepared) else None,
            local=local,
            report=report,
        ) as workers:
            facts = _anchor_stage(run, prepared, workers, report)
            _score_stage(run, prepared, workers, attempt.lease, attempt.log, report)
            seconds = time.perf_counter() - clock
            finished = _finish_facts(run, spec, prepared, facts, attempt.started, seconds, attempt.command)
            _adopt(spec, run)
            _write_tables(run, spec, prepared, facts, finished, workers, report)
    return read_result(spec)


def read_result(spec: AuditSpec) -> AuditResult:
    """A finished run's tables."""
    run = RunDirectory(spec.run.dir)
    inputs = load_inputs(run)
    metrics = run.read_json("metrics.json")
    return AuditResult(
        run_dir=run.uri,
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
    waiting: list[Shard]
    """Those that have to be scored."""
    passes: Passes
    collected: Collection
    dataset: Dataset
    anchors: dict[str, list[AnchorSample]]
    anchor_tokens: AnchorTokens
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
    tokenize = conversation_tokenizer(spec)
    template = check_template(tokenize.tokenizer, spec.tokens.template, spec.tokens.supervise)
    learned = weights_of(passes.detectors)
    warnings = [*check_anchor_sets(anchors, roles_of(spec)), *template.warnings, *cautions(learned)]
    dataset = open_dataset(spec.data)
    report(dataset.describe())
    for warning in warnings:
        report(f"warning: {warning}")
    inputs = {"data": fingerprint(spec.data.path, split=spec.data.split, subset=spec.data.subset)}
    inputs |= {f"anchors.sets.{name}": fingerprint(entry.path) for name, entry in spec.anchors.sets.items()}
    plan = read_plan(run)
    begun = plan is not None
    if plan is not None:
        _check_same_components(spec, run, inputs)
    else:
        plan = _begin(spec, run, passes.collection, dataset, inputs)
    waiting = remaining(plan, run)
    # Weights are part of a formula: another file of them changes no component.
    inputs = inputs | {f"calibration.{column}": weights.sha256 for column, weights in learned.items()}
    tokens = anchor_tokens(tokenize, anchors, spec.anchors.first_answer_tokens)
    collected = read_collection(run)
    prepared = _Prepared(plan, waiting, passes, collected, dataset, anchors, tokens, inputs, warnings, learned)
    if begun:
        _check_covered(run, prepared)
        report(_resumption(spec, run, prepared))
    else:
        report(f"{plan.rows:,} rows in {len(plan.shards)} shards")
    return prepared


def _begin(
    spec: AuditSpec, run: RunDirectory, collection: Collection, dataset: Dataset, inputs: dict[str, str]
) -> Plan:
    run.write_json(SPEC, spec.model_dump(mode="json"))
    run.write_json(INPUTS, inputs)
    write_collection(run, collection)
    return write_plan(
        run,
        read_rows(spec.data),
        rows_per_shard=spec.run.rows_per_shard,
        spec_sha256=components_hash(spec),
        data_format=dataset.format.name,
    )


def _check_same_components(spec: AuditSpec, run: RunDirectory, inputs: dict[str, str]) -> None:
    differences = components_diff(read_spec(run), spec)
    if differences:
        raise _another_spec(run, differences[:4])
    changed = [name for name, digest in run.read_json(INPUTS).items() if inputs.get(name) != digest]
    if changed:
        raise PreflightError(
            f"the file of {changed[0]} changed since the run in {run.uri} began; restore it, or give --fresh "
            "to start anew"
        )


def _check_covered(run: RunDirectory, prepared: _Prepared) -> None:
    """Raises SpecError where a detector needs what the run does not collect."""
    choices = run.read_json(_facts_path(prepared))["layer_choices"] if run.exists(_facts_path(prepared)) else []
    chosen = {choice["detector"]: choice["layer"] for choice in choices}
    missing = {
        detector.column: prepared.collected.missing_for(detector, chosen) for detector in prepared.passes.detectors
    }
    unserved = [
        f"{column} needs {' and '.join(needs)}, which that run did not collect"
        for column, needs in missing.items()
        if needs
    ]
    if unserved:
        raise _another_spec(run, unserved)


def _another_spec(run: RunDirectory, differences: Sequence[str]) -> SpecError:
    return SpecError(
        f"{run.uri} holds a run of another spec ({'; '.join(differences)}); give another run.dir, "
        "or --fresh to delete that run"
    )


def _resumption(spec: AuditSpec, run: RunDirectory, prepared: _Prepared) -> str:
    shards = len(prepared.plan.shards)
    done = shards - len(prepared.waiting)
    before = read_spec(run)
    if not spec_diff(before, spec):
        return f"resuming: {done} of {shards} shards are done"
    changed = "selections" if before.score.detectors == spec.score.detectors else "detectors"
    if _needs_model(run, prepared):
        return f"the {changed} changed: {done} of {shards} shards are done and kept"
    return f"the {changed} changed: {done} finished shards are kept, no model is needed"


def _needs_model(run: RunDirectory, prepared: _Prepared) -> bool:
    explained = run.exists(TOKEN_SHARES) or not prepared.passes.collection.gradients
    return bool(prepared.waiting) or not run.exists(_facts_path(prepared)) or not explained


def _reference_path(prepared: _Prepared) -> str:
    """Named by what decides every number in it: the components' fields, what is collected, and the bytes of the anchor
    files. The detectors asked for now have no part in it."""
    files = {name: digest for name, digest in prepared.inputs.items() if name.startswith("anchors.sets.")}
    content = readable_json([prepared.plan.spec_sha256, asdict(prepared.collected), files])
    return f"anchors/{hashlib.sha256(content).hexdigest()[:16]}/reference.safetensors"


def _facts_path(prepared: _Prepared) -> str:
    return os.path.join(os.path.dirname(_reference_path(prepared)), ANCHOR_FACTS)


def _anchor_stage(
    run: RunDirectory, prepared: _Prepared, workers: Workers, report: Callable[[str], None]
) -> dict[str, Any]:
    path, facts_path = _reference_path(prepared), _facts_path(prepared)
    if not run.exists(facts_path):
        sizes = ", ".join(f"{len(samples)} {name}" for name, samples in prepared.anchors.items()) or "none"
        report(f"loading the model and preparing the anchors ({sizes})")
        run.write_json(facts_path, workers.once(functools.partial(prepare_anchors, run.uri, path, workers.spread)))
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
    waiting = prepared.waiting
    if not waiting:
        return
    # Its rows may take places among those shown; now that the model is loaded anyway, all are explained anew.
    run.delete(TOKEN_SHARES)
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
            functools.partial(load_scorer, run.uri, _reference_path(prepared), workers.spread),
            attempt=lease.record.attempt,
            on_receipt=done,
            on_failure=failed,
        )


def _finish_facts(
    run: RunDirectory,
    spec: AuditSpec,
    prepared: _Prepared,
    facts: dict[str, Any],
    started: datetime,
    seconds: float,
    command: str,
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
        "token_budget": read_token_budget(run) or spec.score.token_budget,
        "dataset": spec.data.path,
        "format": prepared.dataset.format.name,
        "rows": prepared.plan.rows,
        "seeds": seeds,
        "hashes": {"spec": spec_hash(spec), "rows": prepared.plan.data_sha256, **prepared.inputs},
        "anchors": {
            name: {
                "role": spec.anchors.sets[name].role,
                "count": len(samples),
                "hash": prepared.inputs[f"anchors.sets.{name}"],
                "path": spec.anchors.sets[name].path,
            }
            for name, samples in prepared.anchors.items()
        },
        "layer_choices": _layer_choices(prepared.passes, facts["layer_choices"]),
        "warnings": list(prepared.warnings),
    }


def _layer_choices(passes: Passes, choices: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that the detectors rest on, under their columns instead of their names."""
    columns = {detector.name: detector.column for detector in (passes.larf, passes.compliance) if detector is not None}
    return [{**choice, "detector": columns[choice["detector"]]} for choice in choices if choice["detector"] in columns]


def _adopt(spec: AuditSpec, run: RunDirectory) -> None:
    """Makes `spec` the run's own, where its formulas are others. Until here the earlier results stand, and before the
    spec changes they are gone: whatever is killed, results in the directory are those of the spec in it."""
    if spec_diff(read_spec(run), spec):
        delete_results(run)
        run.write_json(SPEC, spec.model_dump(mode="json"))


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
    scored = sum(receipt.rows_ok for receipt in receipts.values())
    report(f"scored {scored:,} of {prepared.plan.rows:,} rows; writing tables, selections and the report")
    write_results(
        run,
        spec,
        rows=PlannedRows(run, prepared.plan),
        passes=prepared.passes,
        context=prepared.passes.context(
            facts["larf_layer"], {column: each.weights for column, each in prepared.learned.items()}
        ),
        anchors=prepared.anchors,
        components=FinishedComponents(run, prepared.plan, receipts, _of_others(prepared, facts["larf_layer"])),
        manifest=manifest,
        once=workers.once,
    )
    write_archived_report(run)


def _of_others(prepared: _Prepared, larf_layer: int | None) -> frozenset[str]:
    """Columns that only detectors of an earlier spec needed; a run begun with this one has none of them."""
    collected = prepared.collected.component_columns(prepared.anchors, larf_layer)
    wanted = prepared.passes.collection.component_columns(prepared.anchors, larf_layer)
    return collected - wanted
