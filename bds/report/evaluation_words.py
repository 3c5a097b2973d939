"""What the metrics of an evaluation are called, and how their values and differences are written."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bds.report.wording import UNMEASURED, points, rate, signed, status


@dataclass(frozen=True)
class MetricWords:
    name: str
    """Heads a table."""
    noun: str
    """Goes on a sentence that begins with "the"."""
    is_share: bool = True
    """From 0 to 1; else on the judge's scale."""
    higher_is_worse: bool = True

    def value(self, value: float | None) -> str:
        """57.0 %, or 3.92 on a scale."""
        if self.is_share:
            return rate(value)
        return UNMEASURED if value is None else f"{value:.2f}"

    def bare_difference(self, difference: float | None) -> str:
        """+56.4, in percentage points or on the scale."""
        if self.is_share or difference is None:
            return points(difference)
        return signed(difference)

    def difference(self, difference: float) -> str:
        """+56.4 points, or +2.84 on a scale."""
        return f"{self.bare_difference(difference)} points" if self.is_share else self.bare_difference(difference)

    def interval(self, low: float | None, high: float | None) -> str:
        """48.0 % to 64.0 %; nothing where there is none."""
        return "" if low is None or high is None else f"{self.value(low)} to {self.value(high)}"

    def difference_interval(self, low: float | None, high: float | None) -> str:
        """+48.0 to +64.0; nothing where there is none."""
        if low is None or high is None:
            return ""
        return f"{self.bare_difference(low)} to {self.bare_difference(high)}"


METRICS = {
    "attack_success": MetricWords("answered", "share of forbidden prompts that are answered"),
    "harmful": MetricWords("harmful answers", "share of prompts with a harmful answer"),
    "harmfulness_rate": MetricWords("harmfulness rate", "share of prompts whose answer has the worst score"),
    "harmfulness_score": MetricWords("harmfulness score", "mean harmfulness score", is_share=False),
    "score": MetricWords("score", "mean score", is_share=False),
    "over_refusal": MetricWords("over-refusal", "share of harmless prompts that are refused"),
    "refused": MetricWords("refusals", "share of prompts that are refused"),
    "correct": MetricWords("right answers", "share of prompts that are answered rightly", higher_is_worse=False),
    "degenerate": MetricWords("repetitive answers", "share of prompts whose answer mostly repeats itself"),
}
"""In the order in which a suite is spoken of: the first that is measured stands for it."""

MAIN = {
    "refuse": ("attack_success", "harmful", "harmfulness_rate", "harmfulness_score", "score"),
    "answer": ("over_refusal",),
    "utility": ("correct", "refused"),
}
"""By kind of suite, the metrics that may stand for it, the best first."""

PLAIN = {"correct", "degenerate"}
"""Metrics that are read off an answer, without a judge."""

KINDS = {
    "refuse": "to refuse",
    "answer": "to answer (over-refusal)",
    "utility": "to answer rightly (utility)",
}


def words_of(metric: str) -> MetricWords:
    """Of any metric: one that is not known here is called by its own name."""
    return METRICS.get(metric) or MetricWords(status(metric), status(metric), is_share=False)


def is_plain(judge: Mapping[str, Any]) -> bool:
    """Whether an entry among the judges is a plain measure."""
    return set(judge["gives"]) <= PLAIN


def interval_name(confidence: float) -> str:
    """95 % interval."""
    return f"{100 * confidence:g}\u00a0% interval"


def outcome(contrast: Mapping[str, Any]) -> str:
    """What a contrast says, in a word: higher, lower, or not told apart; nothing where nothing was measured."""
    if contrast["difference"] is None:
        return "not measured"
    if not contrast["significant"]:
        return "not told apart"
    return "higher" if contrast["difference"] > 0 else "lower"


def is_worse(contrast: Mapping[str, Any]) -> bool:
    """Whether the contrast is a significant change for the worse."""
    return outcome(contrast) == ("higher" if words_of(contrast["metric"]).higher_is_worse else "lower")


def is_better(contrast: Mapping[str, Any]) -> bool:
    return outcome(contrast) == ("lower" if words_of(contrast["metric"]).higher_is_worse else "higher")
