"""The tokenizer and the model of a spec, each with one clear sentence when it cannot be had."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import nn

from bds.errors import PreflightError
from bds.runs.messages import first_line
from bds.spec.models import LoraSpec, ModelSpec

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


def load_configuration(model: ModelSpec) -> "PretrainedConfig":
    """The model's configuration: the cheapest proof that there is a causal language model at `model.path`.

    Raises:
        PreflightError: nothing is there, it may not be read, or it is no causal language model.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        configuration = AutoConfig.from_pretrained(model.path, revision=model.revision)
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise PreflightError(f"model.path '{model.path}' cannot be read as a model: {_reason(error)}") from error
    if type(configuration) not in AutoModelForCausalLM._model_mapping:
        raise PreflightError(
            f"model.path '{model.path}' is a {configuration.model_type} model, not a causal language model; choose one "
            "that generates text"
        )
    return configuration


def model_shell(model: ModelSpec, parameters: str, lora: LoraSpec, dtype: torch.dtype) -> nn.Module:
    """The model that `load_model` gives, with its adapter, on the meta device: shapes and types without numbers.

    Of a model on a hub only the configuration is downloaded. Raises PreflightError where that cannot be read, and what
    the libraries raise where they cannot lay the model out.
    """
    from transformers import AutoModelForCausalLM

    configuration = load_configuration(model)
    with torch.device("meta"):
        shell: nn.Module = AutoModelForCausalLM.from_config(configuration, dtype=dtype)
        if model.adapter is not None:
            from peft import PeftConfig, get_peft_model

            return get_peft_model(shell, PeftConfig.from_pretrained(model.adapter))
        return new_adapter(shell, lora, dropout=0.0, where="score.lora") if parameters == "lora" else shell


def weights_needed(model: ModelSpec, device: str) -> int | None:
    """Bytes that the weights alone take on cpu or cuda; None for a model that cannot be laid out without its weights.

    Raises PreflightError where no configuration can be read.
    """
    dtype = choose_dtype(model, device)
    try:
        shell = model_shell(model, "all", LoraSpec(), dtype)
    except _UNREADABLE:
        return None
    return sum(part.numel() * part.element_size() for part in shell.parameters())


def load_tokenizer(model: ModelSpec) -> "PreTrainedTokenizerBase":
    """Raises PreflightError where the model directory has no usable tokenizer."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model.path, revision=model.revision)
    except (OSError, ValueError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise PreflightError(f"model.path '{model.path}' has no usable tokenizer: {_reason(error)}") from error


def choose_dtype(model: ModelSpec, device: str) -> torch.dtype:
    """`auto` is float32 on a CPU and the checkpoint's own type on a GPU."""
    if model.dtype != "auto":
        return getattr(torch, model.dtype)
    if device == "cpu":
        return torch.float32
    own = load_configuration(model).dtype
    return own if isinstance(own, torch.dtype) else torch.float32


def load_model(model: ModelSpec, parameters: str, lora: LoraSpec, device: str) -> nn.Module:
    """The model in evaluation mode on `device`, with its adapter, or a fresh one where `parameters` is lora.

    A fresh adapter begins at B = 0, where the gradient of A vanishes: scores then rest on the gradients of B alone.

    Raises:
        PreflightError: the weights or the adapter cannot be read, or they do not fit into memory.
    """
    loaded = load_weights(model, choose_dtype(model, device), device)
    if model.adapter is not None:
        loaded = load_adapter(loaded, model.adapter, trainable=False)
    elif parameters == "lora":
        loaded = new_adapter(loaded, lora, dropout=0.0, where="score.lora")
    return loaded.eval().requires_grad_(False)


def load_weights(model: ModelSpec, dtype: torch.dtype, device: str, *, workers: int = 1) -> nn.Module:
    """The model without its adapter. Raises PreflightError where it cannot be read or does not fit into memory.

    Args:
        workers: where more than one, those of the torch.distributed process group that the weights are spread over by
            FSDP2; every one of them calls this.
    """
    from transformers import AutoModelForCausalLM
    from transformers.distributed import DistributedConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    spread = {"distributed_config": DistributedConfig(fsdp_size=workers)} if workers > 1 else {}
    with weights_or_reason(model, device):
        loaded: Any = AutoModelForCausalLM.from_pretrained(model.path, revision=model.revision, dtype=dtype, **spread)
        if not spread:
            loaded = loaded.to(device)
    return loaded


@contextmanager
def weights_or_reason(model: ModelSpec, device: str) -> Iterator[None]:
    """Raises PreflightError where the weights that are loaded in the block cannot be read or do not fit into memory."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise PreflightError(
            f"model.path '{model.path}' does not fit into the memory of {device}; take a smaller "
            "dtype or a larger device"
        ) from error
    except _UNREADABLE as error:
        raise PreflightError(f"the weights of model.path '{model.path}' cannot be loaded: {_reason(error)}") from error


def load_adapter(model: nn.Module, adapter: str, *, trainable: bool) -> nn.Module:
    """The model with a saved PEFT adapter. Raises PreflightError where it cannot be read or does not fit."""
    from peft import PeftModel

    _ignore_renamed_name()
    try:
        with_adapter: nn.Module = PeftModel.from_pretrained(model, adapter, is_trainable=trainable)
    except _UNREADABLE as error:
        raise PreflightError(f"model.adapter '{adapter}' does not fit this model: {_reason(error)}") from error
    return with_adapter


def new_adapter(model: nn.Module, lora: LoraSpec, *, dropout: float, where: str) -> nn.Module:
    """The model with a fresh LoRA adapter, drawn by `lora.seed`. Raises PreflightError, naming the field `where`."""
    from peft import LoraConfig, get_peft_model

    _ignore_renamed_name()
    torch.manual_seed(lora.seed)
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, settings)
    except _UNREADABLE as error:
        raise PreflightError(f"{where} does not fit this model: {_reason(error)}") from error


_UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, SafetensorError)


def _ignore_renamed_name() -> None:
    """peft asks transformers for a name that transformers has renamed; nothing a user could do about it."""
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)


def _reason(error: BaseException) -> str:
    """The first sentence of a library's error: hubs append paragraphs of advice."""
    text = first_line(error)
    return text if len(text) <= 300 else text[:297] + "..."
