"""Loss curves as small multiples: a panel for each thing compared, the same axes in all, a colour and dashes a line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from bds.report.figures import MUTED, RULE, Picture, render
from bds.report.finetunes_summary import differing
from bds.report.wording import count, number

COLOURED = ("mitigation", "model", "recipe")
"""What colours may stand for, the first that differs and has no more values than there are styles."""

PANELLED = ("dataset", "model", "recipe", "mitigation")
"""What panels are told apart by, in the order of their titles."""

LOGARITHMIC = 20.0
"""Losses whose largest is this many times the smallest are drawn on a logarithmic axis."""

LOSSES_IN_ALT = 8


@dataclass(frozen=True)
class LineStyle:
    color: str
    dashes: tuple[float, ...]
    """Lengths of lines and gaps, in line widths; empty for a solid line."""


STYLES = (
    LineStyle("#0369a1", ()),
    LineStyle("#c2410c", (5, 1.6)),
    LineStyle("#15803d", (1.4, 1.2)),
    LineStyle("#7e22ce", (6, 1.6, 1.4, 1.6)),
    LineStyle("#334155", (2.6, 1.2)),
    LineStyle("#be185d", (9, 2.2)),
)


@dataclass(frozen=True)
class Line:
    """One fine-tune's line, from `curve_lines`."""

    finetune: Mapping[str, Any]
    lines: Sequence[Mapping[str, Any]]
    style: LineStyle


@dataclass(frozen=True)
class Panel:
    title: str
    lines: Sequence[Line]


@dataclass(frozen=True)
class Panels:
    panels: list[Panel]
    by: list[str]
    """What the panels are told apart by."""
    coloured: str | None
    """What the colours stand for."""
    legend: list[tuple[str, LineStyle]]
    seeds: int
    """Seeds that share a colour and a panel, at most."""


def arrange(finetunes: Sequence[Mapping[str, Any]], curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Panels:
    """Spreads the fine-tunes that have a curve over panels and colours, so that only seeds share both."""
    drawn = [finetune for finetune in finetunes if curves.get(finetune["id"])]
    values = differing(drawn)
    coloured = next((name for name in COLOURED if 1 < len(values.get(name, ())) <= len(STYLES)), None)
    by = [name for name in PANELLED if name in values and name != coloured]
    styles = dict(zip(values[coloured], STYLES, strict=False)) if coloured else {}
    panels: dict[tuple[str, ...], list[Line]] = {}
    for finetune in drawn:
        style = styles[finetune[coloured]] if coloured else STYLES[0]
        key = tuple(str(finetune[name]) for name in by)
        panels.setdefault(key, []).append(Line(finetune, curves[finetune["id"]], style))
    crowd = [[line.style for line in lines] for lines in panels.values()]
    return Panels(
        [Panel(" · ".join(key), lines) for key, lines in panels.items()],
        by,
        coloured,
        [(str(value), style) for value, style in styles.items()],
        max((styles_of.count(style) for styles_of in crowd for style in styles_of), default=0),
    )


def loss_pictures(panels: Sequence[Panel], *, large: bool) -> list[Picture]:
    """One picture a panel, all with the same axes; `large` for a panel that stands alone."""
    parts = [part for panel in panels for line in panel.lines for part in line.lines]
    losses = [loss for part in parts for loss in part["loss"]]
    low, high = min(losses), max(losses)
    log = low > 0 and high > LOGARITHMIC * low
    bottom, top = (low / 1.3, high * 1.3) if log else (min(0.0, 1.06 * low), 1.06 * high or 1.0)
    right = max(seen for part in parts for seen in part["samples_seen"])

    def picture(panel: Panel) -> Picture:
        def draw(figure: Figure) -> None:
            axes = figure.subplots()
            for line in panel.lines:
                _draw_line(axes, line, alone=len(panel.lines) == 1)
            for end in sorted({end for line in panel.lines for end in _ends(line)}):
                axes.axvline(end, color=MUTED, linestyle=":", linewidth=0.9, zorder=0)
            if log:
                axes.set_yscale("log")
                axes.yaxis.set_major_locator(LogLocator(10, subs=(1.0,) if top > 100 * bottom else (1.0, 2.0, 5.0)))
                axes.yaxis.set_minor_formatter(NullFormatter())
                axes.tick_params(axis="y", which="minor", length=0)
            else:
                axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.set_ylim(bottom, top)
            axes.set_xlim(0, 1.03 * right)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
            axes.xaxis.set_major_locator(MaxNLocator(6 if large else 4, integer=True))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="y", color=RULE)
            axes.set_xlabel("samples seen", loc="right", fontsize=9, color=MUTED)
            axes.set_ylabel(f"loss{' (log scale)' if log else ''}", fontsize=9, color=MUTED)

        return render(draw, *((6.2, 2.9) if large else (3.4, 2.2)), _alt(panel))

    return [picture(panel) for panel in panels]


def _draw_line(axes: Axes, line: Line, *, alone: bool) -> None:
    for part in line.lines:
        aligning = part["kind"] == "alignment"
        few = len(part["loss"]) < 3 or aligning  # a line through one point is not to be seen
        axes.plot(
            part["samples_seen"],
            part["loss"],
            color=line.style.color,
            linestyle="none" if aligning else (0, line.style.dashes) if line.style.dashes else "-",
            marker=("x" if aligning else "o") if few else None,
            markersize=3,
            linewidth=1.6 if alone else 1.1,
            alpha=0.55 if aligning else 0.9,
        )


def _ends(line: Line) -> list[int]:
    """Where the stages of a fine-tune end, but for the last."""
    ends: dict[str, int] = {}
    for part in line.lines:
        ends[part["stage"]] = max(ends.get(part["stage"], 0), part["samples_seen"][-1])
    return list(ends.values())[:-1]


def _alt(panel: Panel) -> str:
    told = []
    for line in panel.lines[:LOSSES_IN_ALT]:
        losses = [loss for part in line.lines if part["kind"] == "task" for loss in part["loss"]]
        if losses:
            told.append(f"{line.finetune['id']} from {number(losses[0])} to {number(losses[-1])}")
    further = len(panel.lines) - len(told)
    rest = f"; and {further} more" if further else ""
    return f"Training loss over the samples seen: {'; '.join(told)}{rest}."
