"""Which process has which decoder blocks, and loading the weights of those alone."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bds.errors import PreflightError
from bds.scoring.layers import decoder_blocks
from bds.scoring.loading import load_configuration, weights_or_reason
from bds.spec.models import ModelSpec


@dataclass(frozen=True)
class Share:
    """What one process has of a model that is spread over `processes`: 0 is the hub, the others are parts in order."""

    process: int
    processes: int

    @property
    def is_hub(self) -> bool:
        return self.process == 0


def divide(blocks: Sequence[int], around: int, processes: int) -> list[range]:
    """Consecutive blocks of every process, at least one each, so that the largest process is as small as can be.

    Args:
        blocks: numbers in every decoder block.
        around: numbers in embeddings, final norm and output head, which the first process has beside its blocks.

    Raises:
        PreflightError: there are fewer blocks than processes.
    """
    if len(blocks) < processes:
        raise PreflightError(
            f"resources.parts_per_model asks for {processes} processes and the model has {len(blocks)} decoder blocks "
            "to spread; ask for no more than that"
        )
    before = [0]
    for size in blocks:
        before.append(before[-1] + size)
    # best[stop]: the smallest possible largest process over blocks before `stop`, and where its last process begins.
    best = {stop: (around + before[stop], 0) for stop in range(1, len(blocks) + 1)}
    starts = []
    for process in range(1, processes):
        best = {
            stop: min((max(best[start][0], before[stop] - before[start]), start) for start in range(process, stop))
            for stop in range(process + 1, len(blocks) + 1)
        }
        starts.append({stop: start for stop, (_, start) in best.items()})
    edges = [len(blocks)]
    for start_of in reversed(starts):
        edges.append(start_of[edges[-1]])
    edges.append(0)
    edges.reverse()
    return [range(first, last) for first, last in itertools.pairwise(edges)]


def own_blocks(model: nn.Module, share: Share) -> range:
    """The blocks of a share; the same in every process, as only the sizes of weights decide, wherever these are."""
    blocks = decoder_blocks(model)
    sizes = [sum(parameter.numel() for parameter in block.parameters()) for block in blocks]
    total = sum(parameter.numel() for parameter in model.parameters())
    return divide(sizes, total - sum(sizes), share.processes)[share.process]


def load_share(spec: ModelSpec, share: Share, dtype: torch.dtype, device: str) -> nn.Module:
    """The model with the weights of one share on `device`, and all others without memory (on the meta device).

    Safetensors files are mapped into memory, so that the weights of others are not read either.

    Raises:
        PreflightError: the weights cannot be read, do not fit into memory, or are of fewer blocks than processes.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    configuration = load_configuration(spec)
    with _left_where_loaded(), weights_or_reason(spec, device):
        with torch.device("meta"):
            skeleton: Any = AutoModelForCausalLM.from_config(configuration)
        places = _devices(skeleton, share, device)
        model: nn.Module = AutoModelForCausalLM.from_pretrained(
            spec.path, revision=spec.revision, dtype=dtype, device_map=places
        )
    return model.eval().requires_grad_(False)


def _devices(skeleton: nn.Module, share: Share, device: str) -> dict[str, str]:
    """Of every block and every parameter around the blocks; buffers outside blocks are computed, and needed by all."""
    blocks = decoder_blocks(skeleton)
    prefix = next(name for name, module in skeleton.named_modules() if module is blocks)
    own = own_blocks(skeleton, share)
    around = device if share.is_hub else "meta"
    inside = {id(parameter) for parameter in blocks.parameters()}
    return {
        "": device,
        **{
            name: around
            for name, parameter in skeleton.named_parameters(remove_duplicate=False)
            if id(parameter) not in inside
        },
        **{f"{prefix}.{index}": device if index in own else "meta" for index in range(len(blocks))},
    }


@contextmanager
def _left_where_loaded() -> Iterator[None]:
    """from_pretrained hands a model on several devices to accelerate, whose hooks would then load weights that are not
    here. There is no argument against it."""
    from transformers import modeling_utils

    dispatch = modeling_utils.accelerate_dispatch
    modeling_utils.accelerate_dispatch = lambda *args, **kwargs: None
    try:
        yield
    finally:
        modeling_utils.accelerate_dispatch = dispatch
