"""A report's inputs in the run directory, so that a page can be rebuilt from a finished run without recomputing
anything."""

from typing import Any

import polars as pl

from bds.errors import PreflightError
from bds.report import write_report
from bds.report.evaluation import rewrite_evaluation_report
from bds.report.finetunes import INPUTS as FINETUNES
from bds.report.finetunes import rewrite_finetune_report
from bds.report.inputs import DetectorInfo, Manifest, Moderation, ReportInputs, SelectionInfo
from bds.report.moderation import METRICS as MODERATION_METRICS
from bds.report.moderation import TABLE as MODERATION
from bds.report.moderation import rewrite_moderation_report
from bds.report.study import rewrite_study_report
from bds.runs.directory import RunDirectory
from bds.runs.kind import kind_of
from bds.scoring.explanation import AnchorMatch, Explanation, TokenContribution
from bds.spec.moderate import AUDIT_FOLDER

SCORES = "scores.parquet"
SELECTED = "selections/rows.parquet"
EXPLAINED_ROWS = "report/rows.parquet"
FACTS = "report/facts.json"


def save_inputs(run: RunDirectory, inputs: ReportInputs) -> None:
    """Everything but the scores, which stand in scores.parquet already."""
    picked = [
        frame.select(pl.lit(name).alias("selection"), pl.int_range(pl.len()).alias("place"), pl.col("row_index"))
        for name, frame in inputs.selections.items()
    ]
    schema = {"selection": pl.String, "place": pl.Int64, "row_index": pl.Int64}
    run.write_table(SELECTED, pl.concat(picked) if picked else pl.DataFrame(schema=schema))
    run.write_table(EXPLAINED_ROWS, inputs.rows)
    run.write_json(
        FACTS,
        {
            "spec": inputs.spec,
            "manifest": inputs.manifest,
            "selection_info": inputs.selection_info,
            "detectors": inputs.detectors,
            "explanations": [_packed(explanation) for explanation in inputs.explanations.values()],
        },
    )


def load_inputs(run: RunDirectory) -> ReportInputs:
    """Raises FileNotFoundError where the run has not come as far as its report."""
    facts: dict[str, Any] = run.read_json(FACTS)
    selected = run.read_table(SELECTED)
    manifest: Manifest = facts["manifest"]
    info: dict[str, SelectionInfo] = facts["selection_info"]
    detectors: list[DetectorInfo] = facts["detectors"]
    return ReportInputs(
        spec=facts["spec"],
        manifest=manifest,
        scores=run.read_table(SCORES),
        rows=run.read_table(EXPLAINED_ROWS),
        selections={name: selected.filter(pl.col("selection") == name).select("row_index") for name in info},
        selection_info=info,
        explanations={packed["row_index"]: _unpacked(packed) for packed in facts["explanations"]},
        detectors=detectors,
        moderation=_moderation(run),
    )


def _moderation(run: RunDirectory) -> Moderation | None:
    """None where the audit was not moderated, or not to the end."""
    try:
        judges = run.read_json(f"{AUDIT_FOLDER}/{MODERATION_METRICS}")["judges"]
    except FileNotFoundError:
        return None
    verdicts = run.read_table(f"{AUDIT_FOLDER}/{MODERATION}")
    return Moderation(
        [
            {"name": judge["name"], "method": judge["method"], "tells_harm": judge["flagged"] is not None}
            for judge in judges
        ],
        verdicts.select("row_index", "judge", "flagged", "refused", "status"),
    )


def write_archived_report(run: RunDirectory) -> None:
    """Writes metrics.json and report.html from what `save_inputs` saved."""
    write_report(load_inputs(run), run.write_bytes)


def _packed(explanation: Explanation) -> dict[str, Any]:
    return {
        "row_index": explanation.row_index,
        "tokens": [[token.text, token.share] for token in explanation.tokens],
        "anchors": [[match.anchor_set, match.anchor_index, match.value] for match in explanation.anchors],
    }


def _unpacked(packed: dict[str, Any]) -> Explanation:
    return Explanation(
        int(packed["row_index"]),
        tuple(TokenContribution(*token) for token in packed["tokens"]),
        tuple(AnchorMatch(*match) for match in packed["anchors"]),
    )


def rewrite_report(run_dir: str) -> str:
    """Renders the report of any finished run again, recomputing nothing; its path.

    Raises:
        PreflightError: there is no finished run in the directory.
    """
    run = RunDirectory(run_dir)
    if run.exists(FINETUNES):
        return rewrite_finetune_report(run)
    if run.exists(MODERATION):
        return rewrite_moderation_report(run)
    try:
        if kind_of(run) == "evaluate":
            return rewrite_evaluation_report(run)
        if kind_of(run) == "study":
            return rewrite_study_report(run)
        write_archived_report(run)
    except FileNotFoundError as error:
        raise PreflightError(
            f"{run.uri} holds no finished run; let `bds audit`, finetune, evaluate, moderate or study end there first"
        ) from error
    return run.url_of("report.html")
