"""The page of a study: charts, tables and blocks of cells gathered, then rendered by one Jinja template."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bds.report import wording
from bds.report.evaluation_words import interval_name, words_of
from bds.report.page import Tile
from bds.report.rendering import page_template
from bds.report.study_cells import blocks
from bds.report.study_charts import Chart, named_apart
from bds.report.study_document import Study
from bds.report.study_findings import grade_sentence
from bds.report.study_further_pictures import category_chart, composition_charts, grade_chart, overlap_charts
from bds.report.study_pictures import defence_charts, dose_charts, rate_charts, selection_charts, transfer_charts
from bds.report.study_tables import (
    Table,
    audit_table,
    averages_table,
    cells_table,
    curve_table,
    defence_table,
    evaluation_table,
    finetune_table,
    grade_table,
    judge_table,
    matrix_table,
    weights_table,
)
from bds.report.study_verdict import leading
from bds.report.study_words import EXPLAINED, GRADES, name_of

TEMPLATE = "study.html.j2"
CHARTS_OPEN = 4
"""Charts of a section before the rest is folded."""


@dataclass(frozen=True)
class Charts:
    """The pictures of a study by section."""

    transfer: list[Chart]
    selections: list[Chart]
    doses: list[Chart]
    rates: list[Chart]
    defences: list[Chart]
    detectors: list[Chart]
    compositions: list[Chart]
    categories: list[Chart]
    grades: list[Chart]

    @property
    def all(self) -> list[Chart]:
        return [chart for name in self.__dataclass_fields__ for chart in getattr(self, name)]


@dataclass(frozen=True)
class Titled:
    title: str
    table: Table


def study_charts(study: Study) -> Charts:
    """All pictures, with file names that differ."""
    found: dict[str, Sequence[Chart | None]] = {
        "transfer": transfer_charts(study),
        "selections": [chart for series in study.series for chart in selection_charts(study, series)],
        "doses": dose_charts(study),
        "rates": rate_charts(study),
        "defences": defence_charts(study),
        "detectors": overlap_charts(study),
        "compositions": composition_charts(study),
        "categories": [category_chart(study, series) for series in study.series],
        "grades": [grade_chart(study)],
    }
    named = iter(named_apart([chart for charts in found.values() for chart in charts if chart is not None]))
    return Charts(**{name: [next(named) for chart in charts if chart is not None] for name, charts in found.items()})


def render_study(study: Study, charts: Charts) -> str:
    """The report as one HTML document that loads nothing and runs no script."""
    document = study.document
    main = study.main
    return page_template(TEMPLATE).render(
        study=study,
        document=document,
        verdict=document["verdict"],
        what=_what(study),
        main=main,
        main_name="" if main is None else name_of(main),
        explained=EXPLAINED if main is not None and main.metric == "attack_success" else "",
        interval=interval_name(study.confidence),
        tiles=tiles(study),
        charts=charts,
        opening=_opening(charts),
        charts_open=CHARTS_OPEN,
        averages=averages_table(study),
        matrices=matrix_tables(study),
        cells=[
            Titled(f"{target}, {series.suite}", cells_table(study, target, series)) for target, series in _own(study)
        ],
        doses=curve_table(study, document["doses"]) if document["doses"] else None,
        rates=curve_table(study, document["rates"]) if document["rates"] else None,
        defences=defence_tables(study),
        audits=audit_table(study),
        weights=weights_table(study),
        grades=grade_table(study),
        grade_sentences=[grade_sentence(graded, study.confidence) for graded in document["grades"]],
        bands=_bands(),
        judges=judge_table(study),
        finetunes=finetune_table(study),
        evaluations=evaluation_table(study),
        blocks=blocks(study),
        selections=[(name, study.selected(name), own) for name, own in document["selections"].items()],
    )


def tiles(study: Study) -> list[Tile]:
    """The headline numbers: the leading difference, how many are significant, what was done, what is missing."""
    found = []
    main = study.main
    first = leading(study, main) if main is not None else None
    if main is not None and first is not None:
        words = words_of(main.metric)
        cell = study.cells[first["cell"]]
        values = f"{words.value(first['value_a'])} against {words.value(first['value_b'])} with the control"
        found.append(
            Tile(
                words.difference(first["difference"]),
                "largest significant difference" if first["significant"] else "largest difference, not significant",
                f"{study.label(cell, target=True)}: {values}",
            )
        )
        own = study.primary(main)
        worse = sum(each["significant"] and each["difference"] > 0 for each in own)
        found.append(
            Tile(
                f"{wording.count(worse)} of {wording.count(len(own))}",
                "comparisons show more than the control",
                f"{main.suite}; Holm's adjustment for all comparisons of the study",
            )
        )
    finished = sum(run["finished"] for run in study.document["finetunes"])
    if finished:
        seconds = sum(run["seconds"] for run in study.document["finetunes"])
        found.append(
            Tile(
                wording.count(finished),
                "fine-tunes",
                f"{wording.amount(len(study.cells), 'cell')}, {wording.duration(seconds)} of training",
            )
        )
    missing = len(study.incomplete)
    found.append(
        Tile(
            f"{wording.count(missing)} of {wording.count(len(study.cells))}",
            "cells lack measurements",
            f"{wording.amount(len(study.failures), 'step')} failed",
        )
    )
    return found


def matrix_tables(study: Study) -> list[Titled]:
    """The numbers of every transfer matrix."""
    return [
        Titled(f"{study.input_label(each)}, {each['suite']} by {each['judge']}", matrix_table(study, each))
        for each in study.matrices
    ]


def defence_tables(study: Study) -> list[Titled]:
    return [
        Titled(
            f"{chart['target']}: {study.input_label(chart)}{' by ' + chart['scorer'] if chart['scorer'] else ''}",
            defence_table(study, chart),
        )
        for chart in study.document["defences"]
    ]


def target_tables(study: Study) -> list[Titled]:
    """The cells of every target."""
    return [
        Titled(f"{target}: {name_of(series)}, {series.suite} by {series.judge}", cells_table(study, target, series))
        for target, series in _own(study)
    ]


def _opening(charts: Charts) -> list[Chart]:
    """Beside the verdict: who breaks whom and the grades; below a wide matrix there is room for one more."""
    first = charts.transfer[:1]
    further = [*charts.grades[:1], *charts.doses[:1], *charts.selections[:1]]
    return [*first, *further[: 2 if not first or first[0].is_wide else 1]]


def _own(study: Study) -> list[tuple[str, Any]]:
    return [(target, series) for series in study.series for target in study.targets]


def _bands() -> list[tuple[str, str]]:
    """Every grade with the rise that it stands for."""
    found = []
    start = None
    for end, name in GRADES:
        low = "" if start is None else f"{100 * start:g}"
        high = f"{100 * end:g}"
        told = f"less than {high} points" if start is None else f"{low} to {high} points"
        found.append((name, f"{low} points or more" if end > 1 else told))
        start = end
    return found


def _what(study: Study) -> str:
    document: Mapping[str, Any] = study.document
    scorers = {cell["scorer"] for cell in study.cells.values() if cell["scorer"] is not None}
    parts = [
        wording.amount(amount, noun)
        for amount, noun in (
            (len(scorers), "scorer"),
            (len(study.targets), "target model"),
            (len(document["datasets"]), "dataset"),
            (len(document["experiments"]), "experiment"),
            (len(document["seeds"]), "seed"),
        )
        if amount
    ]
    return wording.sentence_list(parts)
