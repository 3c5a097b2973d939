"""Continuing token sequences with transformers, each by its own rules, a batch of equal length at a time.

Legend: B sequences of the batch, T tokens so far, V vocabulary, K likeliest tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)


@dataclass(frozen=True)
class Rules:
    """How one sequence is continued."""

    max_tokens: int
    temperature: float
    """0 takes the likeliest token."""
    top_p: float
    seed: int | None
    """None draws differently each time."""
    stop_ids: frozenset[int]
    """Tokens of which any ends the answer, as its last one."""
    alternatives: int | None
    """How many of the likeliest tokens are told at every place; None to tell nothing."""
    text_ends: Callable[[Sequence[int]], bool] | None = None
    """Whether the answer's tokens so far make a text that ends here; None where only tokens end it."""


@dataclass(frozen=True)
class Step:
    """What was found likely at one place: the logarithms of the model's own probabilities, before any temperature."""

    token: int
    logprob: float
    likeliest: tuple[tuple[int, float], ...]
    """Tokens, the likeliest first."""


@dataclass
class Answer:
    """The continuation of one sequence."""

    tokens: list[int] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    """One a token, where the rules ask for alternatives."""
    ended: bool = False
    """It has come to an end of its own, before it reached `max_tokens` or with its last token."""


@torch.no_grad()
def continue_batch(model: PreTrainedModel, prompts: Sequence[Sequence[int]], rules: Sequence[Rules]) -> list[Answer]:
    """The answers to prompts of equal length, which nothing pads and no neighbour changes.

    The checkpoint's own sampling, penalties and beams are overridden.
    """
    answers = [Answer() for _ in prompts]
    longest = max(rule.max_tokens for rule in rules)
    if longest == 0:
        return answers
    tokens_BT = torch.tensor([list(prompt) for prompt in prompts], device=model.device)
    config = GenerationConfig(
        max_new_tokens=longest,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=None,
        pad_token_id=0,
    )
    model.generate(
        tokens_BT,
        attention_mask=torch.ones_like(tokens_BT),
        generation_config=config,
        logits_processor=LogitsProcessorList([_Chooser(rules, answers)]),
        stopping_criteria=StoppingCriteriaList([_Ends(rules, answers)]),
    )
    return answers


@torch.no_grad()
def steps_of_prompts(model: PreTrainedModel, prompts: Sequence[Sequence[int]], alternatives: int) -> list[list[Step]]:
    """What was found likely at every place of prompts of equal length but the first."""
    tokens_BT = torch.tensor([list(prompt) for prompt in prompts], device=model.device)
    logits_BTV = model(tokens_BT, attention_mask=torch.ones_like(tokens_BT)).logits
    found = []
    for prompt, logits_TV in zip(prompts, logits_BTV, strict=True):
        logprobs_TV = torch.log_softmax(logits_TV[:-1].float(), dim=-1)
        found.append(
            [_step(logprobs_V, token, alternatives) for logprobs_V, token in zip(logprobs_TV, prompt[1:], strict=True)]
        )
    return found


def _step(logprobs_V: torch.Tensor, token: int, alternatives: int) -> Step:
    best = torch.topk(logprobs_V, min(alternatives, len(logprobs_V)))
    likeliest = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return Step(token, float(logprobs_V[token]), likeliest)


class _Chooser(LogitsProcessor):
    """Chooses the next token of every sequence and leaves transformers, which takes the likeliest, no other."""

    def __init__(self, rules: Sequence[Rules], answers: Sequence[Answer]) -> None:
        self._rules = rules
        self._answers = answers
        self._generators = [_generator(rule) for rule in rules]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        logits_BV = scores.float()
        chosen_B = logits_BV.argmax(dim=-1)
        for index, (rule, answer) in enumerate(zip(self._rules, self._answers, strict=True)):
            if answer.ended or len(answer.tokens) >= rule.max_tokens:
                continue
            generator = self._generators[index]
            if generator is not None:
                chosen_B[index] = _draw(logits_BV[index], rule, generator)
            token = int(chosen_B[index])
            answer.tokens.append(token)
            if rule.alternatives is not None:
                answer.steps.append(_step(torch.log_softmax(logits_BV[index], dim=-1), token, rule.alternatives))
        return torch.full_like(scores, -torch.inf).scatter(1, chosen_B[:, None], 0.0)


class _Ends(StoppingCriteria):
    """Ends every sequence by its own rules; the batch ends with its last one."""

    def __init__(self, rules: Sequence[Rules], answers: Sequence[Answer]) -> None:
        self._rules = rules
        self._answers = answers

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        for rule, answer in zip(self._rules, self._answers, strict=True):
            if answer.tokens and not answer.ended:
                at_end = rule.text_ends is not None and rule.text_ends(answer.tokens)
                answer.ended = answer.tokens[-1] in rule.stop_ids or at_end
        done = [
            answer.ended or len(answer.tokens) >= rule.max_tokens
            for rule, answer in zip(self._rules, self._answers, strict=True)
        ]
        return torch.tensor(done, device=input_ids.device)


def _generator(rule: Rules) -> torch.Generator | None:
    """The random numbers of a sequence that is drawn; on the CPU, so that a seed draws alike on every device."""
    if rule.temperature == 0:
        return None
    generator = torch.Generator()
    generator.seed() if rule.seed is None else generator.manual_seed(rule.seed)
    return generator


def _draw(logits_V: torch.Tensor, rule: Rules, generator: torch.Generator) -> int:
    """A token drawn from the smallest set of the likeliest ones whose probabilities reach `top_p` (Holtzman 2020)."""
    probabilities_V = torch.softmax(logits_V / rule.temperature, dim=-1).cpu()
    if rule.top_p < 1:
        sorted_V, order_V = probabilities_V.sort(descending=True)
        beyond_V = sorted_V.cumsum(dim=-1) - sorted_V >= rule.top_p
        probabilities_V = probabilities_V.scatter(0, order_V[beyond_V], 0.0)
    return int(torch.multinomial(probabilities_V, 1, generator=generator))
