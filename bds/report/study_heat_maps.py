"""The heat maps of a study: who breaks whom, and what each fine-tune answers by category.

Numbers stand in every field, so that colour only helps; orange is more than the control, blue less.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bds.report.evaluation_words import MetricWords
from bds.report.figures import CONTROL, FLAGGED, INK, MUTED, RULE, Picture, render

LEAST_REACH = 0.1
"""Of a colour scale of differences of shares, so that noise is not drawn in strong colours."""

DARK = 0.78
"""Share of the colour scale from which a field's text is white."""

LABEL_CHARACTERS = 24
ROW_CHARACTERS = 44
_CHARACTER = 0.078
"""Inches of a letter of a label."""

_FIELD = (0.98, 0.56)
"""Inches of a field of the transfer matrix, wide enough for an interval below the number."""

SIGNIFICANT = "★"
DIFFERENCES = matplotlib.colors.LinearSegmentedColormap.from_list("differences", [CONTROL, "#ffffff", FLAGGED])
SHARES = matplotlib.colors.LinearSegmentedColormap.from_list("shares", ["#ffffff", FLAGGED])


def transfer_picture(title: str, matrix: Mapping[str, Any], words: MetricWords) -> Picture:
    """Scorers down, targets across; a frame where a model chose its own samples, a star where significant."""
    scorers, targets = matrix["scorers"], matrix["targets"]
    entries = {(each["scorer"], each["target"]): each for each in matrix["entries"]}
    sizes = [abs(each["difference"]) for each in matrix["entries"] if each["difference"] is not None]
    reach = max([LEAST_REACH, *sizes])
    wide, high = _FIELD
    longest = max((len(name) for name in targets), default=0)
    wide = max(wide, min(1.25, _CHARACTER * longest + 0.12))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for row, scorer in enumerate(scorers):
            for column, target in enumerate(targets):
                entry = entries.get((scorer, target))
                if entry is None or entry["difference"] is None:
                    _field(axes, row, column, RULE)
                    _number(axes, row, column, "not", "measured", MUTED)
                    continue
                share = entry["difference"] / reach
                _field(axes, row, column, matplotlib.colors.to_hex(DIFFERENCES((share + 1) / 2)))
                star = f" {SIGNIFICANT}" if entry["significant"] else ""
                number = f"{words.bare_difference(entry['difference'])}{star}"
                interval = words.difference_interval(entry["low"], entry["high"])
                _number(axes, row, column, number, interval, "white" if abs(share) > DARK else INK)
        for row, scorer in enumerate(scorers):
            if scorer in targets:
                corner = (targets.index(scorer) + 0.035, row + 0.035)
                axes.add_patch(Rectangle(corner, 0.93, 0.93, fill=False, edgecolor=INK, linewidth=2.2, zorder=4))
        _frame(axes, scorers, targets, wide)
        axes.set_xlabel("fine-tuned model", fontsize=9, color=MUTED, labelpad=9)
        axes.set_ylabel("chosen by", fontsize=9, color=MUTED)

    told = "; ".join(_transfer_told(each, words) for each in matrix["entries"])
    return render(
        draw,
        0.75 + _label_width(scorers) + wide * len(targets),
        0.55 + _column_height(targets, wide) + high * len(scorers),
        f"{title}. {told}.",
    )


def share_picture(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    texts: Sequence[Sequence[str]],
    *,
    highest: float = 1.0,
    plain_columns: int = 0,
) -> Picture:
    """Shares from 0 to 1, the stronger the colour the higher.

    Args:
        texts: what each field says.
        highest: the value of the strongest colour.
        plain_columns: how many of the last columns are numbers of another kind, without a colour.
    """
    coloured = len(columns) - plain_columns
    wide = 0.62

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for row, (own, told) in enumerate(zip(values, texts, strict=True)):
            for column, (value, text) in enumerate(zip(own, told, strict=True)):
                share = 0.0 if value is None or column >= coloured else min(1.0, max(0.0, value / highest))
                paper = matplotlib.colors.to_hex(SHARES(0.85 * share))
                _field(axes, row, column, RULE if value is None else paper if column < coloured else "none")
                color = MUTED if value is None else "white" if share > 0.9 * DARK else INK
                axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=8.5, color=color)
        _frame(axes, rows, columns, wide)

    told = "; ".join(
        f"{row}: " + ", ".join(f"{column} {text}" for column, text in zip(columns, own, strict=True))
        for row, own in zip(rows, texts, strict=True)
    )
    width = 0.3 + _label_width(rows) + wide * len(columns)
    return render(draw, width, 0.25 + _column_height(columns, wide) + 0.3 * len(rows), f"{title}. {told}.")


def clipped(name: str, characters: int = LABEL_CHARACTERS) -> str:
    """A long name without its middle."""
    if len(name) <= characters:
        return name
    kept = characters - 1
    return f"{name[: kept - kept // 2]}…{name[-(kept // 2) :]}"


def _field(axes: Axes, row: int, column: int, color: str) -> None:
    axes.add_patch(Rectangle((column, row), 1, 1, facecolor=color, edgecolor="white", linewidth=2))


def _number(axes: Axes, row: int, column: int, number: str, below: str, color: str) -> None:
    at = column + 0.5
    if not below:
        axes.text(at, row + 0.5, number, ha="center", va="center", fontsize=10, color=color, fontweight="bold")
        return
    axes.text(at, row + 0.36, number, ha="center", va="center", fontsize=10, color=color, fontweight="bold")
    axes.text(at, row + 0.72, below, ha="center", va="center", fontsize=6.8, color=color)


def _frame(axes: Axes, rows: Sequence[str], columns: Sequence[str], wide: float) -> None:
    axes.set_xlim(0, len(columns))
    axes.set_ylim(len(rows), 0)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.xaxis.set_ticks_position("top")
    axes.xaxis.set_label_position("top")
    axes.set_yticks([row + 0.5 for row in range(len(rows))], [clipped(name, ROW_CHARACTERS) for name in rows])
    names = [clipped(name) for name in columns]
    places = [column + 0.5 for column in range(len(columns))]
    if _slanted(columns, wide):
        axes.set_xticks(places, names, rotation=40, ha="left", rotation_mode="anchor")
    else:
        axes.set_xticks(places, names)


def _slanted(columns: Sequence[str], wide: float) -> bool:
    return max((len(name) for name in columns), default=0) * _CHARACTER > 0.95 * wide


def _label_width(names: Sequence[str]) -> float:
    return _CHARACTER * min(ROW_CHARACTERS, max((len(name) for name in names), default=0))


def _column_height(columns: Sequence[str], wide: float) -> float:
    if not _slanted(columns, wide):
        return 0.3
    longest = min(LABEL_CHARACTERS, max((len(name) for name in columns), default=0))
    return 0.3 + 0.65 * _CHARACTER * longest


def _transfer_told(entry: Mapping[str, Any], words: MetricWords) -> str:
    who = f"chosen by {entry['scorer']}, {entry['target']} fine-tuned:"
    if entry["difference"] is None:
        return f"{who} not measured"
    interval = words.difference_interval(entry["low"], entry["high"])
    firmness = ", significant" if entry["significant"] else ""
    return f"{who} {words.bare_difference(entry['difference'])}{f' ({interval})' if interval else ''}{firmness}"
