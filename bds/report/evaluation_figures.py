"""The pictures of an evaluation: a line for each group, its name and numbers above, so that they read on a phone.

Blue is the baseline and what lowers a rate, orange what is compared with it and what raises one; shapes say the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bds.report.evaluation_words import MetricWords
from bds.report.figures import CONTROL, FLAGGED, INK, MUTED, RULE, Picture, render

WIDTH = 4.7
LINE = 0.42
"""Inches of a group: its text and, below, its marks."""

LANE = (0.46, 0.86)
"""The part of a group's line that holds its marks, from the top; rules and the baseline keep to it, off the text."""

MARKS = 0.66

NAME_CHARACTERS = 34
LEAST_SPAN = 0.1
"""Of an axis of shares, so that nothing looks large that is not."""


@dataclass(frozen=True)
class RateLine:
    """One group's rate."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    seeds: tuple[float, ...]
    """Values by seed; fewer than two are not drawn, being the value itself."""
    worst: tuple[float, float] | None
    """Where the value may lie whatever the missing verdicts are; drawn where it is not one point."""
    baseline: bool
    repeat: bool
    """The baseline's weights once more."""


@dataclass(frozen=True)
class ContrastLine:
    """One group's difference from the baseline."""

    name: str
    difference: float | None
    low: float | None
    high: float | None
    significant: bool


def rate_picture(
    title: str, lines: Sequence[RateLine], words: MetricWords, scale: tuple[float, float] | None
) -> Picture:
    """Rates with their intervals, seeds as dots, the baseline's value drawn through; from 0, or over the scale."""
    baseline = next((line.value for line in lines if line.baseline), None)
    left, right = scale or _span(lines)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.set_xlim(left, right)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value, words)))
        _frame(axes, len(lines))
        if baseline is not None and len(lines) > 1:
            _across(axes, [baseline], len(lines), CONTROL)
        for place, line in enumerate(lines):
            color = CONTROL if line.baseline or line.repeat else FLAGGED
            at = place + MARKS
            if line.worst is not None and line.worst[0] < line.worst[1]:
                axes.hlines(at, *line.worst, color=MUTED, alpha=0.35, linewidth=9)
            if line.low is not None and line.high is not None:
                axes.hlines(at, line.low, line.high, color=color, linewidth=2.2)
            if len(line.seeds) > 1:
                _mark(axes, line.seeds, at, "o", color, size=4.5, hollow=True)
            if line.value is not None:
                _mark(axes, [line.value], at, "s" if line.baseline else "D", color)
            told = words.value(line.value) if line.value is not None else "not scored"
            _text(axes, place, line.name, told, muted=line.value is None)

    told = "; ".join(
        f"{line.name} "
        + ("not scored" if line.value is None else words.value(line.value))
        + (f" ({words.interval(line.low, line.high)})" if line.low is not None else "")
        for line in lines
    )
    return render(draw, WIDTH, _height(len(lines)), f"{title}: {told}.")


def contrast_picture(title: str, lines: Sequence[ContrastLine], words: MetricWords) -> Picture:
    """A forest plot: differences with their intervals beside a line at no difference; hollow where not significant."""
    ends = [end for line in lines for end in (line.difference, line.low, line.high) if end is not None]
    margin = 0.06 * max((max(ends, default=0.0) - min(ends, default=0.0)), LEAST_SPAN)
    left, right = min([0.0, *ends]) - margin, max([0.0, *ends]) + margin

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.set_xlim(left, right)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _difference_tick(value, words)))
        _frame(axes, len(lines))
        _across(axes, [0.0], len(lines), INK)
        for place, line in enumerate(lines):
            at = place + MARKS
            if line.difference is not None:
                color = MUTED if not line.significant else FLAGGED if line.difference > 0 else CONTROL
                if line.low is not None and line.high is not None:
                    axes.hlines(at, line.low, line.high, color=color, linewidth=2.0)
                _mark(axes, [line.difference], at, "D", color, hollow=not line.significant)
            _text(axes, place, line.name, _difference(line, words), muted=line.difference is None)

    told = "; ".join(f"{line.name} {_difference(line, words)}{_firmness(line)}" for line in lines)
    return render(draw, WIDTH, _height(len(lines)), f"{title}: {told}.")


def _span(lines: Sequence[RateLine]) -> tuple[float, float]:
    ends = [end for line in lines for end in (line.value, line.high, *line.seeds, *(line.worst or ())) if end]
    highest = max([LEAST_SPAN, *ends])
    return 0.0, min(1.0, 1.04 * highest) if highest <= 1 else 1.04 * highest


def _mark(
    axes: Axes, values: Sequence[float], at: float, shape: str, color: str, *, size: float = 6.5, hollow: bool = False
) -> None:
    """Whole where a value is at an end of the axis, and above the lines."""
    axes.plot(
        values,
        [at] * len(values),
        shape,
        markersize=size,
        markerfacecolor="white" if hollow else color,
        markeredgecolor=color,
        markeredgewidth=1.2,
        clip_on=False,
        zorder=3,
    )


def _text(axes: Axes, place: int, name: str, told: str, *, muted: bool) -> None:
    color = MUTED if muted else INK
    across = axes.get_yaxis_transform()  # x from 0 to 1 over the width
    axes.text(0, place + 0.02, shortened(name), transform=across, ha="left", va="top", fontsize=9.5, color=color)
    axes.text(
        1, place + 0.02, told, transform=across, ha="right", va="top", fontsize=9.5, color=color, fontweight="bold"
    )


def shortened(name: str) -> str:
    """A long name without its middle: names of a study often differ at both ends."""
    if len(name) <= NAME_CHARACTERS:
        return name
    kept = NAME_CHARACTERS - 1
    return f"{name[: kept // 2]}…{name[-(kept - kept // 2) :]}"


def _frame(axes: Axes, lines: int) -> None:
    axes.set_ylim(lines, -0.05)
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 2.5, 5, 10)))
    left, right = axes.get_xlim()
    _across(axes, [tick for tick in axes.get_xticks() if left <= tick <= right], lines, RULE)
    axes.hlines(range(1, lines), 0, 1, transform=axes.get_yaxis_transform(), color=RULE, linewidth=0.8)


def _across(axes: Axes, values: Sequence[float], lines: int, color: str) -> None:
    """Vertical rules at the values, in every group's lane."""
    for place in range(lines):
        axes.vlines(values, place + LANE[0], place + LANE[1], color=color, linewidth=1.0, zorder=1)


def _height(lines: int) -> float:
    return 0.42 + LINE * lines


def _tick(value: float, words: MetricWords) -> str:
    return f"{100 * value:.3g} %" if words.is_share else f"{value:.3g}"


def _difference_tick(value: float, words: MetricWords) -> str:
    told = f"{100 * value if words.is_share else value:+.3g}".replace("-", "−")
    return "0" if value == 0 else told


def _difference(line: ContrastLine, words: MetricWords) -> str:
    if line.difference is None:
        return "not measured"
    interval = words.difference_interval(line.low, line.high)
    return words.bare_difference(line.difference) + (f" ({interval})" if interval else "")


def _firmness(line: ContrastLine) -> str:
    return ", significant" if line.significant else ""
