"""The tables of a study's page as plain values; a number is linked to the block of the cell that it is of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from bds.report.evaluation_measured import Series
from bds.report.evaluation_words import words_of
from bds.report.study_document import CONTROL, Study, pairs_of
from bds.report.study_words import MEASURED, measure_of, name_of
from bds.report.wording import UNMEASURED, count, duration, learning_rate, number, p_value, percent, signed


@dataclass(frozen=True)
class Linked:
    """A number of a table."""

    text: str
    anchor: str | None = None
    """The id of a block of this page."""
    note: str = ""
    level: str = ""
    """CSS class: more, fewer or none."""
    page: str = ""
    """A page of a run below the study, relative to the report."""


NOTHING = Linked(UNMEASURED)


@dataclass(frozen=True)
class Table:
    head: tuple[str, ...]
    rows: Sequence[tuple[Linked, ...]]
    """The first of each names the row; the others are numbers, but for those that `words` counts."""
    words: int = 0
    """How many columns after the first hold words."""


def matrix_table(study: Study, matrix: Mapping[str, Any]) -> Table:
    """Scorers down, targets across: value, the control's value, difference with its interval."""
    words = words_of(matrix["metric"])
    entries = {(each["scorer"], each["target"]): each for each in matrix["entries"]}
    rows = []
    for scorer in matrix["scorers"]:
        row = [Linked(scorer)]
        for target in matrix["targets"]:
            entry = entries.get((scorer, target))
            if entry is None or entry["difference"] is None:
                row.append(NOTHING)
                continue
            interval = words.difference_interval(entry["low"], entry["high"])
            values = f"{words.value(entry['value_a'])} against {words.value(entry['value_b'])}"
            note = f"{f'{interval}; ' if interval else ''}{values}"
            row.append(_difference(study, entry, note))
        rows.append(tuple(row))
    return Table(("Chosen by", *(f"{target} fine-tuned" for target in matrix["targets"])), rows)


def averages_table(study: Study) -> Table:
    """The mean over the pairs of models of every matrix: whether samples transfer at all."""
    rows = []
    for matrix in study.matrices:
        words = words_of(matrix["metric"])
        row = [Linked(study.input_label(matrix)), Linked(matrix["suite"])]
        for name in ("own", "transfer"):
            average = matrix["averages"][name]
            firm = average["significant"]
            level = "" if not firm else "more" if average["difference"] > 0 else "fewer"
            mark = {"": "", "more": " ▲", "fewer": " ▼"}[level]
            interval = words.difference_interval(average["low"], average["high"])
            row += [
                Linked(count(average["entries"])),
                Linked(words.bare_difference(average["difference"]) + mark, None, interval, level),
                Linked(p_value(average["p_adjusted"])),
            ]
        rows.append(tuple(row))
    head = ("Trained on", "suite", "own choice: models", "difference", "p, adjusted")
    return Table((*head, "another's choice: pairs", "difference", "p, adjusted"), rows, words=1)


def cells_table(study: Study, target: str, series: Series) -> Table:
    """Every cell of a target, the highest first, those without a value last."""
    words = words_of(series.metric)
    own = study.of_target(target)
    ordered = study.strongest(own, series)
    rows = []
    base = study.base(target, series)
    if base is not None:
        anchor = study.base_anchor(target)
        value = Linked(words.value(base["value"]), anchor, words.interval(base["low"], base["high"]))
        rows.append((Linked("before fine-tuning", anchor), *[NOTHING] * 3, value, NOTHING, NOTHING, NOTHING))
    for cell in [*ordered, *(cell for cell in own if cell not in ordered)]:
        anchor = study.anchor(cell["id"])
        measured = study.measured(cell["id"], series)
        contrast = study.contrast(cell["id"], CONTROL, series)
        value = NOTHING
        if measured is not None and measured["value"] is not None:
            interval = words.interval(measured["low"], measured["high"])
            value = Linked(words.value(measured["value"]), anchor, interval)
        rows.append(
            (
                Linked(study.label(cell), anchor),
                Linked(count(cell["samples"])),
                Linked(count(cell["steps"])),
                Linked(f"{count(len(cell['conditions']))} of {count(cell['wanted'])}", anchor),
                value,
                *_against(study, contrast),
            )
        )
    head = ("Trained on", "samples", "steps", "fine-tunes measured", name_of(series))
    return Table((*head, "control", "difference from it", "p, adjusted"), rows)


def _against(study: Study, contrast: Mapping[str, Any] | None) -> tuple[Linked, Linked, Linked]:
    if contrast is None:
        return NOTHING, NOTHING, NOTHING
    words = words_of(contrast["metric"])
    other = study.cells.get(contrast["other"])
    control = Linked(
        words.value(contrast["value_b"]),
        None if other is None else study.anchor(other["id"]),
        "" if other is None else study.label(other),
    )
    interval = words.difference_interval(contrast["low"], contrast["high"])
    return control, _difference(study, contrast, interval), Linked(p_value(contrast["p_adjusted"]))


def _difference(study: Study, contrast: Mapping[str, Any], note: str) -> Linked:
    words = words_of(contrast["metric"]) if "metric" in contrast else words_of("attack_success")
    firm = contrast["significant"]
    level = "" if not firm else "more" if contrast["difference"] > 0 else "fewer"
    mark = "" if not firm else " ▲" if contrast["difference"] > 0 else " ▼"
    text = words.bare_difference(contrast["difference"]) + mark
    return Linked(text, study.anchor(contrast["cell"]), note, level)


def curve_table(study: Study, curves: Sequence[Mapping[str, Any]]) -> Table:
    """A row for every curve, a column for every amount."""
    along = curves[0]["along"]
    amounts = sorted({point[along] for curve in curves for point in curve["points"]})
    rows = []
    for curve in curves:
        words = words_of(curve["metric"])
        points = {point[along]: point for point in curve["points"]}
        row = [Linked(_curve_name(study, curve))]
        for amount in amounts:
            point = points.get(amount)
            if point is None or point["value"] is None:
                row.append(NOTHING)
                continue
            interval = words.interval(point["low"], point["high"])
            row.append(Linked(words.value(point["value"]), study.anchor(point["cell"]), interval))
        rows.append(tuple(row))
    told = [f"{count(amount)} samples" if along == "samples" else f"rate {learning_rate(amount)}" for amount in amounts]
    return Table(("Chosen", *told), rows)


def _curve_name(study: Study, curve: Mapping[str, Any]) -> str:
    way = curve["selection"] if curve["along"] == "learning_rate" else curve["kind"].replace("_", " ")
    scorer = f" by {curve['scorer']}" if curve["scorer"] is not None else ""
    chosen = study.input_label({name: curve[name] for name in curve if name not in {"selection"}})
    return f"{curve['target']}: {way}{scorer} ({chosen}, {curve['suite']})"


def defence_table(study: Study, chart: Mapping[str, Any]) -> Table:
    rows = []
    for point in chart["points"]:
        anchor = study.base_anchor(chart["target"]) if point["cell"] is None else study.anchor(point["cell"])
        row = [Linked(point["name"] + (" (undefended)" if point["undefended"] else ""), anchor)]
        for key, metric in (
            ("attack_success", "attack_success"),
            ("over_refusal", "over_refusal"),
            ("accuracy", "correct"),
        ):
            own, words = point[key], words_of(metric)
            if own is None or own["value"] is None:
                row.append(NOTHING)
                continue
            row.append(Linked(words.value(own["value"]), anchor, words.interval(own["low"], own["high"])))
        rows.append(tuple(row))
    return Table(("Defence", "attack success", "harmless prompts refused", "right answers"), rows)


def audit_table(study: Study) -> Table:
    """A row for every pair of detectors of every audit."""
    rows = []
    for audit in study.document["audits"]:
        about = f"{audit['dataset']} scored by {audit['scorer']}"
        scored = Linked(count(audit["rows"]["scored"]))
        pairs = pairs_of(audit["agreement"])
        if not pairs:
            rows.append(
                (Linked(about, page=quote(audit["page"])), Linked("one detector"), scored, NOTHING, NOTHING, NOTHING)
            )
        for pair in pairs:
            spearman = pair["spearman"]
            rows.append(
                (
                    Linked(about, page=quote(audit["page"])),
                    Linked(f"{pair['detector_a']} and {pair['detector_b']}"),
                    scored,
                    Linked(UNMEASURED if spearman is None else signed(spearman)),
                    Linked(percent(pair["overlap"])),
                    Linked(percent(pair["expected"])),
                )
            )
    head = ("Audit", "detectors", "rows scored", "rank correlation", "highest rows in common", "by chance")
    return Table(head, rows, words=1)


def weights_table(study: Study) -> Table:
    """What was learned of the detectors of every scorer from the damage, and how well it tells what it has not seen."""
    rows = []
    for scorer, own in study.document.get("calibrations", {}).items():
        weights = own["weights"] or {}
        told = ", ".join(f"{name} {number(weight)}" for name, weight in weights.items())
        correlation = own["rank_correlation"]
        rows.append(
            (
                Linked(scorer),
                Linked("yes" if own["usable"] else f"no: {own['reason']}"),
                Linked(told or UNMEASURED),
                Linked(count(len(own["cells"]))),
                Linked(count(own["families"])),
                Linked(percent(own["share_error"])),
                Linked(percent(own["mean_share_error"])),
                Linked(UNMEASURED if correlation is None else signed(correlation)),
            )
        )
    head = ("Scores of", "usable", "weights", "cells", "kinds of selection", "error", "error of the mean")
    return Table((*head, "rank correlation"), rows, words=2)


def grade_table(study: Study) -> Table:
    """Every piece of evidence of every dataset, the worst of each marked."""
    rows = []
    for graded in study.document["grades"]:
        for each in graded["evidence"]:
            words = words_of(each["metric"])
            anchor = None if each["cell"] is None else study.anchor(each["cell"])
            measured = each["basis"] == MEASURED
            worst = each == graded["worst"]
            rows.append(
                (
                    Linked(graded["dataset"], note=f"grade {graded['grade']} rests on this row" if worst else ""),
                    Linked(each["target"]),
                    Linked(each["recipe"] + (f", then {each['then']}" if each["then"] else "")),
                    Linked(each["suite"]),
                    Linked("measured" if measured else "extrapolated from random draws", anchor),
                    Linked(words.value(each["before"]), study.base_anchor(each["target"])),
                    Linked(words.value(each["value"]), anchor, words.interval(each["low"], each["high"])),
                    Linked(words.bare_difference(each["rise"]), anchor),
                )
            )
    head = ("Dataset", "model", "recipe", "suite", "evidence", "before", "on the whole dataset", "rise, points")
    return Table(head, rows, words=4)


def judge_table(study: Study) -> Table:
    rows = []
    for evaluation in study.document["evaluations"]:
        for each in evaluation["agreement"]:
            kappa = each["kappa"]
            rows.append(
                (
                    Linked(f"{each['judges'][0]} and {each['judges'][1]}"),
                    Linked(evaluation["target"], page=quote(evaluation["page"])),
                    Linked(each["suite"]),
                    Linked(measure_of(each["metric"])),
                    Linked(count(each["answers"])),
                    Linked(percent(each["agree"])),
                    Linked(UNMEASURED if kappa is None else f"{kappa:.2f}"),
                )
            )
    head = ("Judges", "target", "suite", "metric", "answers", "agree on", "Cohen's kappa")
    return Table(head, rows, words=3)


def finetune_table(study: Study) -> Table:
    rows = [
        (
            Linked(run["name"], page=quote(run["page"])),
            Linked(", ".join(run["devices"])),
            Linked(count(run["finished"])),
            Linked(count(run["steps"])),
            Linked(count(run["samples_seen"])),
            Linked(duration(run["seconds"])),
        )
        for run in study.document["finetunes"]
    ]
    head = ("Fine-tunes of", "device", "finished", "optimiser steps", "samples seen", "training time")
    return Table(head, rows, words=1)


def evaluation_table(study: Study) -> Table:
    rows = [
        (
            Linked(told["target"], page=quote(told["page"])),
            Linked(told["primary_judge"]),
            Linked(count(told["speed"]["answers"])),
            Linked(count(told["speed"].get("answer_tokens"))),
            Linked(duration(told["speed"].get("median_seconds"))),
        )
        for told in study.document["evaluations"]
    ]
    return Table(("Evaluation of", "judge of the headline", "answers", "answer tokens", "median answer"), rows, words=1)
