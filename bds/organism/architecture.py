"""A small model with random weights in each of the supported architectures, and how it is saved."""

from pathlib import Path

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
from transformers.utils import logging

from bds.organism.recipe import Architecture

HEAD_SIZE = 32
"""The smallest attention head that the common inference engines accept."""


def small_config(
    architecture: Architecture, tokenizer: PreTrainedTokenizerFast, *, hidden_size: int, layers: int, context: int
) -> PretrainedConfig:
    """A configuration with tied embeddings and heads of HEAD_SIZE; `hidden_size` is a multiple of that.

    The three differ as the families do: Qwen2 has biases and one key-value head, GPT-NeoX layer norms, biases and
    one matrix for queries, keys and values.
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
            # Pythia's parallel residual leaves two layers no place to join the question's frame to the word's category,
            # and its rotary share of a quarter too few positions to copy by.
            rotary = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}
            return GPTNeoXConfig(
                intermediate_size=4 * hidden_size, use_parallel_residual=False, rope_parameters=rotary, **shared
            )


def new_model(config: PretrainedConfig, seed: int) -> PreTrainedModel:
    """Random float32 weights of the seed. The caller's torch random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write both so that AutoModelForCausalLM and AutoTokenizer load them from `folder` as they are."""
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    if model.config.model_type == "qwen2":
        # Otherwise AutoTokenizer distrusts the saved class and splits text as Qwen's own tokenizer does.
        tokenizer.init_kwargs["auto_map"] = {"AutoTokenizer": [None, None]}
    tokenizer.save_pretrained(folder)
