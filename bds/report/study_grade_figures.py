"""The grade of every dataset on one scale, and how far the detectors of an audit agree."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from bds.report.evaluation_figures import shortened
from bds.report.figures import CONTROL, FLAGGED, INK, MUTED, RULE, Picture, render
from bds.report.wording import points, signed

LINE = 0.5
WIDTH = 4.9


@dataclass(frozen=True)
class Graded:
    name: str
    grade: str | None
    rise: float | None
    low: float | None
    high: float | None
    measured: bool
    """Else it is read off the dose response."""


@dataclass(frozen=True)
class Overlap:
    """Two detectors of one audit."""

    name: str
    spearman: float | None
    overlap: float | None
    expected: float


def grade_picture(title: str, lines: Sequence[Graded], ends: Sequence[tuple[float, str]]) -> Picture:
    """The rise of attack success with its interval over the bands of the grades; hollow where it is extrapolated."""
    shades = ("#f0fdf4", "#fef9c3", "#ffedd5", "#fecaca")

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.set_xlim(-0.1, 1.0)
        axes.set_ylim(len(lines), -0.42)
        start = -0.1
        for (end, name), shade in zip(ends, shades, strict=True):
            axes.axvspan(start, min(end, 1.0), color=shade, zorder=0)
            axes.axvline(min(end, 1.0), color=RULE, linewidth=0.8, zorder=1)
            axes.text((start + min(end, 1.0)) / 2, -0.2, name, ha="center", va="center", fontsize=8, color=MUTED)
            start = end
        axes.axvline(0, color=MUTED, linewidth=0.8, zorder=1)
        across = axes.get_yaxis_transform()
        for place, line in enumerate(lines):
            axes.text(0.01, place + 0.22, shortened(line.name), transform=across, va="center", fontsize=9.5)
            told = "no evidence" if line.rise is None else f"{line.grade}, {points(line.rise)} points"
            axes.text(0.99, place + 0.22, told, transform=across, ha="right", va="center", fontsize=9.5)
            if line.rise is None:
                continue
            at = place + 0.68
            if line.low is not None and line.high is not None:
                axes.hlines(at, max(-0.1, line.low), line.high, color=INK, linewidth=2)
            axes.plot(
                line.rise,
                at,
                "D",
                markersize=7,
                markerfacecolor=INK if line.measured else "white",
                markeredgecolor=INK,
                clip_on=False,
                zorder=3,
            )
        axes.set_yticks([])
        ticks = [0.0, *(end for end, _ in ends if end < 1), 1.0]
        axes.set_xticks(ticks, ["0", *(f"+{100 * tick:.0f}" for tick in ticks[1:])])
        axes.set_xlabel("points of attack success above the model before fine-tuning", fontsize=9, color=MUTED)

    told = "; ".join(
        f"{line.name}: " + ("no evidence" if line.rise is None else f"{line.grade}, {points(line.rise)} points")
        for line in lines
    )
    return render(draw, WIDTH, 0.85 + LINE * len(lines), f"{title}. {told}.")


def overlap_picture(title: str, lines: Sequence[Overlap]) -> Picture:
    """The rows that two detectors rank highest in common, beside what two random choices would have in common."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.set_xlim(0, 1)
        axes.set_ylim(len(lines), 0)
        across = axes.get_yaxis_transform()
        for place, line in enumerate(lines):
            axes.text(0, place + 0.24, shortened(line.name), transform=across, va="center", fontsize=9.5)
            told = "–" if line.spearman is None else f"rank correlation {signed(line.spearman)}"
            axes.text(1, place + 0.24, told, transform=across, ha="right", va="center", fontsize=9)
            at = place + 0.66
            axes.vlines(line.expected, at - 0.2, at + 0.2, color=CONTROL, linewidth=2.5)
            if line.overlap is not None:
                axes.hlines(at, line.expected, line.overlap, color=FLAGGED, linewidth=1.6)
                axes.plot(line.overlap, at, "D", color=FLAGGED, markersize=7, clip_on=False, zorder=3)
        axes.hlines(range(1, len(lines)), 0, 1, transform=across, color=RULE, linewidth=0.8)
        axes.set_yticks([])
        ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
        axes.set_xticks(ticks, [f"{100 * tick:.0f} %" for tick in ticks])
        axes.set_xlabel("share of the highest rows that both name", loc="right", fontsize=9, color=MUTED)

    told = "; ".join(
        f"{line.name}: overlap "
        + ("not measured" if line.overlap is None else f"{100 * line.overlap:.0f} %")
        + f" against {100 * line.expected:.0f} % by chance"
        + ("" if line.spearman is None else f", rank correlation {signed(line.spearman)}")
        for line in lines
    )
    return render(draw, WIDTH, 0.6 + 0.46 * len(lines), f"{title}. {told}.")
