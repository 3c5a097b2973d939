"""The arguments and the environment of vLLM's engine for a plan."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bds.errors import PreflightError
from bds.evaluation.engines.plan import EnginePlan, ServedModel, tensor_shapes

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM takes."""

_WORKER_EXTENSION = "bds.evaluation.engines.vllm_worker.WeightsSwitch"


def set_environment(plan: EnginePlan) -> None:
    """Sets what vLLM and its processes read, for this process's lifetime. Call it before vLLM is imported."""
    given = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        # What it tells at lower levels grows with every request.
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    if all(Path(model.path).is_dir() for model in plan.models):
        given["HF_HUB_OFFLINE"] = "1"
    os.environ.update(given)


def set_cpu_environment() -> None:
    """What is different where vLLM computes without a GPU."""
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    # Otherwise the model runs in a process below the engine's: twice the start, and busy waiting between the two.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"


def engine_arguments(plan: EnginePlan, *, cpu: bool) -> dict[str, Any]:
    """vLLM's engine arguments by name; those of the settings' `engine_args` come last.

    Raises PreflightError where an adapter is of a kind that vLLM cannot load.
    """
    settings = plan.settings
    first = plan.models[0]
    names = [model.name for model in plan.models if model.adapter is None]
    arguments: dict[str, Any] = {
        "model": first.path,
        "revision": first.revision,
        "tokenizer": first.folder,
        "served_model_name": names or [first.path],
        "dtype": settings.dtype if settings.dtype != "auto" else "float32" if cpu else "bfloat16",
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.max_concurrent,
        "seed": settings.seed,
        "tensor_parallel_size": settings.tensor_parallel,
        # Otherwise the checkpoint's own temperature and penalties hold where a request gives none.
        "generation_config": "vllm",
        "worker_extension_cls": _WORKER_EXTENSION,
        "enable_log_requests": False,
        "disable_log_stats": True,
        # Each model's own template is sent with the request, by the server itself.
        "trust_request_chat_template": True,
    }
    if cpu:
        # Compiling takes longer than it saves in a run of minutes, and beside adapters vLLM does not compile at all.
        arguments |= {"enforce_eager": True, "kv_cache_memory_bytes": settings.kv_cache_gib << 30}
    else:
        part = settings.gpus_per_replica if isinstance(settings.gpus_per_replica, float) else 1.0
        arguments["gpu_memory_utilization"] = settings.memory_share * min(part or 1.0, 1.0)
    if plan.adapters:
        arguments |= {
            "enable_lora": True,
            "max_loras": min(len(plan.adapters) + 1, settings.max_loras),
            "max_lora_rank": _rank(plan.adapters),
            "lora_target_modules": sorted(adapter_modules(plan.adapters)),
        }
    return arguments | dict(settings.engine_args)


def adapter_modules(adapters: Iterable[ServedModel]) -> set[str]:
    """Last names of the modules that the adapters change.

    vLLM wraps these and no others. Above all it leaves the output head alone, whose wrapper kills the CPU engine as
    soon as two requests ask for log-probabilities of prompts (seen in 0.29 and 0.32).
    """
    found = set()
    for adapter in adapters:
        assert adapter.adapter is not None
        names = [name.rpartition(".lora_")[0] for name in tensor_shapes(Path(adapter.adapter))]
        if not names or "" in names:
            raise PreflightError(
                f"the adapter {adapter.adapter} holds no LoRA matrices as safetensors, or more than these, which vLLM "
                "cannot load beside its base; merge it into a model of its own, or set serving.engine to transformers"
            )
        found |= {name.rpartition(".")[2] for name in names}
    return found


def _rank(adapters: Iterable[ServedModel]) -> int:
    """The least rank of vLLM's that holds every adapter."""
    largest = 1
    for adapter in adapters:
        assert adapter.adapter is not None
        folder = Path(adapter.adapter)
        try:
            configuration = json.loads((folder / "adapter_config.json").read_text())
        except (OSError, ValueError) as error:
            raise PreflightError(f"{folder} holds no LoRA adapter: its adapter_config.json cannot be read") from error
        if configuration.get("peft_type") != "LORA" or configuration.get("use_dora"):
            raise PreflightError(
                f"the adapter {folder} is no plain LoRA, the only kind that vLLM loads; merge it into a model of its "
                "own, or set serving.engine to transformers"
            )
        largest = max(largest, configuration["r"], *configuration.get("rank_pattern", {}).values())
    for rank in _RANKS:
        if rank >= largest:
            return rank
    raise PreflightError(
        f"an adapter has rank {largest}, and vLLM takes {_RANKS[-1]} at most; set serving.engine to transformers"
    )
