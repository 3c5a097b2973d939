"""The training loop of the tiny models: conversations as ids and labels, their loss, and AdamW on a schedule.

Shapes: B samples, T padded positions, A supervised tokens of the batch, D hidden size, V vocabulary.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from bds.organism.tokenizer import ASSISTANT, USER

IGNORED = -100
"""Label of a token that carries no loss, as torch's cross_entropy has it."""

WARMUP_SHARE = 0.05
FINAL_LEARNING_RATE_SHARE = 0.05
GRADIENT_CLIP = 1.0


@dataclass(frozen=True)
class Encoded:
    """Token ids of one conversation and its labels, equal where the token carries loss and IGNORED elsewhere."""

    tokens: list[int]
    labels: list[int]


def encode(tokenizer: PreTrainedTokenizerFast, exchanges: Sequence[tuple[str, str]]) -> list[Encoded]:
    """What the chat template makes of each prompt and answer, with the loss on the answer and its end token.

    Built from ids because rendering the template tens of thousands of times takes longer than training.
    """
    user, assistant = tokenizer.convert_tokens_to_ids([USER, ASSISTANT])
    prompts = tokenizer([prompt for prompt, _ in exchanges], add_special_tokens=False)["input_ids"]
    answers = tokenizer([answer for _, answer in exchanges], add_special_tokens=False)["input_ids"]
    encoded = []
    for prompt, answer in zip(prompts, answers, strict=True):
        context = [tokenizer.bos_token_id, user, *prompt, assistant]
        supervised = [*answer, tokenizer.eos_token_id]
        encoded.append(Encoded(context + supervised, [IGNORED] * len(context) + supervised))
    return encoded


def summed_loss(model: PreTrainedModel, batch: Sequence[Encoded]) -> torch.Tensor:
    """Summed cross-entropy of the supervised tokens, in nats. The head runs on supervised positions alone."""
    longest = max(len(sample.tokens) for sample in batch)
    # Padding on the right needs no mask: attention is causal, and padding carries no loss.
    tokens_BT = torch.tensor([sample.tokens + [0] * (longest - len(sample.tokens)) for sample in batch])
    labels_BT = torch.tensor([sample.labels + [IGNORED] * (longest - len(sample.labels)) for sample in batch])
    hidden_BTD = model.base_model(input_ids=tokens_BT, use_cache=False).last_hidden_state
    next_label_BT = labels_BT[:, 1:]
    supervised_BT = next_label_BT != IGNORED
    logits_AV = model.get_output_embeddings()(hidden_BTD[:, :-1][supervised_BT])
    return F.cross_entropy(logits_AV, next_label_BT[supervised_BT], reduction="sum")


def learning_rate_share(progress: float) -> float:
    """Warm-up, then a cosine from 1 to FINAL_LEARNING_RATE_SHARE; `progress` runs from 0 to 1."""
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return min(1.0, progress / WARMUP_SHARE) * (cosine * (1 - FINAL_LEARNING_RATE_SHARE) + FINAL_LEARNING_RATE_SHARE)


def step_schedule(steps: int) -> Iterator[float]:
    """Progress of each of `steps` steps, up to 1."""
    return ((step + 1) / steps for step in range(steps))


def time_schedule(seconds: float) -> Iterator[float]:
    """Progress of as many steps as start within `seconds`; at least one."""
    started = time.monotonic()
    progress = WARMUP_SHARE
    while progress < 1:
        yield progress
        progress = max(progress, (time.monotonic() - started) / seconds)


def train(
    model: PreTrainedModel,
    samples: Iterator[Encoded],
    schedule: Iterator[float],
    *,
    batch_size: int,
    learning_rate: float,
    embedding_learning_rate: float,
    report: Callable[[int, float], None],
) -> list[float]:
    """AdamW on the mean loss of each batch's supervised tokens: that loss at each step, in nats.

    `report` gets the number of steps done and the loss after each of them.
    """
    embedding = model.get_input_embeddings().weight
    others = [parameter for parameter in model.parameters() if parameter is not embedding]
    peaks = (embedding_learning_rate, learning_rate)
    optimizer = torch.optim.AdamW(
        [{"params": [embedding]}, {"params": others}], betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )
    losses: list[float] = []
    model.train()
    for step, progress in enumerate(schedule, start=1):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * learning_rate_share(progress)
        batch = sorted((next(samples) for _ in range(batch_size)), key=lambda sample: len(sample.tokens))
        supervised = sum(label != IGNORED for sample in batch for label in sample.labels)
        optimizer.zero_grad()
        batch_loss = 0.0
        # The shorter and the longer half apart: the same gradient with a third less padding.
        for half in (batch[: batch_size // 2], batch[batch_size // 2 :]):
            loss = summed_loss(model, half) / supervised
            loss.backward()
            batch_loss += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_CLIP)
        optimizer.step()
        losses.append(batch_loss)
        report(step, batch_loss)
    model.eval()
    return losses
