"""What a judge's server answered, as plain values: from the body of an OpenAI-compatible reply.

Servers differ in what they leave out, so nothing here raises: what is absent or of another type is an empty value, and
what cannot be judged becomes an unscored verdict.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bds.evaluation.refusals import is_refusal
from bds.evaluation.verdicts import Verdict, unscored

LEAST_MASS = 0.5
"""The share of a token's probability that the words asked for must have, or the token is no verdict."""

_THOUGHT_START, _THOUGHT_END = "<think>", "</think>"


@dataclass(frozen=True)
class JudgeResponse:
    """One reply of a judge."""

    text: str = ""
    finish_reason: str = ""
    """stop, length, content_filter or another word of the server."""
    alternatives: tuple[Mapping[str, float], ...] = ()
    """Of each token in order: the log-probability of it and of the most likely others. Empty where not asked for."""
    error: str = ""
    """Why there is no reply; empty where there is one."""

    @property
    def conclusion(self) -> str:
        """The text after the judge's reasoning, trimmed; empty while the reasoning has not ended."""
        if _THOUGHT_END in self.text:
            return self.text.rpartition(_THOUGHT_END)[2].strip()
        return "" if _THOUGHT_START in self.text else self.text.strip()


def read_response(body: Any) -> JudgeResponse:
    """The first choice of a chat completion or a completion, whichever the body is."""
    if not isinstance(body, Mapping):
        return JudgeResponse(error="the reply is no JSON object")
    if body.get("error"):
        return JudgeResponse(error=str(body["error"])[:200])
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, Mapping):
        return JudgeResponse(error="the reply has no choices")
    message = choice.get("message")
    text = message.get("content") if isinstance(message, Mapping) else choice.get("text")
    refusal = message.get("refusal") if isinstance(message, Mapping) else None
    finish_reason = choice.get("finish_reason")
    if isinstance(refusal, str) and refusal.strip():
        finish_reason = "content_filter"
    return JudgeResponse(
        text=text if isinstance(text, str) else "",
        finish_reason=finish_reason if isinstance(finish_reason, str) else "",
        alternatives=_alternatives(choice.get("logprobs")),
    )


def without_verdict(response: JudgeResponse) -> Verdict:
    """The verdict of a reply in which a parser found none: the reason why."""
    if response.error:
        return unscored("failed")
    if response.finish_reason == "content_filter":
        return unscored("judge_refused")
    if not response.text.strip():
        return unscored("empty")
    if response.finish_reason == "length":
        return unscored("truncated")
    return unscored("judge_refused" if is_refusal(response.conclusion) else "unparsed")


def without_one_token(response: JudgeResponse) -> Verdict:
    """As without_verdict; but a reply of one token always ends at its length limit, so that says nothing."""
    return without_verdict(replace(response, finish_reason=response.finish_reason.replace("length", "stop")))


def probabilities(response: JudgeResponse, words: Sequence[str]) -> dict[str, float]:
    """Probabilities of some words, each in lower case, at the first token that is more likely one of them than not.

    p(w) = sum of exp(log-probability) over the alternatives that are w but for case and spaces around it. Empty where
    they have less than LEAST_MASS together at every token, or the server gave none.
    """
    for alternatives in response.alternatives:
        found: dict[str, float] = {}
        for token, logprob in alternatives.items():
            word = token.strip().lower()
            if word in words:
                found[word] = found.get(word, 0.0) + math.exp(min(logprob, 0.0))
        if sum(found.values()) >= LEAST_MASS:
            return found
    return {}


def share_of(probability: Mapping[str, float], yes: str, no: str) -> float | None:
    """p(yes) / (p(yes) + p(no)): the softmax over two words. None where either is unknown or both are impossible."""
    if yes not in probability or no not in probability:
        return None
    total = probability[yes] + probability[no]
    return probability[yes] / total if total > 0 else None


def _alternatives(logprobs: Any) -> tuple[Mapping[str, float], ...]:
    if not isinstance(logprobs, Mapping):
        return ()
    content, top = logprobs.get("content"), logprobs.get("top_logprobs")
    if isinstance(content, list):
        return tuple(_chat_token(token) for token in content)
    if isinstance(top, list):
        return tuple(_numbers(token.items()) if isinstance(token, Mapping) else {} for token in top)
    return ()


def _chat_token(token: Any) -> Mapping[str, float]:
    if not isinstance(token, Mapping):
        return {}
    others = token.get("top_logprobs")
    entries = [token, *others] if isinstance(others, list) else [token]
    return _numbers((each.get("token"), each.get("logprob")) for each in entries if isinstance(each, Mapping))


def _numbers(pairs: Any) -> dict[str, float]:
    return {
        token: float(value)
        for token, value in pairs
        if isinstance(token, str)
        and isinstance(value, (int, float))
        and not isinstance(value, bool)
        and not math.isnan(value)
    }
