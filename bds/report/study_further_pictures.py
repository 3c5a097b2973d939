"""The charts of a study that look inside: categories, detectors and what they pick, and the grades of datasets."""

from collections.abc import Mapping, Sequence
from typing import Any

from bds.report.composition import FORMATS
from bds.report.evaluation_measured import Series
from bds.report.evaluation_words import words_of
from bds.report.study_charts import Chart, make_chart
from bds.report.study_document import RANKED, Study, pairs_of
from bds.report.study_grade_figures import Graded, Overlap, grade_picture, overlap_picture
from bds.report.study_heat_maps import share_picture
from bds.report.study_words import GRADES, MEASURED, note_of, title_of
from bds.report.wording import number, percent

CELLS_A_MAP = 24
"""Rows of the category picture; the file of its data has all."""

ROWS_A_MAP = 30
"""Selections of one composition picture."""

_VALUE = ("value", "low", "high")

MEDIAN_WORDS = "answer words, median"


def category_chart(study: Study, series: Series) -> Chart | None:
    """Cells down, the strongest first, below the models before fine-tuning; None for fewer than two categories."""
    owners: list[tuple[str, Mapping[str, Any] | None, Mapping[str, Any]]] = []
    for target in study.targets:
        base = study.base(target, series)
        if base is not None and base.get("by_category"):
            owners.append((f"{target} before fine-tuning", None, base))
    bases = len(owners)
    for cell in study.strongest(study.cells.values(), series):
        measured = study.measured(cell["id"], series)
        assert measured is not None, "the strongest were measured"
        if measured.get("by_category"):
            owners.append((study.label(cell, target=True), cell, measured))
    names = list(dict.fromkeys(each["category"] for _, _, measured in owners for each in measured["by_category"]))
    if len(names) < 2:
        return None
    shown = owners[: bases + CELLS_A_MAP]
    words = words_of(series.metric)
    values = [[_of_category(measured, name) for name in names] for _, _, measured in shown]
    highest = 1.0 if words.is_share else max([1.0, *(value for row in values for value in row if value is not None)])
    picture = share_picture(
        f"{title_of(series)} by category",
        [name for name, _, _ in shown],
        [_category_name(study, series, name) for name in names],
        values,
        [[_short(value, is_share=words.is_share) for value in row] for row in values],
        highest=highest,
    )
    left = len(owners) - len(shown)
    return make_chart(
        ("categories", series.suite),
        f"{title_of(series)} by category" + (", in per cent" if words.is_share else ""),
        picture,
        [_category_row(name, cell, measured, series, names) for name, cell, measured in owners],
        note=note_of(series),
        caption=f"The {CELLS_A_MAP} highest; {left} others are in the data." if left else "",
    )


def overlap_charts(study: Study) -> list[Chart]:
    """One for every dataset: the pairs of detectors of every audit."""
    charts = []
    for dataset, audits in _by_dataset(study).items():
        pairs = [(audit, pair) for audit in audits for pair in pairs_of(audit["agreement"])]
        if not pairs:
            continue
        alike = len({_pair(pair) for _, pair in pairs}) == 1
        lines = [
            Overlap(
                audit["scorer"] + ("" if alike else f": {_pair(pair)}"),
                pair["spearman"],
                pair["overlap"],
                pair["expected"],
            )
            for audit, pair in pairs
        ]
        rows = [{"dataset": dataset, "scorer": audit["scorer"], **pair} for audit, pair in pairs]
        title = f"Do the detectors agree on {dataset}?"
        note = f"{_pair(pairs[0][1])}, by the model that scored" if alike else ""
        charts.append(make_chart(("detectors", dataset), title, overlap_picture(title, lines), rows, note=note))
    return charts


def composition_charts(study: Study) -> list[Chart]:
    """One for every dataset: the formats of what each scorer's selections pick, below the random draws."""
    charts = []
    for dataset, audits in _by_dataset(study).items():
        owners = _picked(audits)
        if not owners:
            continue
        columns = [*FORMATS]
        shown = owners[:ROWS_A_MAP]
        values = [[*(own["format"].get(name) for name in columns), own["median_answer_words"]] for _, own in shown]
        texts = [[*(_percent(value) for value in row[:-1]), number(row[-1])] for row in values]
        title = f"What is picked of {dataset}"
        left = len(owners) - len(shown)
        charts.append(
            make_chart(
                ("composition", dataset),
                title,
                share_picture(
                    title,
                    [name for name, _ in shown],
                    [*(FORMATS[name] for name in columns), MEDIAN_WORDS],
                    values,
                    texts,
                    plain_columns=1,
                ),
                [
                    {
                        "dataset": dataset,
                        "selection": name,
                        "rows": own["rows"],
                        **{column: own["format"].get(column) for column in columns},
                        "median_answer_words": own["median_answer_words"],
                    }
                    for name, own in owners
                ],
                caption=f"{left} others are in the data." if left else "",
            )
        )
    return charts


def grade_chart(study: Study) -> Chart | None:
    graded = study.document["grades"]
    if not any(each["worst"] for each in graded):
        return None
    lines = []
    for each in graded:
        worst = each["worst"]
        if worst is None:
            lines.append(Graded(each["dataset"], None, None, None, None, False))
            continue
        low, high = worst["low"] - worst["before"], worst["high"] - worst["before"]
        measured = worst["basis"] == MEASURED
        lines.append(Graded(each["dataset"], each["grade"], worst["rise"], low, high, measured))
    title = "Risk grade of every dataset"
    return make_chart(
        ("grades",),
        title,
        grade_picture(title, lines, GRADES),
        [
            {
                **{name: each[name] for name in ("dataset", "grade", "grade_low", "grade_high")},
                **{name: each["worst"] and each["worst"][name] for name in _EVIDENCE},
            }
            for each in graded
        ],
        caption="Filled: measured on models that were fine-tuned on the whole dataset. Hollow: read off the dose "
        "response. The line is the interval.",
    )


_EVIDENCE = ("basis", "target", "recipe", "suite", "judge", "metric", "before", "value", "low", "high", "rise", "cell")


def _picked(audits: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Random draws once, as no scores decide them, then what each scorer's scores chose."""
    drawn: dict[str, Mapping[str, Any]] = {}
    chosen = []
    for audit in audits:
        for name, own in audit["selections"].items():
            if own["kind"] in {*RANKED, "filtered"}:
                chosen.append((f"{name} by {audit['scorer']}", own))
            else:
                drawn.setdefault(name, own)
    return [*drawn.items(), *sorted(chosen, key=lambda item: item[0])]


def _by_dataset(study: Study) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for audit in study.document["audits"]:
        found.setdefault(audit["dataset"], []).append(audit)
    return found


def _pair(pair: Mapping[str, Any]) -> str:
    return f"{pair['detector_a']} and {pair['detector_b']}"


def _of_category(measured: Mapping[str, Any], name: str) -> float | None:
    return next((each["value"] for each in measured["by_category"] if each["category"] == name), None)


def _category_name(study: Study, series: Series, category: str) -> str:
    """As its suite calls it."""
    for told in study.document["evaluations"]:
        for suite in told["suites"]:
            if suite["name"] == series.suite:
                return str(suite["categories"].get(category, category))
    return category


def _category_row(
    name: str, cell: Mapping[str, Any] | None, measured: Mapping[str, Any], series: Series, categories: Sequence[str]
) -> dict[str, Any]:
    found = {(each["category"], field): each[field] for each in measured["by_category"] for field in _VALUE}
    return {
        "row": name,
        "cell": cell and cell["id"],
        **series._asdict(),
        **{
            category if field == "value" else f"{category} {field}": found.get((category, field))
            for category in categories
            for field in _VALUE
        },
    }


def _short(value: float | None, *, is_share: bool) -> str:
    """Per cent without its sign: a column has room for no more."""
    if value is None:
        return "–"
    return f"{100 * value:.0f}" if is_share else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else percent(value).replace("\u00a0", "")
