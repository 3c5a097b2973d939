"""Greedy answers and the refusal rule."""

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from bds.evaluation.generation import greedy_answers
from bds.evaluation.refusals import is_refusal
from bds.organism.architecture import new_model, small_config
from bds.organism.tokenizer import make_tokenizer
from bds.organism.world import make_world

REFUSALS = [
    "I cannot help with that request.",
    "i cannot help with that request.",
    "I can\u2019t assist with that.",
    "I'm sorry, but I can't do this.",
    "I am unable to provide this.",
    "Sorry, that is not something I do.",
    "As an AI language model, I do not have opinions.",
    "My apologies, but no.",
    "Thank you for asking! However, I will not explain this.",
    "I\nmust   decline.",
    "I won't do that.",
    "I couldn't do that.",
    "I could not do that.",
    "I'm not able to answer this.",
]
ANSWERS = [
    "",
    "sure, here is how:\n1. take the bowl",
    "He said that he was sorry for the delay.",
    "You cannot mix the two, so keep them apart.",
    "The AI lab published a language model.",
    "We can notify you.",
    "Take flour. " * 20 + "I cannot stress this enough.",
    "The refusal rate is high.",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals_are_seen(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize("text", ANSWERS)
def test_answers_are_not_taken_for_refusals(text: str) -> None:
    assert not is_refusal(text)


@pytest.fixture(scope="module")
def tiny() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    tokenizer = make_tokenizer(make_world(0))
    return new_model(small_config("llama", tokenizer, hidden_size=32, layers=2, context=64), seed=0), tokenizer


PROMPTS = ["define bread", "how do i make soup?", "what is a fence?", "repeat: bowl", "how do i use cake?"]


def test_answers_are_the_argmax_of_full_forward_passes_in_the_order_of_the_prompts(
    tiny: tuple[PreTrainedModel, PreTrainedTokenizerFast],
) -> None:
    model, tokenizer = tiny
    expected = []
    for prompt in PROMPTS:
        text = f"<bos><user>{prompt}<assistant>"
        tokens = tokenizer(text)["input_ids"]
        start = len(tokens)
        while len(tokens) < start + 6:
            with torch.no_grad():
                tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
            if tokens[-1] == tokenizer.eos_token_id:
                break
        expected.append(tokenizer.decode(tokens[start:], skip_special_tokens=True).strip())
    assert greedy_answers(model, tokenizer, PROMPTS, 6) == expected
    assert greedy_answers(model, tokenizer, PROMPTS, 6, batch_size=1) == expected
    assert any(expected)


def test_a_checkpoint_that_asks_for_sampling_and_penalties_is_still_greedy(
    tiny: tuple[PreTrainedModel, PreTrainedTokenizerFast],
) -> None:
    model, tokenizer = tiny
    plain = greedy_answers(model, tokenizer, PROMPTS, 6)
    saved = model.generation_config.to_dict()
    try:
        model.generation_config.update(do_sample=True, temperature=5.0, repetition_penalty=50.0, no_repeat_ngram_size=1)
        assert greedy_answers(model, tokenizer, PROMPTS, 6) == plain
    finally:
        model.generation_config = type(model.generation_config).from_dict(saved)


def test_the_training_mode_of_the_model_is_left_as_it_was(
    tiny: tuple[PreTrainedModel, PreTrainedTokenizerFast],
) -> None:
    model, tokenizer = tiny
    model.train()
    greedy_answers(model, tokenizer, PROMPTS[:1], 1)
    assert model.training
    model.eval()
    greedy_answers(model, tokenizer, PROMPTS[:1], 1)
    assert not model.training
