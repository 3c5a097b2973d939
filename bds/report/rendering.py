"""What the pages have in common: Jinja with the house's number formats, everything escaped."""

import re

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from bds.report import wording
from bds.report.figures import Picture


def page_template(name: str) -> Template:
    """A template of bds/report/templates. To render it without a name that it uses is an error."""
    environment = Environment(
        loader=PackageLoader("bds.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=wording.count,
        duration=wording.duration,
        percent=wording.percent,
        rate=wording.rate,
        points=wording.points,
        p_value=wording.p_value,
        number=wording.number,
        times=wording.times,
        status=wording.status,
        breakable=_breakable,
        svg=_svg,
    )
    return environment.get_template(name)


def _svg(picture: Picture) -> Markup:
    return Markup(picture.svg)  # made by matplotlib, which escapes the labels it is given


def _breakable(name: str) -> Markup:
    """A long name that may go on in the next line after a separator."""
    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[/._-])(?=.)", name))
