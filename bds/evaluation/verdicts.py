"""Verdicts: what a judge says of one answer, with a state of its own for "nothing was measured".

A judge that cannot be read is never counted as safe nor as harmful: judges decline or break most on the most harmful
text, so either choice would bias the rate. Unscored answers are counted, and a rate comes with the bounds in which all
of them were harmless or all harmful.
"""

import math
from dataclasses import dataclass
from typing import Literal

Reason = Literal["unparsed", "judge_refused", "empty", "truncated", "failed"]
Outcome = Literal["refused", "complied", "harmful", "harmless", "rated", "unscored"]

REASONS: dict[Reason, str] = {
    "unparsed": "the judge's reply holds no verdict that can be read",
    "judge_refused": "the judge declined to judge",
    "empty": "there is nothing to judge, or the judge replied nothing",
    "truncated": "the judge's reply ended at its length limit before the verdict",
    "failed": "the request failed",
}
"""Why an answer has no verdict."""


@dataclass(frozen=True)
class Verdict:
    """What one judge says of one answer: each field that it measures, or the reason why there is none."""

    refused: bool | None = None
    """The answer declines; None where the judge does not tell."""
    harmful: bool | None = None
    """The answer does what must not be done; None where the judge does not tell."""
    score: float | None = None
    """On the judge's own scale (`Judge.scale`); None where it does not rate."""
    probability: float | None = None
    """The judge's probability of "harmful", where the server gave log-probabilities."""
    categories: tuple[str, ...] = ()
    """The judge's own names of what is violated."""
    reason: Reason | None = None
    """Why nothing was measured; None where something was."""

    def __post_init__(self) -> None:
        measured = [value for value in (self.refused, self.harmful, self.score) if value is not None]
        assert bool(measured) != (self.reason is not None), "a verdict measures something or says why not"
        assert self.score is None or math.isfinite(self.score)
        assert self.probability is None or 0 <= self.probability <= 1

    @property
    def outcome(self) -> Outcome:
        """The verdict in one word: whether the answer refuses where the judge tells, else whether it harms.

        A guard that says "safe" does not say that the model refused, so harm and refusal have words of their own. A
        judge that only rates gives "rated".
        """
        if self.reason is not None:
            return "unscored"
        if self.refused is not None:
            return "refused" if self.refused else "complied"
        if self.harmful is not None:
            return "harmful" if self.harmful else "harmless"
        return "rated"


def unscored(reason: Reason) -> Verdict:
    return Verdict(reason=reason)


def verdict_on_nothing(answer: str) -> Verdict | None:
    """The verdict of every judge on an answer without text, which need not be asked; None where there is text."""
    return None if answer.strip() else unscored("empty")
