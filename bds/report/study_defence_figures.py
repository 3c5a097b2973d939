"""What a defence buys and costs: attack success over what it may cost, with every point named beside the picture."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bds.report.evaluation_words import MetricWords
from bds.report.figures import CONTROL, FLAGGED, INK, MUTED, RULE, Picture, render
from bds.report.study_heat_maps import clipped

LEAST_SPAN = 0.05
NAME_CHARACTERS = 22
NAME_LINE = 0.075
"""Height of a name beside the picture, as a share of its height, where names stand close."""


@dataclass(frozen=True)
class Point:
    name: str
    cost: tuple[float, float | None, float | None]
    """Value and interval across."""
    success: tuple[float, float | None, float | None]
    kind: str
    """base, undefended or defended."""


LOOKS = {"base": ("s", CONTROL), "undefended": ("X", FLAGGED), "defended": ("o", INK)}


def defence_picture(title: str, axis: str, points: Sequence[Point], cost: MetricWords, success: MetricWords) -> Picture:
    """Attack success up, what a defence costs across, intervals both ways; names at the right with lines to points."""
    ends = [end for point in points for end in point.cost if end is not None]
    margin = max(0.08 * (max(ends) - min(ends)), LEAST_SPAN / 2)
    left, right = max(-0.02, min(ends) - margin), min(1.02, max(ends) + margin)
    top = max([0.1, *(end for point in points for end in point.success if end is not None)])

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.set_xlim(left, right)
        axes.set_ylim(-0.04 * top, 1.06 * top)
        for point in points:
            mark, color = LOOKS[point.kind]
            x, left_end, right_end = point.cost
            y, low_end, high_end = point.success
            if left_end is not None and right_end is not None:
                axes.hlines(y, left_end, right_end, color=color, linewidth=1.1, alpha=0.55)
            if low_end is not None and high_end is not None:
                axes.vlines(x, low_end, high_end, color=color, linewidth=1.1, alpha=0.55)
            axes.plot(x, y, mark, color=color, markersize=8, markeredgecolor="white", clip_on=False, zorder=3)
        ordered = sorted(points, key=lambda point: (point.success[0], -point.cost[0]))
        heights = apart([(point.success[0] + 0.04 * top) / (1.10 * top) for point in ordered], NAME_LINE)
        for point, height in zip(ordered, heights, strict=True):
            axes.annotate(
                clipped(point.name, NAME_CHARACTERS),
                (point.cost[0], point.success[0]),
                (1.05, height),
                textcoords=axes.transAxes,
                ha="left",
                va="center",
                fontsize=9,
                color=LOOKS[point.kind][1],
                annotation_clip=False,
                arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.7, "linestyle": ":", "shrinkB": 5},
            )
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        for one, words in ((axes.xaxis, cost), (axes.yaxis, success)):
            one.set_major_formatter(FuncFormatter(lambda value, _, words=words: _tick(value, words)))
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", color=RULE)
        axes.set_ylabel("attack success", fontsize=9, color=MUTED)
        axes.set_xlabel(axis, loc="right", fontsize=9, color=MUTED)

    told = "; ".join(
        f"{point.name}: {success.value(point.success[0])} at {cost.value(point.cost[0])}" for point in points
    )
    height = max(2.9, 0.9 + 0.24 * len(points))
    return render(draw, 5.0, height, f"{title}. {told}.")


def apart(wanted: Sequence[float], gap: float) -> list[float]:
    """Ascending places as near to those wanted as they can be a gap apart; beyond 0 to 1 only for want of room."""
    places: list[float] = []
    for place in wanted:
        places.append(max(place, places[-1] + gap) if places else max(0.0, place))
    overflow = places[-1] - 1.0 if places else 0.0
    if overflow > 0:
        places[-1] -= overflow
        for at in range(len(places) - 2, -1, -1):
            places[at] = min(places[at], places[at + 1] - gap)
    return places


def _tick(value: float, words: MetricWords) -> str:
    if value < -1e-9 or (words.is_share and value > 1 + 1e-9):
        return ""
    return f"{100 * value:.3g} %" if words.is_share else f"{value:.3g}"
