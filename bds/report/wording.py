"""Numbers as a reader expects them: one place for thousands, shares and significant digits."""

import math

UNMEASURED = "–"
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


def times(value: float | None) -> str:
    """A lift: 5.1×; nothing at all is not a multiple."""
    if not value:
        return UNMEASURED
    return f"{value:.0f}×" if value >= 10 else f"{value:.1f}×"


def signed(value: float) -> str:
    """A correlation: +0.55, −0.67, 0.00."""
    text = f"{value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text.replace("-", "−")


def rows(value: int) -> str:
    return "1 row" if value == 1 else f"{count(value)} rows"


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
