"""The page: metrics and figures gathered into plain values, then rendered by one Jinja template."""

import json
from dataclasses import dataclass
from typing import Any

import polars as pl

from bds.data.rows import SCORED_STATUSES
from bds.report import composition, figures, wording
from bds.report.figures import Bar, Picture, Spread
from bds.report.flagged import SAMPLES_SHOWN, flagged_rows
from bds.report.inputs import ReportInputs
from bds.report.metrics import control_frames, take
from bds.report.rendering import page_template
from bds.report.samples import cards
from bds.report.statistics import MINIMUM_ROWS, OUTLIER_Z, measured
from bds.report.verdict import covers_most, leading_format
from bds.scoring import columns

TEMPLATE = "audit.html.j2"
EXAMPLES_A_STATUS = 10
QUESTION_TYPES_SHOWN = 8

KINDS = {
    "top": "highest scores",
    "bottom": "lowest scores",
    "random": "random draw",
    "random_matched_length": "random, matched answer length",
    "random_matched_format": "random, matched format",
    "random_lists": "random among lists",
    "random_math": "random among maths",
    "filtered": "dataset without the top",
}


@dataclass(frozen=True)
class Tile:
    value: str
    label: str
    note: str


def render_page(inputs: ReportInputs, metrics: dict[str, Any]) -> str:
    """The whole report as one HTML document that loads nothing and runs no script."""
    scored = composition.with_derived_format(inputs.scores).filter(pl.col("status").is_in(SCORED_STATUSES))
    flagged = flagged_rows(scored, inputs.detectors, inputs.selections, inputs.selection_info)
    primary = metrics["primary_detector"]["label"] if metrics["primary_detector"] else None
    order = [primary, *(label for label in flagged if label != primary)] if primary else []
    return page_template(TEMPLATE).render(
        metrics=metrics,
        primary=primary,
        labels=order,
        tiles=tiles(metrics),
        first_picture=_distribution(metrics, scored, flagged, primary, large=True) if primary else None,
        looks=_looks(inputs, metrics, scored, flagged, primary),
        distributions=[(label, _distribution(metrics, scored, flagged, label)) for label in order],
        agreement=_agreement_pictures(metrics),
        panels=[(label, cards(inputs, scored, label, flagged, SAMPLES_SHOWN)) for label in order],
        samples_shown=SAMPLES_SHOWN,
        any_tokens=any(explanation.tokens for explanation in inputs.explanations.values()),
        any_anchors=any(explanation.anchors for explanation in inputs.explanations.values()),
        kinds=KINDS,
        formats=composition.FORMATS,
        keywords=composition.KEYWORDS,
        not_scored=_not_scored(inputs.scores),
        manifest=inputs.manifest,
        facts=_facts(inputs),
        layers=_layers(inputs),
        detectors=inputs.detectors,
        spec_json=json.dumps(inputs.spec, indent=2, ensure_ascii=False),
        minimum_rows=MINIMUM_ROWS,
        outlier_z=OUTLIER_Z,
        small=covers_most(metrics),
    )


def tiles(metrics: dict[str, Any]) -> list[Tile]:
    """The headline numbers: rows scored, rows apart, the format that stands out, agreement."""
    counts, primary = metrics["rows"], metrics["primary_detector"]
    found = [
        Tile(
            wording.count(counts["scored"]),
            "rows scored",
            f"of {wording.count(counts['total'])}; {wording.count(counts['not_scored'])} not scored",
        )
    ]
    if primary is None or counts["scored"] == 0:
        return found
    outliers = metrics["detectors"][primary["label"]]["outliers"]
    found.append(
        Tile(
            wording.count(outliers["rows"]), "rows far apart", f"{wording.percent(outliers['fraction'])} of the scored"
        )
        if outliers["rows"] is not None
        else Tile(wording.UNMEASURED, "rows far apart", "too few or too equal scores to tell")
    )
    leading = None if covers_most(metrics) else leading_format(metrics, primary["label"])
    if leading:
        feature, mix = leading
        found.append(
            Tile(
                wording.times(mix["lift"]),
                f"{composition.FORMATS[feature] if feature != 'no_format' else 'plain prose'} among the flagged",
                f"{wording.percent(mix['flagged'])} against {wording.percent(mix['dataset'])} of all rows",
            )
        )
    audit = metrics["keyword_audit"][primary["label"]]["refusal_phrase"]
    if audit["flagged"] is not None:
        found.append(
            Tile(
                wording.percent(audit["flagged"]),
                "refusal phrasing among the flagged",
                f"{wording.percent(audit['dataset'])} of all rows",
            )
        )
    return found


def _distribution(
    metrics: dict[str, Any], scored: pl.DataFrame, flagged: dict[str, list[int]], label: str, *, large: bool = False
) -> Picture | None:
    values = measured(scored[columns.score(label)])
    if values.is_empty():
        return None
    marked = measured(take(scored, flagged[label])[columns.score(label)])
    summary = metrics["detectors"][label]
    return figures.score_distribution(
        label,
        values.to_numpy(),
        marked.to_numpy(),
        summary["cut_off"]["score"] if summary["cut_off"] else None,
        summary["outliers"]["threshold"],
        large=large,
    )


@dataclass(frozen=True)
class Looks:
    """What the flagged rows look like, beside the dataset and a control."""

    control: str | None
    mix: Picture | None
    lengths: Picture | None
    question_types: list[tuple[str, dict[str, float | None]]]


def _looks(
    inputs: ReportInputs,
    metrics: dict[str, Any],
    scored: pl.DataFrame,
    flagged: dict[str, list[int]],
    primary: str | None,
) -> Looks | None:
    if primary is None or not flagged[primary]:
        return None
    controls = control_frames(inputs, scored, primary)
    of_kind = {inputs.selection_info[name].get("kind"): name for name in reversed(controls)}
    # A control matched on format has the flagged rows' format mix by construction, so length-matched rows are shown.
    control = of_kind.get("random_matched_length") or of_kind.get("random")
    mix = metrics["format_mix"][primary] | metrics["keyword_audit"][primary]
    bars = [
        Bar(
            name,
            mix[feature]["flagged"],
            mix[feature]["dataset"],
            mix[feature]["controls"][control] if control else None,
            mix[feature]["random_interval"],
        )
        for feature, name in (composition.FORMATS | composition.KEYWORDS).items()
        if mix[feature]["dataset"] or mix[feature]["flagged"]
    ]
    kinds = sorted(
        metrics["question_types"][primary].items(),
        key=lambda item: (-max(item[1]["flagged"] or 0, item[1]["dataset"] or 0), item[0]),
    )
    matched = of_kind.get("random_matched_format")
    return Looks(
        control,
        figures.format_mix(bars, _control_name(inputs, control)) if bars else None,
        _length_picture(scored, flagged, primary, controls[matched] if matched else None),
        kinds[:QUESTION_TYPES_SHOWN],
    )


def _control_name(inputs: ReportInputs, control: str | None) -> str | None:
    return KINDS.get(str(inputs.selection_info[control].get("kind")), control) if control else None


def _length_picture(
    scored: pl.DataFrame, flagged: dict[str, list[int]], primary: str, matched: pl.DataFrame | None
) -> Picture | None:
    if "answer_words" not in scored.columns:
        return None
    groups = [(f"flagged by {primary}", take(scored, flagged[primary]), figures.FLAGGED)]
    groups.append(("all scored rows", scored, figures.DATASET))
    if matched is not None:
        groups.append((KINDS["random_matched_format"], matched, figures.CONTROL))
    groups += [
        (f"flagged by {label}", take(scored, rows), figures.FLAGGED_BY_OTHERS)
        for label, rows in flagged.items()
        if label != primary
    ]
    spreads = [
        Spread(name, values.to_numpy(), color)
        for name, values, color in ((name, measured(rows["answer_words"]), color) for name, rows, color in groups)
        if len(values)
    ]
    return figures.length_spread(spreads, "words in the answer") if spreads else None


def _agreement_pictures(metrics: dict[str, Any]) -> list[tuple[str, Picture]]:
    table = metrics["agreement"]
    if table is None:
        return []
    return [
        (
            "Rank correlation (Spearman) over all scored rows: 1 the same order, 0 unrelated, −1 reversed.",
            figures.heat_map("Spearman correlation", table["labels"], table["spearman"], diverging=True),
        ),
        (
            f"Shared rows among the top {wording.count(table['top_rows'])}, in per cent. Unrelated rankings would "
            f"share {wording.percent(table['expected_overlap'])}.",
            figures.heat_map("Share of the top rows", table["labels"], table["top_overlap"], diverging=False),
        ),
    ]


@dataclass(frozen=True)
class NotScored:
    status: str
    rows: int
    reasons: list[tuple[str, int]]
    examples: list[tuple[str, str, str]]
    """Place, row id and reason of the first rows."""


def _not_scored(scores: pl.DataFrame) -> list[NotScored]:
    groups = []
    missing = scores.filter(~pl.col("status").is_in(SCORED_STATUSES)).sort("row_index")
    order = missing["status"].value_counts().sort(["count", "status"], descending=[True, False])
    for status in order["status"]:
        rows = missing.filter(pl.col("status") == status)
        reasons = rows["reason"].fill_null("").value_counts().sort(["count", "reason"], descending=[True, False])
        groups.append(
            NotScored(
                status,
                len(rows),
                [(reason or "no reason given", number) for reason, number in reasons.head(5).iter_rows()],
                [
                    (f"{row['source']}:{row['line']}", row["row_id"], row["reason"] or "")
                    for row in rows.head(EXAMPLES_A_STATUS).iter_rows(named=True)
                ],
            )
        )
    return groups


def _facts(inputs: ReportInputs) -> list[tuple[str, str]]:
    """What ran on what, where the manifest knows it."""
    manifest = inputs.manifest
    parameters = manifest.get("model_parameters")
    scored_parameters = manifest.get("scored_parameters")
    seconds = manifest.get("wall_seconds")
    scope = manifest.get("parameter_scope")
    pairs = (
        ("Dataset", manifest.get("dataset")),
        ("Format detected", manifest.get("format")),
        ("Rows", wording.count(manifest["rows"]) if "rows" in manifest else None),
        ("Model", manifest.get("model")),
        ("Parameters", wording.count(parameters) if parameters is not None else None),
        (
            "Gradients over",
            f"{scope} ({wording.count(scored_parameters)} parameters)" if scope and scored_parameters else scope,
        ),
        ("Device", manifest.get("device")),
        ("Number type", manifest.get("dtype")),
        ("Padded tokens in a batch", wording.count(manifest["token_budget"]) if "token_budget" in manifest else None),
        ("Started", manifest.get("started")),
        ("Wall time", wording.duration(seconds) if seconds is not None else None),
    )
    return [(name, value) for name, value in pairs if value]


def _layers(inputs: ReportInputs) -> list[tuple[str, Picture]]:
    pictures = []
    for choice in inputs.manifest.get("layer_choices", []):
        curve = sorted((int(layer), value) for layer, value in choice["curve"].items())
        if curve:
            picture = figures.layer_curve(
                [layer for layer, _ in curve], [value for _, value in curve], choice["layer"], choice["criterion"]
            )
            caption = f"{choice['detector']} uses layer {choice['layer']}: {choice['criterion']}"
            pictures.append((caption, picture))
    return pictures
