"""A chart of a study: its picture and the numbers it is drawn from, which leave the page together."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from bds.report.figures import Picture

FOLDER = "charts"
NAME_CHARACTERS = 60
HALF_PAGE = 560
"""CSS pixels, and a little more: so wide a picture shrinks to half a page and is still read."""

_FONTS = "DejaVu Sans, Helvetica, Arial, sans-serif"

_LONG = re.compile(r"(?<![\w.#-])-?\d+\.\d{3,}(?![\w.])")

_PLAIN = " !$()*+,-./:;=?@[]^_`{|}~"
"""What stands for itself in the link that holds a file; a quotation mark, a number sign and a tag do not."""

Value = str | float | int | bool | None


@dataclass(frozen=True)
class Chart:
    name: str
    """Of its files, without their endings."""
    title: str
    note: str
    """Which suite and judge, or what else the title leaves open."""
    caption: str
    """What to see."""
    picture: Picture
    header: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    """The numbers as study.json has them."""

    @property
    def csv(self) -> str:
        """Null is an empty field, and a number is written in full."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.header)
        writer.writerows(["" if value is None else value for value in row] for row in self.rows)
        return text.getvalue()

    @property
    def svg(self) -> str:
        """As a file of its own: with its size, a font and white paper."""
        box = re.match(r'<svg viewBox="([^"]*)"[^>]*>', self.picture.svg)
        assert box is not None, "every picture begins so"
        _, _, width, height = box[1].split()
        opening = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box[1]}" width="{width}pt" height="{height}pt" '
            f'font-family="{_FONTS}"><rect width="100%" height="100%" fill="#ffffff"/>'
        )
        return f"{opening}{self.picture.svg[box.end() :]}\n"

    @property
    def csv_link(self) -> str:
        """The data within the page itself."""
        return _link("text/csv;charset=utf-8", self.csv)

    @property
    def svg_link(self) -> str:
        return _link("image/svg+xml", self.svg)

    @property
    def width(self) -> int:
        return self.picture.width

    @property
    def is_wide(self) -> bool:
        """Whether it takes the whole width of a page."""
        return self.width > HALF_PAGE

    @property
    def files(self) -> dict[str, bytes]:
        """By name, relative to the report."""
        return {f"{FOLDER}/{self.name}.svg": self.svg.encode(), f"{FOLDER}/{self.name}.csv": self.csv.encode()}


def make_chart(
    name: Sequence[str],
    title: str,
    picture: Picture,
    rows: Sequence[Mapping[str, Any]],
    *,
    note: str = "",
    caption: str = "",
) -> Chart:
    """A chart of rows that have the same fields.

    Args:
        name: what tells the chart from others; together they name its files.
    """
    header = tuple(rows[0]) if rows else ()
    values = tuple(tuple(row[field] for field in header) for row in rows)
    return Chart(file_name(name), title, note, caption, slim(picture), header, values)


def file_name(parts: Sequence[str]) -> str:
    """Letters, digits and hyphens alone, whatever the parts are."""
    plain = (re.sub(r"[^A-Za-z0-9]+", "-", part).strip("-").lower() for part in parts)
    return "-".join(part for part in plain if part)[:NAME_CHARACTERS].rstrip("-") or "chart"


def named_apart(charts: Sequence[Chart]) -> list[Chart]:
    """The charts with a number after names that another has before them."""
    taken: set[str] = set()
    found = []
    for chart in charts:
        name, further = chart.name, 2
        while name in taken:
            name, further = f"{chart.name}-{further}", further + 1
        taken.add(name)
        found.append(replace(chart, name=name))
    return found


def slim(picture: Picture) -> Picture:
    """The same picture with coordinates to a hundredth of a point: a study has many, and no eye sees more."""
    return replace(picture, svg=re.sub(r"<[^>]*>", lambda tag: _LONG.sub(_rounded, tag[0]), picture.svg))


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


def _link(kind: str, text: str) -> str:
    """A link that holds the text, with no more escapes than it needs: half of a page are such links."""
    return f"data:{kind},{quote(text, safe=_PLAIN)}"
