"""The bodies of replies, as OpenAI's interface has them, out of answers in tokens."""

import itertools
import time
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bds.evaluation.engines.requests import ChatRequest, CompletionRequest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from bds.evaluation.engines.sampling import Answer, Step


def reply(kind: str, model: str, choices: Sequence[dict[str, Any]], used: dict[str, int]) -> dict[str, Any]:
    return {
        "id": f"bds-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "choices": list(choices),
        "usage": used,
    }


def usage(prompt: int, answer: int) -> dict[str, int]:
    """Numbers of tokens; the one that ends an answer counts."""
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def completion_choice(
    index: int,
    tokenizer: "PreTrainedTokenizerBase",
    request: CompletionRequest,
    prompt: Sequence[int],
    answer: "Answer",
    of_prompt: "Sequence[Step]",
) -> dict[str, Any]:
    """One choice of /v1/completions.

    Args:
        of_prompt: what was found likely at the prompt's places but the first, where the request wants it echoed.
    """
    text = _text(tokenizer, answer, request)
    if request.echo:
        text = tokenizer.decode(prompt, skip_special_tokens=True) + text
    steps: list[Step | None] = [None, *of_prompt, *answer.steps] if request.echo else [*answer.steps]
    first = prompt[0] if request.echo else None
    told = None if request.logprobs is None else _columns(tokenizer, steps, first)
    return {"index": index, "text": text, "logprobs": told, "finish_reason": _finish_reason(answer)}


def chat_choice(tokenizer: "PreTrainedTokenizerBase", request: ChatRequest, answer: "Answer") -> dict[str, Any]:
    """The choice of /v1/chat/completions."""
    message = {"role": "assistant", "content": _text(tokenizer, answer, request)}
    told = {"content": [_rows(tokenizer, step) for step in answer.steps]} if request.logprobs else None
    return {"index": 0, "message": message, "logprobs": told, "finish_reason": _finish_reason(answer)}


def _finish_reason(answer: "Answer") -> str:
    return "stop" if answer.ended else "length"


def _text(tokenizer: "PreTrainedTokenizerBase", answer: "Answer", request: CompletionRequest | ChatRequest) -> str:
    """The answer without special tokens, and without what ended it."""
    tokens = answer.tokens
    if answer.ended and tokens[-1] in request.stop_token_ids:
        tokens = tokens[:-1]
    text: str = tokenizer.decode(tokens, skip_special_tokens=True)
    ends = [text.find(stop) for stop in request.stops if stop in text]
    return text[: min(ends)] if ends else text


def _columns(
    tokenizer: "PreTrainedTokenizerBase", steps: "Sequence[Step | None]", first: int | None
) -> dict[str, list[Any]]:
    """The log-probabilities of /v1/completions: lists as long as the text has tokens.

    Args:
        steps: None for a text's first token, `first`, which nothing comes before.
    """
    texts = [tokenizer.decode([first if step is None else step.token]) for step in steps]
    return {
        "tokens": texts,
        "token_logprobs": [None if step is None else step.logprob for step in steps],
        "top_logprobs": [None if step is None else _by_text(tokenizer, step) for step in steps],
        "text_offset": list(itertools.accumulate((len(text) for text in texts[:-1]), initial=0)) if texts else [],
    }


def _by_text(tokenizer: "PreTrainedTokenizerBase", step: "Step") -> dict[str, float]:
    """Of tokens with the same text, such as parts of characters, the likeliest one counts."""
    told = [*step.likeliest, (step.token, step.logprob)]
    return {tokenizer.decode([token]): logprob for token, logprob in reversed(told)}


def _rows(tokenizer: "PreTrainedTokenizerBase", step: "Step") -> dict[str, Any]:
    """The log-probabilities of /v1/chat/completions at one place."""
    likeliest = [_row(tokenizer, token, value) for token, value in step.likeliest]
    return {**_row(tokenizer, step.token, step.logprob), "top_logprobs": likeliest}


def _row(tokenizer: "PreTrainedTokenizerBase", token: int, logprob: float) -> dict[str, Any]:
    text = tokenizer.decode([token])
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
