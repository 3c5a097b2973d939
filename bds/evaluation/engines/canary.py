"""Proves that a served adapter or fine-tune has an effect: servers have ignored adapters without a word."""

import math
from collections.abc import Sequence
from typing import Any

from bds.errors import BdsError
from bds.evaluation.client import Client
from bds.evaluation.prompting import COMPLETIONS

PROMPTS = ("The three primary colours are", "A short list of rivers:", "one, two, three,", "Dear neighbour, thank you")
TOKENS = 4
ALTERNATIVES = 20

_Steps = list[dict[str, float]]
"""Per greedy token: the log-probabilities of the likeliest tokens, by text."""


async def check_canary(client: Client, base_name: str, name: str) -> None:
    """Compares what two served names find likely after neutral prompts; their files are known to differ.

    The base is asked twice: a server that is not exactly repeatable must show a larger difference than its own noise.

    Raises BdsError: they find exactly the same likely, or one of them cannot be asked.
    """
    base = [await _likely(client, base_name, prompt) for prompt in PROMPTS]
    again = [await _likely(client, base_name, prompt) for prompt in PROMPTS]
    other = [await _likely(client, name, prompt) for prompt in PROMPTS]
    if largest_difference(base, other) <= 2 * largest_difference(base, again):
        raise BdsError(
            f"{name} is served but silently ineffective: it continues {len(PROMPTS)} neutral prompts with exactly the "
            f"probabilities of {base_name}; check that its weights are not all zero, or set serving.engine otherwise"
        )


def largest_difference(some: Sequence[_Steps], others: Sequence[_Steps]) -> float:
    """The largest difference of log-probability of a token that both find likely at the same place.

    A continuation is compared as far as both agree on the likeliest token; infinite where two never share a token.
    """
    largest = 0.0
    for one, two in zip(some, others, strict=True):
        for here, there in zip(one, two, strict=False):
            shared = here.keys() & there.keys()
            if not shared:
                return math.inf
            largest = max(largest, *(abs(here[token] - there[token]) for token in shared))
            if max(here, key=here.__getitem__) != max(there, key=there.__getitem__):
                break
    return largest


async def _likely(client: Client, name: str, prompt: str) -> _Steps:
    body = {"model": name, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0.0, "logprobs": ALTERNATIVES}
    reply = await client.post(COMPLETIONS, body)
    try:
        choice: Any = reply.body["choices"][0]
        steps: _Steps = choice["logprobs"]["top_logprobs"]
    except (TypeError, KeyError, IndexError) as error:
        raise BdsError(f"{name} cannot be asked for log-probabilities ({reply.error or 'it gives none'})") from error
    return steps
