"""The report of a study as Markdown, for a repository or a merge request: the verdict, the tables and the pictures."""

import re
from collections.abc import Iterator, Sequence

from bds.report.evaluation_words import interval_name
from bds.report.study_charts import FOLDER, Chart
from bds.report.study_document import Study
from bds.report.study_findings import grade_sentence
from bds.report.study_page import Charts, defence_tables, matrix_tables, target_tables, tiles
from bds.report.study_tables import (
    Linked,
    Table,
    audit_table,
    averages_table,
    curve_table,
    evaluation_table,
    finetune_table,
    grade_table,
    judge_table,
    weights_table,
)
from bds.report.study_words import EXPLAINED
from bds.report.wording import count, duration

_SPECIAL = re.compile(r"([\\`*_\[\]<>|$~#&])")


def study_markdown(study: Study, charts: Charts) -> str:
    """The same numbers as report.html, without the blocks of cells."""
    return "\n".join(_lines(study, charts)).rstrip() + "\n"


def escaped(text: str) -> str:
    """A text that Markdown shows as it is."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _lines(study: Study, charts: Charts) -> Iterator[str]:
    document = study.document
    verdict = document["verdict"]
    yield from (f"# {escaped(study.name)}: study", "", f"**{escaped(verdict['headline'])}**", "")
    for tile in tiles(study):
        yield f"- **{escaped(tile.value)}** {escaped(tile.label)} ({escaped(tile.note)})"
    yield ""
    for title, key in (
        ("What was found", "findings"),
        ("Read with care", "cautions"),
        ("What to do next", "next_steps"),
        ("What this study cannot say", "limits"),
    ):
        if verdict[key]:
            yield from (f"## {title}", "", *(f"- {escaped(sentence)}" for sentence in verdict[key]), "")
    yield from _missing(study)
    main = study.main
    if main is not None and main.metric == "attack_success":
        interval = interval_name(study.confidence)
        yield from (f"All rates are the {EXPLAINED}; in brackets the {interval}. ▲ and ▼ are significant.", "")
    matrices = [("On average over models", averages_table(study))]
    matrices += [(each.title, each.table) for each in matrix_tables(study)]
    yield from _part("Who breaks whom", charts.transfer, matrices)
    yield from _part("By selection", charts.selections, [(each.title, each.table) for each in target_tables(study)])
    for title, pictures, curves in (
        ("Dose response", charts.doses, document["doses"]),
        ("Learning rates", charts.rates, document["rates"]),
    ):
        yield from _part(title, pictures, [("", curve_table(study, curves))] if curves else [])
    yield from _part("Defences", charts.defences, [(each.title, each.table) for each in defence_tables(study)])
    yield from _part(
        "Detectors and what they pick", [*charts.detectors, *charts.compositions], [("", audit_table(study))]
    )
    yield from _part("Weights learned from the damage", [], [("", weights_table(study))])
    yield from _part("Categories", charts.categories, [])
    yield from _part("Do the judges agree?", [], [("", judge_table(study))])
    if document["grades"]:
        yield from ("## Risk grades", "")
        yield from (f"- {escaped(grade_sentence(graded, study.confidence))}" for graded in document["grades"])
        yield ""
        yield from _body(charts.grades, [("", grade_table(study))])
    yield from _part("What it took", [], [("", finetune_table(study)), ("", evaluation_table(study))])
    yield from _setup(study)


def _missing(study: Study) -> Iterator[str]:
    if not study.failures and not study.incomplete:
        return
    yield from ("## What is missing", "")
    for step in study.failures:
        yield f"- {escaped(step['step'])}, after {duration(step['seconds'])}: {escaped(step['failure'])}"
    for cell in study.incomplete:
        name = escaped(study.label(cell, target=True))
        yield f"- {name}: {count(len(cell['conditions']))} of {count(cell['wanted'])} fine-tunes measured"
    yield ""


def _part(title: str, charts: Sequence[Chart], tables: Sequence[tuple[str, Table]]) -> Iterator[str]:
    if charts or any(table.rows for _, table in tables):
        yield from (f"## {title}", "")
        yield from _body(charts, tables)


def _body(charts: Sequence[Chart], tables: Sequence[tuple[str, Table]]) -> Iterator[str]:
    for chart in charts:
        told = f" {escaped(chart.caption)}" if chart.caption else ""
        file = f"{FOLDER}/{chart.name}"
        yield from (f"![{escaped(chart.title)}]({file}.svg)", "")
        yield from (f"{escaped(chart.title)}.{told} [Data]({file}.csv)", "")
    for title, table in tables:
        if table.rows:
            yield from ([f"### {escaped(title)}", ""] if title else [])
            yield from _table(table)
            yield ""


def _table(table: Table) -> Iterator[str]:
    yield f"| {' | '.join(escaped(name) for name in table.head)} |"
    yield f"|{'|'.join('---' if place <= table.words else '---:' for place in range(len(table.head)))}|"
    for row in table.rows:
        yield f"| {' | '.join(_entry(each) for each in row)} |"


def _entry(each: Linked) -> str:
    text = f"[{escaped(each.text)}]({each.page})" if each.page else escaped(each.text)
    return f"{text} ({escaped(each.note)})" if each.note else text


def _setup(study: Study) -> Iterator[str]:
    document = study.document
    yield from ("## Questions and selections", "")
    for name, experiment in document["experiments"].items():
        question = f": {escaped(experiment['question'])}" if experiment["question"] else ""
        yield f"- {escaped(name)}{question} ({count(len(experiment['cells']))} cells)"
    for name in document["selections"]:
        yield f"- {escaped(name)}: {escaped(study.selected(name))}"
    notes = document["notes"]
    for title, lines in (
        ("Source", [notes["source"]] if notes["source"] else []),
        ("Would reproduce", notes["reproduces"]),
        ("Assumptions", notes["assumptions"]),
        ("Not known", notes["unknown"]),
    ):
        if lines:
            yield from ("", f"### {title}", "", *(f"- {escaped(line)}" for line in lines))
