"""The block of every cell: what it is, all that was measured of it, and where the rows of each number are."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from bds.report.evaluation_measured import Series
from bds.report.evaluation_words import words_of
from bds.report.study_document import BASE, CONTROL, NO_MITIGATION, UNMITIGATED, Study
from bds.report.study_tables import Linked, Table
from bds.report.study_words import measure_of
from bds.report.wording import UNMEASURED, count, learning_rate, number, p_value

AGAINST = {CONTROL: "control", BASE: "before fine-tuning", UNMITIGATED: "without the mitigation"}

STORED = {
    "attack_success": ("refused", '1 - pl.col("value")'),
    "over_refusal": ("refused", ""),
    "harmfulness_score": ("score", ""),
    "harmfulness_rate": ("score", '(pl.col("value") == 5).cast(pl.Float64)'),
}
"""By reported metric, what rows.parquet measures instead, and how the reported value follows; others stand there."""


@dataclass(frozen=True)
class Page:
    """A page or file of a run below the study."""

    name: str
    href: str


@dataclass(frozen=True)
class Block:
    anchor: str
    title: str
    summary: str
    facts: list[tuple[str, str]]
    conditions: Sequence[str]
    pages: list[Page]
    measured: Table | None
    contrasts: Table | None
    rows: str | None
    """The code that selects the rows of the headline."""


def blocks(study: Study) -> list[Block]:
    """Of every target before fine-tuning, then of every cell."""
    return [
        *(_base(study, target) for target in study.targets),
        *(_block(study, cell) for cell in study.cells.values()),
    ]


def rows_code(target: str, conditions: Sequence[str], series: Series) -> str:
    """The polars expression that reads the rows of a number, one for every answer; their values are the number's."""
    metric, value = STORED.get(series.metric, (series.metric, ""))
    return (
        "import polars as pl\n"
        "\n"
        f"pl.read_parquet({_text(f'evaluations/{target}/rows.parquet')}).filter(\n"
        f'    pl.col("condition").is_in([{", ".join(_text(name) for name in conditions)}]),\n'
        f'    pl.col("suite") == {_text(series.suite)},\n'
        f'    pl.col("judge") == {_text(series.judge)},\n'
        f'    pl.col("metric") == {_text(metric)},\n'
        ")" + (f".with_columns(value={value})" if value else "")
    )


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _base(study: Study, target: str) -> Block:
    told = study.targets[target]
    evaluated = bool(told["evaluated"])
    return Block(
        anchor=study.base_anchor(target),
        title=f"{target} before fine-tuning",
        summary="" if evaluated else "not evaluated",
        facts=[("Model", study.document["models"].get(target, UNMEASURED))],
        conditions=[target] if evaluated else [],
        pages=_evaluation_pages(study, target),
        measured=_measured_table(told["measured"]),
        contrasts=None,
        rows=_rows(study, target, [target] if evaluated else []),
    )


def _block(study: Study, cell: Mapping[str, Any]) -> Block:
    own = [each for each in study.contrasts if each["cell"] == cell["id"] and each["difference"] is not None]
    missing = study.missing(cell)
    summary = f"{count(missing)} of {count(cell['wanted'])} fine-tunes missing" if missing > 0 else ""
    return Block(
        anchor=study.anchor(cell["id"]),
        title=f"{study.place(cell['id'])}. {study.label(cell, target=True)}",
        summary=summary or ("" if cell["measured"] else "not measured"),
        facts=_facts(study, cell),
        conditions=cell["conditions"],
        pages=_pages(study, cell),
        measured=_measured_table(cell["measured"]),
        contrasts=_contrast_table(study, own),
        rows=_rows(study, cell["target"], cell["conditions"]) if cell["measured"] else None,
    )


def _facts(study: Study, cell: Mapping[str, Any]) -> list[tuple[str, str]]:
    chosen = f" by {cell['scorer']}" if cell["scorer"] is not None else ""
    facts = [
        ("Id", cell["id"]),
        ("Fine-tuned model", cell["target"]),
        ("Dataset", cell["dataset"]),
        ("Selection", f"{cell['selection']}{chosen}: {study.selected(cell['selection'])}"),
        ("Recipe", f"{cell['recipe']}, learning rate {learning_rate(cell['learning_rate'])}"),
        ("Samples and steps", f"{count(cell['samples'])} samples, {count(cell['steps'])} steps"),
        ("Last training loss", number(cell["final_loss"])),
        ("Fine-tunes measured", f"{count(len(cell['conditions']))} of {count(cell['wanted'])}"),
        ("Asked for by", ", ".join(cell["experiments"])),
    ]
    if cell["mitigation"] != NO_MITIGATION:
        facts.insert(5, ("Mitigation", cell["mitigation"]))
    if cell["then"]:
        facts.insert(5, ("Further stages", f"of {cell['then']}"))
    return facts


def _pages(study: Study, cell: Mapping[str, Any]) -> list[Page]:
    run = f"{cell['target']}+{cell['then']}" if cell["then"] else cell["target"]
    finetunes = [each for each in study.document["finetunes"] if each["name"] == run]
    audits = [each for each in study.document["audits"] if each["dataset"] == cell["dataset"]]
    # Rows that no scores chose are those of the dataset's first audit.
    own = [each for each in audits if each["scorer"] == cell["scorer"]] if cell["scorer"] is not None else audits[:1]
    return [
        *_evaluation_pages(study, cell["target"]),
        *(Page(f"fine-tunes of {each['name']}", quote(each["page"])) for each in finetunes),
        *(
            Page(f"audit of {each['dataset']} by {each['scorer']}", quote(each["page"]))
            for each in own
            if cell["kind"] != "whole"
        ),
    ]


def _evaluation_pages(study: Study, target: str) -> list[Page]:
    found = [each for each in study.document["evaluations"] if each["target"] == target]
    return [
        page
        for each in found
        for page in (
            Page(f"evaluation of {target}", quote(each["page"])),
            Page("rows.parquet", quote(f"evaluations/{target}/rows.parquet")),
        )
    ]


def _rows(study: Study, target: str, conditions: Sequence[str]) -> str | None:
    main = study.main
    return None if main is None or not conditions else rows_code(target, conditions, main)


def _measured_table(measured: Sequence[Mapping[str, Any]]) -> Table | None:
    rows = []
    for each in measured:
        words = words_of(each["metric"])
        seeds = ", ".join(
            f"{words.value(value)} (seed {name})" for name, value in each["by_seed"].items() if value is not None
        )
        rows.append(
            (
                Linked(measure_of(each["metric"]), note="headline" if each["headline"] else ""),
                Linked(each["suite"]),
                Linked(each["judge"]),
                Linked(seeds if len(each["by_seed"]) > 1 else UNMEASURED),
                Linked(each["method"] or UNMEASURED),
                Linked(words.value(each["value"]), None, words.interval(each["low"], each["high"])),
                Linked(count(each["unscored"])),
            )
        )
    head = ("Measure", "suite", "judge", "each seed", "interval by", "mean", "not scored")
    return Table(head, rows, words=4) if rows else None


def _contrast_table(study: Study, contrasts: Sequence[Mapping[str, Any]]) -> Table | None:
    rows = []
    for each in contrasts:
        words = words_of(each["metric"])
        other = study.cells.get(each["other"])
        anchor = study.base_anchor(each["other"]) if other is None else study.anchor(other["id"])
        level = "" if not each["significant"] else "more" if each["difference"] > 0 else "fewer"
        mark = {"": "", "more": " ▲", "fewer": " ▼"}[level]
        rows.append(
            (
                Linked(AGAINST[each["with"]], anchor),
                Linked(measure_of(each["metric"])),
                Linked(each["suite"]),
                Linked(each["judge"]),
                Linked(words.value(each["value_b"]), anchor),
                Linked(
                    words.bare_difference(each["difference"]) + mark,
                    None,
                    words.difference_interval(each["low"], each["high"]),
                    level if words.higher_is_worse else "",
                ),
                Linked(p_value(each["p"])),
                Linked(p_value(each["p_adjusted"]), None, each["adjustment"]),
                Linked(count(each["prompts"])),
            )
        )
    head = ("Against", "measure", "suite", "judge", "its value", "difference", "p", "p, adjusted", "prompts")
    return Table(head, rows, words=3) if rows else None
