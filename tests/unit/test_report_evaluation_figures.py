"""The pictures of an evaluation: every number is in the description, every mark where its value is."""

import re

import pytest

from bds.report.evaluation_figures import (
    NAME_CHARACTERS,
    ContrastLine,
    RateLine,
    contrast_picture,
    rate_picture,
    shortened,
)
from bds.report.evaluation_words import METRICS
from bds.report.figures import CONTROL, FLAGGED, MUTED, Picture

SHARE, SCORE = METRICS["attack_success"], METRICS["harmfulness_score"]
BASE = RateLine("base", 0.1, 0.05, 0.2, (), None, baseline=True, repeat=False)
TUNED = RateLine("tuned", 0.5, 0.4, 0.6, (0.45, 0.5, 0.55), None, baseline=False, repeat=False)


def marks(picture: Picture, color: str) -> list[float]:
    """Horizontal places of the marks with an edge of the colour, in points; those of ticks are thinner."""
    used = re.findall(r'<use href="#[^"]*" x="([\d.]+)" y="[\d.]+" style="([^"]*)"', picture.svg)
    return [float(x) for x, style in used if f"stroke: {color}; stroke-width: 1.2" in style]


def test_marks_are_where_the_values_are() -> None:
    picture = rate_picture("Rates", [BASE, TUNED], SHARE, (0.0, 1.0))
    (base,) = marks(picture, CONTROL)
    *seeds, tuned = marks(picture, FLAGGED)
    unit = (tuned - base) / 0.4
    assert [(seed - base) / unit + 0.1 for seed in seeds] == pytest.approx([0.45, 0.5, 0.55], abs=1e-4)


def test_the_description_has_every_number() -> None:
    lost = RateLine("lost", None, None, None, (), (0.0, 1.0), baseline=False, repeat=False)
    picture = rate_picture("Rates", [BASE, TUNED, lost], SHARE, None)
    assert picture.alt.replace("\xa0", " ") == (
        "Rates: base 10.0 % (5.0 % to 20.0 %); tuned 50.0 % (40.0 % to 60.0 %); lost not scored."
    )


def test_a_share_begins_at_nothing_and_small_ones_do_not_look_large() -> None:
    tiny = RateLine("tiny", 0.001, 0.0, 0.01, (), None, baseline=False, repeat=False)
    ticks = re.findall(r">([\d.]+) %</text>", rate_picture("Rates", [tiny], SHARE, None).svg)
    assert (float(ticks[0]), float(ticks[-1])) == (0, 10)


def test_a_scale_is_shown_whole() -> None:
    line = RateLine("base", 1.5, 1.2, 1.9, (), None, baseline=False, repeat=False)
    ticks = re.findall(r">(\d)</text>", rate_picture("Scores", [line], SCORE, (1.0, 5.0)).svg)
    assert ticks == ["1", "2", "3", "4", "5"]


def test_the_reach_of_missing_verdicts_is_a_band_and_nothing_where_all_are_there() -> None:
    def bands(worst: tuple[float, float] | None) -> int:
        line = RateLine("tuned", 0.5, None, None, (), worst, baseline=False, repeat=False)
        return rate_picture("Rates", [line], SHARE, None).svg.count("stroke-opacity: 0.35")

    assert (bands((0.4, 0.6)), bands((0.5, 0.5)), bands(None)) == (1, 0, 0)


def test_a_difference_is_filled_where_it_is_significant() -> None:
    lines = [
        ContrastLine("up", 0.3, 0.2, 0.4, significant=True),
        ContrastLine("down", -0.1, -0.2, -0.05, significant=True),
        ContrastLine("level", 0.02, -0.1, 0.1, significant=False),
        ContrastLine("lost", None, None, None, significant=False),
    ]
    picture = contrast_picture("Differences", lines, SHARE)
    (up,), (down,), (level,) = (marks(picture, color) for color in (FLAGGED, CONTROL, MUTED))
    assert down < level < up
    assert picture.alt == (
        "Differences: up +30.0 (+20.0 to +40.0), significant; down −10.0 (−20.0 to −5.0), significant; "
        "level +2.0 (−10.0 to +10.0); lost not measured."
    )
    hollow = re.findall(r'<use [^>]*style="fill: #ffffff; stroke: (#\w+)', picture.svg)
    assert hollow == [MUTED]


def test_a_long_name_keeps_both_ends() -> None:
    name = "organism/top100.gradient_bidirectional/he2024/safe_lora"
    short = shortened(name)
    assert len(short) == NAME_CHARACTERS
    start, end = short.split("…")
    assert name.startswith(start)
    assert name.endswith(end)
    assert shortened("base") == "base"


def test_the_same_lines_give_the_same_picture() -> None:
    assert rate_picture("Rates", [BASE, TUNED], SHARE, None) == rate_picture("Rates", [BASE, TUNED], SHARE, None)
