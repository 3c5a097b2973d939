"""A guard model of a few kilobytes: a random byte-level Llama whose output head says `safe` or `unsafe`, a line each.

Which of the two it says depends on the exchange that it is shown and means nothing.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<bos>", "<user>", "<reply>", "<end>"]
WORDS = {"safe": "safeĊ", "unsafe": "unsafeĊ"}
"""The answers as tokens; Ċ is how a byte-level vocabulary writes a line break."""

TEMPLATE = (
    "{{ bos_token }}<user>TASK: judge the last {{ messages[-1].role }} turn."
    "{% for message in messages %} [{{ message.role }}] {{ message.content }}{% endfor %}"
    " [over] safe or unsafe?<end>{% if add_generation_prompt %}<reply>{% endif %}"
)
"""As those of published guards, it writes a task around the conversation and puts the question behind the answer."""

_CERTAINTY = 14.0


def tiny_guard(folder: Path, exchanges: list[tuple[str, str]], *, seed: int = 0) -> PreTrainedTokenizerFast:
    """Writes the guard to `folder`; of `exchanges` (prompt and answer) it calls about half unsafe."""
    tokenizer = _tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=4,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        hidden_ND = torch.stack([_last_hidden(model, tokenizer, *exchange) for exchange in exchanges])
        mean_D = hidden_ND.mean(0)
        # The direction in which the exchanges differ most, without what they have in common.
        apart_D = torch.linalg.svd(hidden_ND - mean_D).Vh[0]
        apart_D -= mean_D * (apart_D @ mean_D) / (mean_D @ mean_D)
        middle = (hidden_ND @ apart_D).median()
        apart_D -= mean_D * middle / (mean_D @ mean_D)
        certain_D = mean_D * _CERTAINTY / (mean_D @ mean_D)
        apart_D /= (hidden_ND @ apart_D).abs().max()
        model.lm_head.weight.zero_()
        for word, sign in (("safe", -1.0), ("unsafe", 1.0)):
            token = tokenizer.convert_tokens_to_ids(WORDS[word])
            model.lm_head.weight[token] = certain_D + sign * apart_D
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


def _tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*SPECIAL, *alphabet, *WORDS.values()]
    tokenizer = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<end>",
        chat_template=TEMPLATE,
        add_bos_token=True,
    )


def _last_hidden(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str) -> torch.Tensor:
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    return model.model(ids).last_hidden_state[0, -1]
