"""A small model with random weights in each of the supported architectures."""

import torch
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from bds.organism.recipe import Architecture

HEAD_SIZE = 32
"""The smallest attention head that the common inference engines accept."""


def small_config(
    architecture: Architecture, tokenizer: PreTrainedTokenizerFast, *, hidden_size: int, layers: int, context: int
) -> PretrainedConfig:
    """A configuration with tied embeddings and heads of HEAD_SIZE; `hidden_size` is a multiple of that.

    The three differ as the families do: Qwen2 has biases and one key-value head, GPT-NeoX layer norms, biases, a
    parallel residual and a partial rotary embedding.
    """
    heads = hidden_size // HEAD_SIZE
    shared = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": context,
        "tie_word_embeddings": True,
        # Wider than the usual 0.02: a model this narrow learns faster from it.
        "initializer_range": 0.05,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    match architecture:
        case "llama":
            return LlamaConfig(intermediate_size=2 * hidden_size, num_key_value_heads=heads, **shared)
        case "qwen2":
            return Qwen2Config(intermediate_size=3 * hidden_size, num_key_value_heads=1, **shared)
        case "gpt_neox":
            return GPTNeoXConfig(intermediate_size=4 * hidden_size, **shared)


def new_model(config: PretrainedConfig, seed: int) -> PreTrainedModel:
    """Random float32 weights of the seed. The caller's torch random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
