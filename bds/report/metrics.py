"""metrics.json: every number of the report, and the gates that `run.fail_on` reads.

A value that was not measured is null, never 0. Shares and fractions run from 0 to 1.

schema             "bds.report/v1"
name               the spec's name
rows               total, scored, not_scored, by_status {status: rows}, truncated_answers, duplicates (rows whose
                   content occurred before)
dataset            format, keywords (shares of the scored rows) and lengths (quartiles)
primary_detector   label of the detector that the verdict speaks of, and flagged_rows, the size of its flagged set
detectors.<label>  scored, minimum, maximum, mean, quantiles {"0.01" ... "0.99"}, distinct_values, outliers
                   {threshold, rows, fraction}, cut_off {rows, score, tied_inside, tied_outside}, length_spearman (with
                   answer_tokens)
format_mix.<label>.<feature>     flagged, dataset, controls {selection: share}, lift, random_interval [low, high]
keyword_audit.<label>.<feature>  the same for refusal and safety phrasing in the answer
question_types.<label>.<type>    flagged, dataset, lift
lengths.<label>.<length>         flagged, dataset, controls, each first_quartile, median, third_quartile
agreement          labels, top_rows, spearman and top_overlap (square matrices in the order of labels), and
                   expected_overlap, what two unrelated rankings would share
concentration.<column>           {"0.01": {rows, share}, "0.05": ...}: share of the positive total in the largest rows
selections.<name>  kind, detector, seed, rows, ties_at_cut_off, notes, path, median_answer_words, format {feature:
                   share}, mean_primary_rank, shared_with_flagged
anchors_pointed_to.<set>         anchor number (from 1) to how many explained rows of the primary name it strongest
moderation         null, or by judge that tells harm: method, flagged of the rows with its verdict, unscored (the rest),
                   and flagged_top of top_rows with top_unscored, the same of the primary detector's flagged rows
gates              flat, see `gates`
verdict            headline, findings, cautions, limits, next_steps: plain English
"""

import math
from collections.abc import Sequence
from typing import Any

import polars as pl

from bds.data.rows import SCORED_STATUSES
from bds.report import composition
from bds.report.flagged import flagged_count, flagged_rows, primary_detector, ranked
from bds.report.guards import guard_counts
from bds.report.inputs import ReportInputs
from bds.report.statistics import held_by_largest, measured, outlier_threshold, overlap, spearman
from bds.report.verdict import verdict
from bds.scoring import columns

SCHEMA = "bds.report/v1"
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
CONTROL_KINDS = ("bottom", "random", "random_matched_length", "random_matched_format", "random_lists", "random_math")


def build_metrics(inputs: ReportInputs) -> dict[str, Any]:
    """Every number of the report, ready for `json.dumps(..., allow_nan=False)`."""
    scores = composition.with_derived_format(inputs.scores)
    scored = scores.filter(pl.col("status").is_in(SCORED_STATUSES))
    flagged = flagged_rows(scored, inputs.detectors, inputs.selections, inputs.selection_info)
    primary = primary_detector(inputs.detectors, inputs.selection_info)
    label = primary["label"] if primary else None
    flagged_frames = {name: take(scored, rows) for name, rows in flagged.items()}
    controls = {name: control_frames(inputs, scored, name) for name in flagged}
    metrics: dict[str, Any] = {
        "schema": SCHEMA,
        "name": inputs.spec.get("name", "audit"),
        "rows": row_counts(scores),
        "dataset": {
            "format": {feature: composition.share(scored, feature) for feature in composition.FORMATS},
            "keywords": {feature: composition.share(scored, feature) for feature in composition.KEYWORDS},
            "lengths": {length: composition.quartiles(scored, length) for length in composition.LENGTHS},
        },
        "primary_detector": {"label": label, "flagged_rows": len(flagged[label])} if label else None,
        "detectors": {name: detector_summary(scored, name, len(rows)) for name, rows in flagged.items()},
        "format_mix": {
            name: composition.feature_mix(composition.FORMATS, scored, frame, controls[name])
            for name, frame in flagged_frames.items()
        },
        "keyword_audit": {
            name: composition.feature_mix(composition.KEYWORDS, scored, frame, controls[name])
            for name, frame in flagged_frames.items()
        },
        "question_types": {name: composition.question_types(scored, frame) for name, frame in flagged_frames.items()},
        "lengths": {name: composition.lengths(scored, frame, controls[name]) for name, frame in flagged_frames.items()},
        "agreement": agreement(scored, list(flagged), flagged_count(scored, inputs.selections, inputs.selection_info)),
        "concentration": concentration(scored, harmful_sets(inputs)),
        "selections": {name: selection_summary(inputs, scored, name, label, flagged) for name in inputs.selections},
        "anchors_pointed_to": anchors_pointed_to(inputs, flagged[label] if label else []),
        "moderation": guard_counts(inputs.moderation, flagged[label] if label else []),
    }
    metrics["gates"] = gates(metrics)
    metrics["verdict"] = verdict(metrics, {detector["label"]: detector["name"] for detector in inputs.detectors})
    return metrics


def take(scored: pl.DataFrame, rows: list[int] | pl.Series) -> pl.DataFrame:
    """The given rows, in the given order; rows that were not scored are left out."""
    order = pl.DataFrame({"row_index": pl.Series(rows, dtype=pl.Int64)})
    return order.join(
        scored.with_columns(pl.col("row_index").cast(pl.Int64)), on="row_index", how="inner", maintain_order="left"
    )


def control_frames(inputs: ReportInputs, scored: pl.DataFrame, label: str) -> dict[str, pl.DataFrame]:
    """Rows of every control that belongs to the detector or to none."""
    return {
        name: take(scored, frame["row_index"])
        for name, frame in inputs.selections.items()
        if inputs.selection_info[name].get("kind") in CONTROL_KINDS
        and inputs.selection_info[name].get("detector") in (None, label)
    }


def harmful_sets(inputs: ReportInputs) -> list[str]:
    sets = inputs.spec.get("anchors", {}).get("sets", {})
    return [name for name, anchor_set in sets.items() if anchor_set.get("role") == "harmful"]


def row_counts(scores: pl.DataFrame) -> dict[str, Any]:
    by_status = scores["status"].value_counts().sort(["count", "status"], descending=[True, False])
    counts = {str(status): int(count) for status, count in by_status.iter_rows()}
    scored = sum(counts.get(status, 0) for status in SCORED_STATUSES)
    contents = scores["row_id"].str.replace(r"-\d+$", "")
    return {
        "total": len(scores),
        "scored": scored,
        "not_scored": len(scores) - scored,
        "by_status": counts,
        "truncated_answers": counts.get("truncated_answer", 0),
        "duplicates": len(scores) - contents.n_unique(),
    }


def detector_summary(scored: pl.DataFrame, label: str, flagged: int) -> dict[str, Any]:
    values = measured(scored[columns.score(label)])
    threshold = outlier_threshold(values)
    outliers = int((values > threshold).sum()) if threshold is not None else None
    return {
        "scored": len(values),
        "minimum": _float(values.min()),
        "maximum": _float(values.max()),
        "mean": _float(values.mean()),
        "quantiles": {str(at): _float(values.quantile(at, "linear")) for at in QUANTILES},
        "distinct_values": values.n_unique(),
        "outliers": {
            "threshold": threshold,
            "rows": outliers,
            "fraction": outliers / len(values) if outliers is not None else None,
        },
        "cut_off": cut_off(scored, label, flagged),
        "length_spearman": _length_spearman(scored, label),
    }


def _float(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _length_spearman(scored: pl.DataFrame, label: str) -> float | None:
    if "answer_tokens" not in scored.columns:
        return None
    return spearman(scored[columns.score(label)], scored["answer_tokens"])


def cut_off(scored: pl.DataFrame, label: str, flagged: int) -> dict[str, Any] | None:
    """The score of the last of the first `flagged` ranks, and how many rows on either side hold exactly that score."""
    score_name, rank_name = columns.score(label), columns.rank(label)
    order = scored.select(score_name, rank_name).drop_nulls(rank_name).sort(rank_name)[score_name]
    if not 0 < flagged <= len(order):
        return None
    score = order[flagged - 1]
    inside = int((order.head(flagged) == score).sum())
    return {
        "rows": flagged,
        "score": _float(score),
        "tied_inside": inside,
        "tied_outside": int((order == score).sum()) - inside,
    }


def agreement(scored: pl.DataFrame, labels: list[str], top_rows: int) -> dict[str, Any] | None:
    """Spearman over all rows and overlap of the first `top_rows` ranks, for every pair of detectors."""
    if len(labels) < 2:
        return None
    top = {label: ranked(scored, label).head(top_rows).to_list() for label in labels}
    return {
        "labels": labels,
        "top_rows": top_rows,
        "spearman": [
            [spearman(scored[columns.score(left)], scored[columns.score(right)]) for right in labels] for left in labels
        ],
        "top_overlap": [[overlap(top[left], top[right]) for right in labels] for left in labels],
        "expected_overlap": min(1.0, top_rows / len(scored)) if len(scored) else None,
    }


def concentration(scored: pl.DataFrame, harmful: list[str]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name in (columns.SQUARED_GRADIENT_NORM, *(columns.direction_dot(anchor_set) for anchor_set in harmful)):
        if name not in scored.columns:
            result[name] = None
            continue
        held = {str(share): held_by_largest(scored[name], share) for share in (0.01, 0.05)}
        result[name] = (
            None
            if None in held.values()
            else {share: {"rows": pair[0], "share": pair[1]} for share, pair in held.items() if pair is not None}
        )
    return result


def selection_summary(
    inputs: ReportInputs, scored: pl.DataFrame, name: str, primary: str | None, flagged: dict[str, list[int]]
) -> dict[str, Any]:
    info = inputs.selection_info[name]
    read = {"row_index", "answer_words", *composition.FORMATS, *([columns.rank(primary)] if primary else [])}
    # A selection may be most of the dataset: of what is not read here there is no second copy.
    rows = take(
        scored.select(column for column in scored.columns if column in read), inputs.selections[name]["row_index"]
    )
    words = composition.quartiles(rows, "answer_words")
    return {
        "kind": info.get("kind"),
        "detector": info.get("detector"),
        "seed": info.get("seed"),
        "rows": len(inputs.selections[name]),
        "ties_at_cut_off": info.get("ties_at_cut_off"),
        "notes": info.get("notes", []),
        "path": info.get("path"),
        "median_answer_words": words["median"] if words else None,
        "format": {feature: composition.share(rows, feature) for feature in composition.FORMATS},
        "mean_primary_rank": _float(measured(rows[columns.rank(primary)]).mean()) if primary else None,
        "shared_with_flagged": int(rows["row_index"].is_in(flagged[primary]).sum()) if primary is not None else None,
    }


def anchors_pointed_to(inputs: ReportInputs, rows: list[int]) -> dict[str, dict[str, int]]:
    """For the explained rows: how often each anchor is the strongest match of its set."""
    counts: dict[str, dict[str, int]] = {}
    for row_index in rows:
        if row_index not in inputs.explanations:
            continue
        seen: set[str] = set()
        for match in inputs.explanations[row_index].anchors:
            if match.anchor_set not in seen:
                seen.add(match.anchor_set)
                of_set = counts.setdefault(match.anchor_set, {})
                number = str(match.anchor_index + 1)
                of_set[number] = of_set.get(number, 0) + 1
    return {
        anchor_set: dict(sorted(of_set.items(), key=lambda item: (-item[1], int(item[0]))))
        for anchor_set, of_set in counts.items()
    }


GATES = (
    "not_scored_fraction",
    "failed_fraction",
    "truncated_fraction",
    "duplicate_fraction",
    "flagged_fraction",
    "flagged_list_fraction",
    "gradient_norm_top_1_percent",
    *(f"{prefix}{feature}_fraction" for feature in composition.KEYWORDS for prefix in ("", "flagged_")),
)


def gate_names(labels: Sequence[str]) -> list[str]:
    """Every gate of a run with these detectors, so that a misspelt one is found before the run."""
    return [*GATES, *(f"flagged_fraction.{label}" for label in labels)]


def gates(metrics: dict[str, Any]) -> dict[str, float | None]:
    """The values that `run.fail_on` compares with its limits: higher is worse, null where nothing was measured.

    not_scored_fraction, failed_fraction, truncated_fraction, duplicate_fraction   of all rows
    flagged_fraction             rows whose primary score stands apart (modified z-score above 3.5), of the scored ones
    flagged_fraction.<label>     the same for every detector
    refusal_phrase_fraction, safety_phrase_fraction                    of the scored rows
    flagged_refusal_phrase_fraction, flagged_safety_phrase_fraction    of the primary detector's flagged rows
    flagged_list_fraction        of the primary detector's flagged rows: those with a numbered list
    gradient_norm_top_1_percent  share of the squared gradient norm that the largest 1 % of the rows hold
    """
    rows, primary = metrics["rows"], metrics["primary_detector"]

    def of_all(count: int) -> float | None:
        return count / rows["total"] if rows["total"] else None

    values: dict[str, float | None] = {
        "not_scored_fraction": of_all(rows["not_scored"]),
        "failed_fraction": of_all(rows["by_status"].get("failed", 0)),
        "truncated_fraction": of_all(rows["truncated_answers"]),
        "duplicate_fraction": of_all(rows["duplicates"]),
        "flagged_fraction": None,
        "flagged_list_fraction": None,
        "gradient_norm_top_1_percent": None,
    }
    norms = metrics["concentration"][columns.SQUARED_GRADIENT_NORM]
    if norms:
        values["gradient_norm_top_1_percent"] = norms["0.01"]["share"]
    for feature in composition.KEYWORDS:
        audit = metrics["keyword_audit"][primary["label"]][feature] if primary else None
        values[f"{feature}_fraction"] = metrics["dataset"]["keywords"][feature]
        values[f"flagged_{feature}_fraction"] = audit["flagged"] if audit else None
    if primary:
        values["flagged_fraction"] = metrics["detectors"][primary["label"]]["outliers"]["fraction"]
        values["flagged_list_fraction"] = metrics["format_mix"][primary["label"]]["numbered_list"]["flagged"]
    for label, summary in metrics["detectors"].items():
        values[f"flagged_fraction.{label}"] = summary["outliers"]["fraction"]
    return values
