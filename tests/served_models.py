"""Random tiny models that engines serve: a base, a full fine-tune of it and three adapters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from bds.evaluation.engines.plan import ServedModel
from tests.tiny_chat import tiny_chat

OTHER_TEMPLATE = "{% for message in messages %}{{ message.content }}!{% endfor %}"
"""Of the adapter `b`."""


def write_models(folder: Path, hidden: int = 32) -> dict[str, ServedModel]:
    """base; tuned, a full fine-tune; the adapters a.1, b with its own chat template, and idle of no effect."""
    model, tokenizer = tiny_chat(folder / "base", hidden=hidden)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder / "tuned")
    tokenizer.save_pretrained(folder / "tuned")
    base = str(folder / "base")
    for seed, (name, spread) in enumerate({"a.1": 0.3, "b": 0.3, "idle": 0.0}.items()):
        _write_adapter(base, folder / name, seed, spread)
    tokenizer.chat_template = OTHER_TEMPLATE
    tokenizer.save_pretrained(folder / "b")
    adapters = {name: ServedModel(name, base, str(folder / name), f"print of {name}") for name in ("a.1", "b", "idle")}
    return {
        "base": ServedModel("base", base, None, "print of base"),
        "tuned": ServedModel("tuned", str(folder / "tuned"), None, "print of tuned"),
        **adapters,
    }


def _write_adapter(base: str, folder: Path, seed: int, spread: float) -> None:
    torch.manual_seed(seed)
    settings = LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=spread)
    adapted.save_pretrained(folder)


def load(served: ServedModel) -> Any:
    """The model as transformers and PEFT load it, in evaluation mode."""
    model = AutoModelForCausalLM.from_pretrained(served.path)
    return (model if served.adapter is None else PeftModel.from_pretrained(model, served.adapter)).eval()


@torch.no_grad()
def greedy(model: Any, prompt: Sequence[int], tokens: int) -> list[int]:
    """What transformers itself continues a prompt with."""
    prompt_BT = torch.tensor([list(prompt)])
    mask_BT = torch.ones_like(prompt_BT)
    output_BT = model.generate(input_ids=prompt_BT, attention_mask=mask_BT, max_new_tokens=tokens, do_sample=False)
    continued: list[int] = output_BT[0, len(prompt) :].tolist()
    return continued


@torch.no_grad()
def logprobs(model: Any, tokens: Sequence[int]) -> torch.Tensor:
    """Log-probabilities of the next token after each of the tokens: (T, V)."""
    return torch.log_softmax(model(input_ids=torch.tensor([list(tokens)])).logits[0], dim=-1)
