"""Tiny random models of every architecture family that the gradient engine promises, and an autograd oracle for
them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MixtralConfig,
    PretrainedConfig,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

VOCABULARY = 97
_SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = {**_SMALL, "num_key_value_heads": 2}

CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "llama_untied": lambda: LlamaConfig(**_GROUPED, tie_word_embeddings=False),
    "llama_tied": lambda: LlamaConfig(**_GROUPED, tie_word_embeddings=True),
    "llama_biases_tied": lambda: LlamaConfig(**_GROUPED, tie_word_embeddings=True, attention_bias=True, mlp_bias=True),
    "qwen3": lambda: Qwen3Config(**_GROUPED, head_dim=8, tie_word_embeddings=True),
    "gpt_neox": lambda: GPTNeoXConfig(**_SMALL, tie_word_embeddings=False),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.1
    ),
    "mixtral": lambda: MixtralConfig(**_GROUPED, num_local_experts=4, num_experts_per_tok=2, tie_word_embeddings=False),
    "qwen3_moe": lambda: Qwen3MoeConfig(
        **_GROUPED, head_dim=8, moe_intermediate_size=24, num_experts=6, num_experts_per_tok=3, norm_topk_prob=True,
        decoder_sparse_step=1, mlp_only_layers=[], tie_word_embeddings=True,
    ),
    "qwen2_moe_shared_expert": lambda: Qwen2MoeConfig(
        **_GROUPED, moe_intermediate_size=24, shared_expert_intermediate_size=40, num_experts=4, num_experts_per_tok=2,
        decoder_sparse_step=1, tie_word_embeddings=False,
    ),
    "gemma2_soft_cap": lambda: Gemma2Config(
        **_GROUPED, head_dim=8, final_logit_softcapping=5.0, attn_logit_softcapping=20.0, tie_word_embeddings=True
    ),
    "cohere_logit_scale": lambda: CohereConfig(**_GROUPED, logit_scale=0.5, tie_word_embeddings=True),
}  # fmt: skip


def tiny_model(name: str, dtype: torch.dtype = torch.float32, *, seed: int = 0, blocks: int = 2) -> nn.Module:
    """A random model whose norms and biases are not at their trivial start."""
    torch.manual_seed(seed)
    config: Any = CONFIGS[name]()
    config.num_hidden_layers = blocks
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[block % 2] for block in range(blocks)]
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", experts_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            elif parameter.ndim == 3 or name.endswith("moe"):
                parameter.copy_(torch.randn_like(parameter) * 0.15)
    return model.to(dtype).eval()


def tiny_lora_model(dtype: torch.dtype = torch.float32) -> nn.Module:
    model = get_peft_model(
        tiny_model("llama_tied"), LoraConfig(r=3, lora_alpha=6, target_modules="all-linear", lora_dropout=0.0)
    )
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    return model.to(dtype).eval()


class DoubleThroughout(TorchFunctionMode):
    """Lifts the float32 islands inside Hugging Face models (norms, rotary angles, routers) to float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.float:
            return args[0].double()
        args = tuple(torch.float64 if value is torch.float32 else value for value in args)
        kwargs = {key: torch.float64 if value is torch.float32 else value for key, value in kwargs.items()}
        return func(*args, **kwargs)


def made_up_samples(lengths: Sequence[int], *, seed: int = 0) -> list[tuple[list[int], list[bool]]]:
    """Token ids drawn from few distinct values, so that embedding rows repeat; the last 60 % is the answer."""
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for length in lengths:
        ids = torch.randint(0, VOCABULARY // 4, (length,), generator=generator).tolist()
        prompt = max(1, int(length * 0.4))
        samples.append((ids, [False] * prompt + [True] * (length - prompt)))
    return samples


def autograd_gradient(model: nn.Module, sample: tuple[list[int], list[bool]], names: frozenset[str]) -> Tensor:
    """The whole gradient of one sample by plain autograd on a batch of one, flattened in the order of sorted names."""
    ids, supervised = sample
    parameters = dict(model.named_parameters())
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
    wanted = torch.tensor(supervised[1:])
    loss = functional.cross_entropy(logits[wanted], torch.tensor(ids[1:])[wanted])
    grads = torch.autograd.grad(loss, [parameters[name] for name in sorted(names)], allow_unused=True)
    for parameter in parameters.values():
        parameter.requires_grad_(False)
    return torch.cat(
        [
            (torch.zeros_like(parameters[name]) if grad is None else grad).flatten().double()
            for name, grad in zip(sorted(names), grads, strict=True)
        ]
    )
