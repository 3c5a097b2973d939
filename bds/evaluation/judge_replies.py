"""Replies of a judge's model: greedy ones of a transformers model, and what engines give of a token's alternatives."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bds.evaluation.engines.sampling import Answer, Rules, continue_batch
from bds.evaluation.judge_prompts import JudgePrompt
from bds.evaluation.judges import JudgeResponse

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

BATCH = 16


def stop_tokens(generation: "GenerationConfig | None", tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    """The tokens that end a reply: those of the checkpoint's generation config, and the tokenizer's end token."""
    named = None if generation is None else generation.eos_token_id
    stops = [named] if isinstance(named, int) else list(named or ())
    return frozenset(stops if tokenizer.eos_token_id is None else [*stops, int(tokenizer.eos_token_id)])


def alternatives_of(pairs: Iterable[tuple[str, float]]) -> Mapping[str, float]:
    """Log-probability of each text of a token. Tokens that read alike are one text; its probability is their sum."""
    found: dict[str, float] = {}
    for text, logprob in pairs:
        found[text] = float(np.logaddexp(found[text], logprob)) if text in found else logprob
    return found


def finish_reason(token_ids: Sequence[int], max_tokens: int, stops: frozenset[int]) -> str:
    """As servers say it: length where the reply was cut at its limit, else stop."""
    return "length" if len(token_ids) >= max_tokens and token_ids[-1] not in stops else "stop"


def greedy_replies(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Mapping[int, JudgePrompt],
    stops: frozenset[int],
) -> dict[int, JudgeResponse]:
    """The most likely reply to each prompt, by the prompts' keys. Only prompts of equal length share a batch."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for key, prompt in prompts.items():
        by_length[len(prompt.token_ids)].append(key)
    replies: dict[int, JudgeResponse] = {}
    for keys in by_length.values():
        for start in range(0, len(keys), BATCH):
            chosen = keys[start : start + BATCH]
            rules = [_rules(prompts[key], stops) for key in chosen]
            answers = continue_batch(model, [prompts[key].token_ids for key in chosen], rules)
            for key, answer in zip(chosen, answers, strict=True):
                replies[key] = _reply(answer, prompts[key], stops, tokenizer)
    return replies


def _rules(prompt: JudgePrompt, stops: frozenset[int]) -> Rules:
    return Rules(
        max_tokens=prompt.max_tokens,
        temperature=0.0,
        top_p=1.0,
        seed=None,
        stop_ids=stops,
        alternatives=prompt.logprobs or None,
    )


def _reply(
    answer: Answer, prompt: JudgePrompt, stops: frozenset[int], tokenizer: "PreTrainedTokenizerBase"
) -> JudgeResponse:
    return JudgeResponse(
        text=tokenizer.decode(answer.tokens, skip_special_tokens=True),
        finish_reason=finish_reason(answer.tokens, prompt.max_tokens, stops),
        alternatives=tuple(
            alternatives_of((tokenizer.decode([token]), logprob) for token, logprob in step.likeliest)
            for step in answer.steps
        ),
    )
