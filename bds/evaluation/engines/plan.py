"""Which models share one engine: as few engines as possible, for each takes a start and the memory of its weights.

LoRA adapters are served beside their base. Fine-tunes whose tensors have the same names and shapes take turns in one
engine, which reloads its weights. Whatever would change an answer (a configuration, a vocabulary, what ends an answer)
keeps models apart; chat templates do not, for each model is asked with its own.
"""

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from bds.data.values import canonical_json

EngineName = Literal["vllm", "transformers"]

_TELLING_NOTHING = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "pad_token_id"}
"""Fields of config.json that say where a model came from, or what the engine decides itself."""

_TOKENIZER_SETTINGS = {"truncation", "padding"}
"""Of tokenizer.json: they change when a trainer saves it, and nobody generates with them."""


@dataclass(frozen=True)
class ServedModel:
    """One name that an engine answers to."""

    name: str
    path: str
    """The model's folder or hub name."""
    adapter: str | None
    """A PEFT adapter's folder."""
    fingerprint: str
    revision: str | None = None

    @property
    def weights(self) -> tuple[str, str | None]:
        """What is in memory when it answers, apart from adapters."""
        return self.path, self.revision

    @property
    def folder(self) -> str:
        """Where its tokenizer and its chat template are."""
        if self.adapter is not None and (Path(self.adapter) / "tokenizer_config.json").is_file():
            return self.adapter
        return self.path


@dataclass(frozen=True)
class EngineSettings:
    """How an engine computes and how many there are of it. The fields are those of ServingSpec."""

    engine: EngineName = "vllm"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: float32 on a CPU, bfloat16 on a GPU."""
    max_model_len: int | None = None
    """Tokens of prompt and answer; None for the model's own."""
    max_concurrent: int = 64
    """Requests in flight on one replica."""
    replicas: int = 1
    max_replicas: int | None = None
    gpus_per_replica: float | Literal["auto"] = "auto"
    """auto: 1 where there are GPUs, else 0."""
    cpus_per_replica: int = 1
    tensor_parallel: int = 1
    memory_share: float = 0.9
    """Of a GPU's memory, or of the replica's part of one."""
    kv_cache_gib: int = 1
    """Of main memory, without a GPU."""
    max_loras: int = 8
    """Adapters that an engine holds at a time."""
    seed: int = 0
    engine_args: Mapping[str, Any] = field(default_factory=dict)
    """Any other argument of vLLM's engine."""


@dataclass(frozen=True)
class EnginePlan:
    """One engine and the names that it answers to."""

    id: str
    """Fit for a URL; differs between plans of one run."""
    models: tuple[ServedModel, ...]
    settings: EngineSettings

    @property
    def adapters(self) -> tuple[ServedModel, ...]:
        return tuple(model for model in self.models if model.adapter is not None)


def engine_plans(models: Sequence[ServedModel], settings: EngineSettings) -> list[EnginePlan]:
    """The engines that serve all models, in the order of each one's first model; models keep their order.

    A model that is no local folder shares an engine with its own adapters only: what it is cannot be compared.
    """
    groups: dict[str, list[ServedModel]] = {}
    for model in map(_anywhere, models):
        groups.setdefault(_engine_key(model), []).append(model)
    return [EnginePlan(_plan_id(group), tuple(group), settings) for group in groups.values()]


def _anywhere(model: ServedModel) -> ServedModel:
    """With absolute paths, for an engine's process has a working directory of its own."""
    adapter = None if model.adapter is None else str(Path(model.adapter).absolute())
    path = str(Path(model.path).absolute()) if Path(model.path).is_dir() else model.path
    return replace(model, path=path, adapter=adapter)


def _plan_id(models: Sequence[ServedModel]) -> str:
    names = canonical_json([[model.name, model.fingerprint] for model in models])
    return f"engine-{hashlib.sha256(names).hexdigest()[:12]}"


def _engine_key(model: ServedModel) -> str:
    """Equal where two models can share an engine."""
    vocabulary = None
    if model.folder != model.path and _vocabulary(Path(model.folder)) != _vocabulary(Path(model.path)):
        vocabulary = _vocabulary(Path(model.folder))
    return hashlib.sha256(canonical_json([_base(model), vocabulary])).hexdigest()


def _base(model: ServedModel) -> object:
    """What is equal of two models whose weights can take turns in one engine."""
    folder = Path(model.path)
    itself = ["itself", model.path, model.revision]
    if not folder.is_dir():
        return itself
    configuration = _json(folder / "config.json")
    shapes = tensor_shapes(folder)
    if not shapes or "quantization_config" in configuration:
        return itself
    told = {name: value for name, value in configuration.items() if name not in _TELLING_NOTHING}
    ends = _json(folder / "generation_config.json").get("eos_token_id")
    return ["same shape", told, ends, shapes, _vocabulary(folder)]


def tensor_shapes(folder: Path) -> dict[str, list[int]]:
    """Shape of every tensor of the safetensors files, by name, from their headers; empty where one is damaged.

    The format (github.com/huggingface/safetensors): 8 bytes with the header's length, then the header as JSON.
    """
    shapes: dict[str, list[int]] = {}
    for file in folder.glob("*.safetensors"):
        try:
            with file.open("rb") as opened:
                (length,) = struct.unpack("<Q", opened.read(8))
                header = json.loads(opened.read(min(length, file.stat().st_size)))
        except (OSError, ValueError, struct.error):
            return {}
        shapes |= {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
    return shapes


def _vocabulary(folder: Path) -> str:
    """SHA-256 over what turns text into tokens and back and what ends a text, without chat templates."""
    digest = hashlib.sha256()
    fast = _json(folder / "tokenizer.json")
    if fast:
        digest.update(canonical_json({name: fast[name] for name in fast if name not in _TOKENIZER_SETTINGS}))
    else:
        for name in ("tokenizer.model", "vocab.json", "merges.txt", "vocab.txt"):
            if (folder / name).is_file():
                digest.update((folder / name).read_bytes())
    digest.update(canonical_json(_json(folder / "tokenizer_config.json").get("eos_token")))
    return digest.hexdigest()


def _json(file: Path) -> dict[str, Any]:
    """The object in a file; empty where the file is not there or holds none."""
    try:
        value = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
