"""What vLLM's engine is told for a plan; vLLM itself need not be installed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from bds.errors import PreflightError
from bds.evaluation.engines.plan import EnginePlan, EngineSettings, ServedModel
from bds.evaluation.engines.vllm_arguments import adapter_modules, engine_arguments

SETTINGS = EngineSettings(max_concurrent=7, max_model_len=99, kv_cache_gib=2, memory_share=0.8)


def adapter(folder: Path, modules: tuple[str, ...] = ("q_proj",), suffix: str = ".lora_A.weight", **fields: Any) -> str:
    folder.mkdir()
    configuration = {"peft_type": "LORA", "r": 4, "rank_pattern": {}, "use_dora": False, **fields}
    (folder / "adapter_config.json").write_text(json.dumps(configuration))
    names = [f"base_model.model.model.layers.0.{module}{suffix}" for module in modules]
    save_file({name: torch.zeros(1) for name in names}, folder / "adapter_model.safetensors")
    return str(folder)


def plan(*models: ServedModel, settings: EngineSettings = SETTINGS) -> EnginePlan:
    return EnginePlan("engine", (ServedModel("base", "owner/base", None, "0"), *models), settings)


def adapted(number: int, folder: str) -> ServedModel:
    return ServedModel(f"adapted {number}", "owner/base", folder, str(number))


def test_without_adapters_there_is_nothing_of_them() -> None:
    told = engine_arguments(plan(ServedModel("tuned", "owner/tuned", None, "1")), cpu=True)
    assert told["served_model_name"] == ["base", "tuned"]
    assert told["max_num_seqs"] == 7
    assert told["max_model_len"] == 99
    assert told["dtype"] == "float32"
    assert told["kv_cache_memory_bytes"] == 2 * 2**30
    assert not [name for name in told if "lora" in name]


def test_a_gpus_memory_is_shared_out() -> None:
    assert engine_arguments(plan(), cpu=False)["gpu_memory_utilization"] == 0.8
    half = replace(SETTINGS, gpus_per_replica=0.5)
    assert engine_arguments(plan(settings=half), cpu=False)["gpu_memory_utilization"] == 0.4
    several = replace(SETTINGS, gpus_per_replica=2.0, tensor_parallel=2)
    assert engine_arguments(plan(settings=several), cpu=False)["gpu_memory_utilization"] == 0.8
    assert engine_arguments(plan(), cpu=False)["dtype"] == "bfloat16"


def test_one_slot_more_than_adapters_and_only_their_modules(tmp_path: Path) -> None:
    one = adapted(1, adapter(tmp_path / "1", ("self_attn.q_proj", "mlp.up_proj"), r=4))
    two = adapted(2, adapter(tmp_path / "2", ("self_attn.v_proj",), r=8, rank_pattern={"layers.0": 17}))
    told = engine_arguments(plan(one, two), cpu=True)
    assert told["max_loras"] == 3
    assert told["max_lora_rank"] == 32
    assert told["lora_target_modules"] == ["q_proj", "up_proj", "v_proj"]
    few = replace(SETTINGS, max_loras=2)
    assert engine_arguments(plan(one, two, settings=few), cpu=True)["max_loras"] == 2


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"use_dora": True}, "is no plain LoRA"),
        ({"peft_type": "IA3"}, "is no plain LoRA"),
        ({"r": 513}, "has rank 513"),
        ({"suffix": ".weight"}, "more than these"),
        ({"modules": ()}, "holds no LoRA matrices"),
    ],
)
def test_adapters_that_vllm_cannot_load_are_named_before_it_starts(
    tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(PreflightError, match=words):
        engine_arguments(plan(adapted(1, adapter(tmp_path / "1", **fields))), cpu=True)


def test_an_adapter_of_the_output_head_is_seen(tmp_path: Path) -> None:
    head = adapted(1, adapter(tmp_path / "1", ("lm_head", "q_proj")))
    assert adapter_modules([head]) == {"lm_head", "q_proj"}


def test_the_users_own_arguments_come_last() -> None:
    own = replace(SETTINGS, engine_args={"max_num_seqs": 3, "swap_space": 0})
    told = engine_arguments(plan(settings=own), cpu=True)
    assert (told["max_num_seqs"], told["swap_space"]) == (3, 0)
