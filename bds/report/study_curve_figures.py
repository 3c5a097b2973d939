"""Attack success over an amount: the number of samples, or the learning rate. One line for each way of choosing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bds.report.evaluation_words import MetricWords
from bds.report.figures import CONTROL, FLAGGED, MUTED, RULE, Picture, render
from bds.report.study_heat_maps import clipped
from bds.report.wording import count, learning_rate

MARKS = ("D", "o", "^", "v", "P", "X", "*")
COLORS = (FLAGGED, "#15803d", "#7e22ce", "#be185d", "#92400e", "#0f766e", "#334155")
DASHES = ((), (5, 1.6), (1.4, 1.2), (6, 1.6, 1.4, 1.6), (2.6, 1.2), (9, 2.2), (3, 3))
CONTROL_MARK, CONTROL_DASHES = "s", (4, 2)

SPREAD = 0.012
"""How far lines stand apart where they have points at the same amount, as a share of the axis."""

LEAST_TOP = 0.1
"""Of the axis of shares, so that nothing looks large that is not."""


@dataclass(frozen=True)
class Curve:
    name: str
    control: bool
    """Whether it is what the others are compared with."""
    points: Sequence[Mapping[str, Any]]
    """As study.json has them: value, low, high, by_seed and what they are drawn along."""


def curve_picture(
    title: str, curves: Sequence[Curve], along: str, words: MetricWords, *, base: float | None
) -> Picture:
    """Lines through the means with their intervals, a small dot for every seed; the amount on a logarithmic axis."""
    amounts = sorted({point[along] for curve in curves for point in curve.points})
    told = amount_told(along)
    ends = [
        end
        for curve in curves
        for point in curve.points
        for end in (point["value"], point["high"], *point["by_seed"].values())
        if end is not None
    ]
    top = max([LEAST_TOP, *ends])

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.set_xscale("log")
        axes.set_xlim(amounts[0] / 1.35, amounts[-1] * 1.35)
        axes.set_ylim(-0.02 * top, 1.06 * top)
        for place, (curve, style) in enumerate(styled(curves)):
            shift = (amounts[-1] * 1.8 / amounts[0]) ** (SPREAD * (place - (len(curves) - 1) / 2))
            known = [point for point in curve.points if point["value"] is not None]
            places = [point[along] * shift for point in known]
            for at, point in zip(places, known, strict=True):
                if point["low"] is not None and point["high"] is not None:
                    axes.vlines(at, point["low"], point["high"], color=style.color, linewidth=1.3, alpha=0.7)
                seeds = [value for value in point["by_seed"].values() if value is not None]
                if len(seeds) > 1:
                    axes.plot(
                        [at] * len(seeds),
                        seeds,
                        "o",
                        markersize=3.6,
                        markerfacecolor="white",
                        markeredgecolor=style.color,
                        markeredgewidth=0.9,
                        zorder=4,
                    )
            axes.plot(
                places,
                [point["value"] for point in known],
                color=style.color,
                linestyle=(0, style.dashes) if style.dashes else "-",
                linewidth=1.8,
                marker=style.mark,
                markersize=6,
                label=clipped(curve.name, 44),
                zorder=3,
            )
        if base is not None:
            axes.axhline(base, color=MUTED, linestyle=":", linewidth=1.2, label="before fine-tuning", zorder=1)
        axes.minorticks_off()
        axes.set_xticks(amounts, [told(amount) for amount in amounts])
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value, words)))
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", color=RULE)
        axes.set_ylabel("attack success" if words.is_share else words.name, fontsize=9, color=MUTED)
        axes.set_xlabel(f"{along.replace('_', ' ')} (log scale)", loc="right", fontsize=9, color=MUTED)
        figure.legend(loc="outside upper left", frameon=False, fontsize=9, ncols=1 if len(curves) < 5 else 2)

    legend = len(curves) + (base is not None)
    rows = legend if len(curves) < 5 else (legend + 1) // 2
    lines = "; ".join(
        f"{curve.name}: "
        + ", ".join(f"{words.value(point['value'])} at {told(point[along])}" for point in curve.points)
        for curve in curves
    )
    return render(draw, 4.7, 2.7 + 0.2 * rows, f"{title}. {lines}.")


def amount_told(along: str) -> Callable[[float], str]:
    """How an amount is written: 1,000 samples, a learning rate of 5e−5."""
    return count if along == "samples" else learning_rate


@dataclass(frozen=True)
class Style:
    color: str
    dashes: tuple[float, ...]
    mark: str


def styled(curves: Sequence[Curve]) -> list[tuple[Curve, Style]]:
    """Controls blue and dashed with squares, the others each in a colour, dashes and mark of their own."""
    found = []
    ranked = 0
    for curve in curves:
        if curve.control:
            found.append((curve, Style(CONTROL, CONTROL_DASHES, CONTROL_MARK)))
            continue
        at = ranked % len(COLORS)
        found.append((curve, Style(COLORS[at], DASHES[at], MARKS[at])))
        ranked += 1
    return found


def _tick(value: float, words: MetricWords) -> str:
    if value < 0:
        return ""
    return f"{100 * value:.3g} %" if words.is_share else f"{value:.3g}"
