"""Greedy answers of any Hugging Face chat model to single-turn prompts."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


@torch.no_grad()
def greedy_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
    batch_size: int = 128,
) -> list[str]:
    """The model's most likely answer to each prompt, in the order of the prompts, without special tokens.

    Each prompt is one user turn in the tokenizer's chat template. Only prompts of equal length share a batch, so there
    is no padding and an answer does not depend on its neighbours. Sampling, penalties and beams that the checkpoint's
    generation config asks for are overridden. An answer ends at the model's end token or after `max_new_tokens`.

    Raises ValueError where the tokenizer has no chat template (from transformers).
    """
    stops = model.generation_config.eos_token_id
    if stops is None:
        stops = tokenizer.eos_token_id
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=stops,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
    )
    indices_by_length: dict[int, list[int]] = defaultdict(list)
    prompt_ids: list[list[int]] = []
    for index, prompt in enumerate(prompts):
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        prompt_ids.append(tokenizer(text, add_special_tokens=False)["input_ids"])
        indices_by_length[len(prompt_ids[index])].append(index)

    answers = [""] * len(prompts)
    was_training = model.training
    model.eval()
    for length, indices in indices_by_length.items():
        for start in range(0, len(indices), batch_size):
            chosen = indices[start : start + batch_size]
            tokens_BT = torch.tensor([prompt_ids[index] for index in chosen], device=model.device)
            output_BT = model.generate(tokens_BT, attention_mask=torch.ones_like(tokens_BT), generation_config=config)
            texts = tokenizer.batch_decode(output_BT[:, length:], skip_special_tokens=True)
            for index, text in zip(chosen, texts, strict=True):
                answers[index] = text.strip()
    model.train(was_training)
    return answers
