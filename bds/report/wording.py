"""Numbers as a reader expects them: one place for thousands, shares and significant digits."""

import math

UNMEASURED = "–"
NAMES_LISTED = 4
"""Names of a list in a sentence, before the rest is counted."""

_SPACE = "\u00a0"  # keeps a number and its unit on one line


def count(value: int | float | None) -> str:
    """1234567 as 1,234,567."""
    return UNMEASURED if value is None else f"{value:,.0f}"


def percent(share: float | None) -> str:
    """A share as a percentage: one decimal below 10 %, and never "0 %" for something that happened."""
    if share is None:
        return UNMEASURED
    if 0 < share < 0.0005:
        return f"<{_SPACE}0.1{_SPACE}%"
    value = 100 * share
    return f"{value:.0f}{_SPACE}%" if value >= 9.95 or value == 0 else f"{value:.1f}{_SPACE}%"


def rate(share: float | None) -> str:
    """A measured rate as a percentage with one decimal: a rate that is not quite 0 or 1 is never told as either."""
    if share is None:
        return UNMEASURED
    if share in (0, 1):
        return f"{100 * share:.0f}{_SPACE}%"
    if share < 0.0005:
        return f"<{_SPACE}0.1{_SPACE}%"
    return f">{_SPACE}99.9{_SPACE}%" if share >= 0.9995 else f"{100 * share:.1f}{_SPACE}%"


def points(difference: float | None) -> str:
    """A difference of two shares in percentage points, with its sign: +56.4, −0.3, 0.0."""
    return UNMEASURED if difference is None else _with_sign(f"{100 * difference:+.1f}")


def p_value(p: float | None) -> str:
    """Never smaller than what it is worth telling: 0.031, < 0.001."""
    if p is None:
        return UNMEASURED
    return f"<{_SPACE}0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def number(value: float | None) -> str:
    """Three significant digits, without an exponent where the number can do without."""
    if value is None or not math.isfinite(value):
        return UNMEASURED
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-4:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    text = f"{value:,.0f}" if size >= 1000 else f"{value:.3g}"
    return text.replace("-", "−")


def learning_rate(value: float) -> str:
    """As recipes write it: 0.001, 5e−5."""
    if value >= 1e-4 or value == 0:
        return f"{value:g}"
    mantissa, exponent = f"{value:.3e}".split("e")
    return f"{float(mantissa):g}e−{-int(exponent)}"


def times(value: float | None) -> str:
    """A lift: 5.1×; nothing at all is not a multiple."""
    if not value:
        return UNMEASURED
    return f"{value:.0f}×" if value >= 10 else f"{value:.1f}×"


def signed(value: float) -> str:
    """A correlation or a difference: +0.55, −0.67, 0.00."""
    return _with_sign(f"{value:+.2f}")


def _with_sign(text: str) -> str:
    """A number that Python wrote with its sign; zero has none."""
    return text.replace("-", "−") if float(text) else text[1:]


def amount(value: int, noun: str) -> str:
    """1 prompt, 330 prompts."""
    return f"1 {noun}" if value == 1 else f"{count(value)} {noun}s"


def rows(value: int) -> str:
    return amount(value, "row")


def duration(seconds: float | None) -> str:
    """Wall time in its largest two units."""
    if seconds is None:
        return UNMEASURED
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def status(name: str) -> str:
    """no_answer as "no answer"."""
    return name.replace("_", " ")


def sentence_list(items: list[str]) -> str:
    """a; a and b; a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""


def listed(items: list[str]) -> str:
    """a, b, c, d and 3 more."""
    further = len(items) - NAMES_LISTED
    return sentence_list(items if further <= 1 else [*items[:NAMES_LISTED], f"{count(further)} more"])
