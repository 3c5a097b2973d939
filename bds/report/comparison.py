"""What two evaluations say of one another: the text of `bds compare`, and a page of the same contrasts."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bds.report.evaluation_measured import Measured
from bds.report.evaluation_verdict import evaluation_verdict
from bds.report.evaluation_words import interval_name, outcome, words_of
from bds.report.wording import listed, p_value

NO_PARTS: dict[str, Any] = {
    "baseline": None,
    "speed": {},
    **{part: [] for part in ("conditions", "suites", "judges", "answers", "rates", "groups")},
    **{part: [] for part in ("non_inferiority", "agreement", "utility")},
}
"""What a comparison has not got of an evaluation."""


def comparison_metrics(comparison: Mapping[str, Any], primary_judge: str, confidence: float) -> dict[str, Any]:
    """A comparison as the metrics of an evaluation that measured nothing but differences, with their verdict.

    Args:
        comparison: "contrasts" and "compared", as compare.json has them.
        primary_judge: the judge of the headline.
    """
    compared = comparison["compared"]
    metrics = {
        **NO_PARTS,
        "name": f"{compared['a']} against {compared['b']}",
        "primary_judge": primary_judge,
        "confidence": confidence,
        **comparison,
    }
    verdict = evaluation_verdict(metrics)
    return {**metrics, "verdict": {**verdict, "cautions": [*verdict["cautions"], *_left_out(compared)]}}


def _left_out(compared: Mapping[str, Any]) -> Iterator[str]:
    """What only one of the runs has."""
    for side in ("a", "b"):
        found = compared[f"only_in_{side}"]
        names = [f"the {part[:-1]} {name}" for part in ("suites", "judges") for name in found[part]]
        if names:
            yield f"Only {compared[side]} has {listed(names)}: left out."


def comparison_text(metrics: Mapping[str, Any]) -> str:
    """The headline, a table for each suite, judge and metric, and what to read with care; for a terminal.

    Args:
        metrics: of `comparison_metrics`, or of an evaluation.
    """
    measured = Measured(metrics)
    verdict = metrics["verdict"]
    lines = [verdict["headline"], *(f"- {finding}" for finding in verdict["findings"])]
    for series in measured.series:
        own = measured.of_series(series)
        if own:
            lines += ["", f"{words_of(series.metric).name} on {series.suite} by {series.judge}"]
            lines += _table(measured, own)
    if verdict["cautions"]:
        lines += ["", "Read with care:", *(f"- {caution}" for caution in verdict["cautions"])]
    return "\n".join(lines)


def comparison_page(metrics: Mapping[str, Any]) -> str:
    """The same as one HTML document that loads nothing."""
    from bds.report.evaluation_page import render_evaluation  # matplotlib and Jinja take half a second to import

    return render_evaluation(metrics)


def _table(measured: Measured, contrasts: Sequence[Mapping[str, Any]]) -> list[str]:
    head = ("", "from", "to", "difference", interval_name(measured.confidence), "p adjusted", "seeds x prompts", "")
    rows = [head, *(_row(contrast, measured.is_repeat(contrast)) for contrast in contrasts)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [f"  {_aligned(row, widths)}".rstrip() for row in rows]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    """The first and the last cell to the left, numbers to the right."""
    ends = (0, len(row) - 1)
    cells = enumerate(zip(row, widths, strict=True))
    return "  ".join(cell.ljust(width) if place in ends else cell.rjust(width) for place, (cell, width) in cells)


def _row(contrast: Mapping[str, Any], is_repeat: bool) -> tuple[str, ...]:
    words = words_of(contrast["metric"])
    return (
        f"{contrast['a']} against {contrast['b']}",
        words.value(contrast["value_b"]),
        words.value(contrast["value_a"]),
        words.bare_difference(contrast["difference"]),
        words.difference_interval(contrast["low"], contrast["high"]) or "-",
        p_value(contrast["p_adjusted"]),
        f"{contrast['seeds']} x {contrast['prompts']}",
        outcome(contrast) + (" (A/A)" if is_repeat else ""),
    )
