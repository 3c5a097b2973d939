"""The page of an evaluation: its metrics gathered into pictures and tables, then rendered by one Jinja template."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bds.report import wording
from bds.report.evaluation_cautions import LOUD_UNSCORED, is_loud, unscored_share, worst_case
from bds.report.evaluation_figures import ContrastLine, RateLine, contrast_picture, rate_picture
from bds.report.evaluation_measured import Measured, Series
from bds.report.evaluation_tables import category_grids, families, speed_facts, unscored_rows, utility_grid
from bds.report.evaluation_verdict import leading, opposite
from bds.report.evaluation_words import KINDS, interval_name, is_plain, is_worse, words_of
from bds.report.figures import Picture
from bds.report.page import Tile
from bds.report.rendering import page_template

TEMPLATE = "evaluation.html.j2"
PICTURES_OPENING = 2
"""Series drawn beside the verdict: what should not be answered, and over-refusal."""


@dataclass(frozen=True)
class Titled:
    """A picture of one series."""

    title: str
    judge: str
    suite: str
    picture: Picture


def render_evaluation(metrics: Mapping[str, Any]) -> str:
    """The report as one HTML document that loads nothing and runs no script."""
    measured = Measured(metrics)
    opening = measured.mains[:PICTURES_OPENING]
    others = [series for series in measured.series if series not in opening and _is_worth_drawing(measured, series)]
    return page_template(TEMPLATE).render(
        metrics=metrics,
        verdict=metrics["verdict"],
        measured=measured,
        what=_what(measured),
        interval=interval_name(measured.confidence),
        tiles=tiles(measured),
        opening=[_rates(measured, series) for series in opening if measured.groups],
        rates=[_rates(measured, series) for series in others if measured.groups],
        contrasts=[_contrasts(measured, series) for series in measured.contrasted if series in measured.mains],
        further_contrasts=[
            _contrasts(measured, series)
            for series in measured.contrasted
            if series not in measured.mains and _is_worth_drawing(measured, series)
        ],
        families=families(measured),
        any_worst=any(_worst(measured, series, name) for series in measured.series for name in measured.groups),
        any_scored=any(measured.values(series) for series in measured.series),
        any_seeds=any(group["seeds"] > 1 for group in metrics["groups"]),
        categories=category_grids(measured),
        unscored=unscored_rows(measured),
        loud=any(is_loud(measured, series) for series in measured.series),
        loud_share=LOUD_UNSCORED,
        utility=utility_grid(measured),
        kinds=KINDS,
        words_of=words_of,
        speed=speed_facts(metrics["speed"]),
    )


def tiles(measured: Measured) -> list[Tile]:
    """The headline numbers: the leading group's rate, the same of over-refusal, how many are worse, what is missing."""
    main = measured.main
    if main is None:
        return []
    own = measured.compared(main)
    first = leading(own)
    found = []
    for series in measured.mains[:PICTURES_OPENING] if first else []:
        contrast = next((each for each in measured.compared(series) if first and each["a"] == first["a"]), None)
        if contrast is not None:
            words = words_of(series.metric)
            found.append(
                Tile(
                    words.value(contrast["value_a"]),
                    words.noun,
                    f"with {contrast['a']}; {words.value(contrast['value_b'])} with {contrast['b']}",
                )
            )
    if len(own) > 1:
        worse = len([contrast for contrast in own if is_worse(contrast)])
        found.append(
            Tile(f"{worse} of {len(own)}", f"groups are worse than {opposite(own)}", f"significantly, on {main.suite}")
        )
    prompts = sum(each["prompts"] for name in measured.groups for each in measured.rates(main, name))
    if prompts:
        missing = sum(each["unscored"] for name in measured.groups for each in measured.rates(main, name))
        found.append(
            Tile(
                wording.percent(missing / prompts),
                "of the prompts have no verdict",
                f"{wording.count(missing)} of {wording.count(prompts)} by {main.judge} on {main.suite}",
            )
        )
    return found


def _what(measured: Measured) -> str:
    parts = [
        wording.amount(len(found), noun)
        for found, noun in (
            (measured.conditions, "condition"),
            (measured.suites, "suite"),
            ([judge for judge in measured.judges.values() if not is_plain(judge)], "judge"),
        )
        if found
    ]
    return wording.sentence_list(parts)


def _is_worth_drawing(measured: Measured, series: Series) -> bool:
    """Whether it is more than that no answer of any group repeats itself, which the tables say."""
    return series.metric != "degenerate" or any(measured.values(series))


def _title(series: Series) -> str:
    noun = words_of(series.metric).noun
    return f"{noun[0].upper()}{noun[1:]}"


def _rates(measured: Measured, series: Series) -> Titled:
    words = words_of(series.metric)
    lines = []
    for name in measured.groups:
        group = measured.group(series, name)
        if group is None:
            continue
        seeds = [value for _, value in sorted(group["by_seed"].items()) if value is not None]
        lines.append(
            RateLine(
                measured.called(name),
                group["value"],
                group["low"],
                group["high"],
                tuple(seeds),
                _worst(measured, series, name),
                name == measured.baseline,
                name in measured.repeats,
            )
        )
    title = f"{_title(series)}, {series.suite} by {series.judge}"
    scale = None if words.is_share else measured.scale(series)
    return Titled(_title(series), series.judge, series.suite, rate_picture(title, lines, words, scale))


def _worst(measured: Measured, series: Series, group: str) -> tuple[float, float] | None:
    """None where every prompt has its verdict."""
    return worst_case(measured, series, group) if unscored_share(measured, series, group) else None


def _contrasts(measured: Measured, series: Series) -> Titled:
    words = words_of(series.metric)
    lines = [
        ContrastLine(
            _compared(measured, contrast),
            contrast["difference"],
            contrast["low"],
            contrast["high"],
            contrast["significant"],
        )
        for contrast in measured.of_series(series)
    ]
    title = f"Difference in the {words.noun}, {series.suite} by {series.judge}"
    return Titled(_title(series), series.judge, series.suite, contrast_picture(title, lines, words))


def _compared(measured: Measured, contrast: Mapping[str, Any]) -> str:
    if contrast["b"] == measured.baseline:
        return measured.called(contrast["a"])
    return f"{contrast['a']} against {contrast['b']}" + (" (A/A)" if measured.is_repeat(contrast) else "")
