"""What an actor or a worker would take, from the configuration of the model: `bds plan --memory`.

Apart from the other plans because this loads torch, which takes seconds.
"""

from dataclasses import asdict
from typing import Any

from bds.distributed.workers import room_here
from bds.errors import SpecError
from bds.scoring.dry_run import UnknownMemoryError
from bds.scoring.memory import ScoringMemory
from bds.scoring.stages import memory_model
from bds.spec.identity import AnySpec
from bds.training.memory import TrainingMemory, memory_of_finetune


def plan_memory(spec: AnySpec) -> dict[str, Any]:
    """Bytes by what takes them, on a GPU where the spec asks for one, or for auto where this machine has one.

    Returns:
        `device` (cpu or cuda), `process` (actor or worker), `described`, and where they can be said `total` and its
        parts.

    Raises:
        SpecError: a spec of another kind than audit and finetune.
        PreflightError: the model's configuration, its tokenizer or the anchors cannot be used.
    """
    found: ScoringMemory | TrainingMemory | None
    match spec.kind:
        case "audit":
            process, device = "actor", _device(spec.resources.gpus_per_actor)
            try:
                found = memory_model(spec, device).at(spec.score.token_budget)
            except UnknownMemoryError:
                found = None
        case "finetune":
            process, device = "worker", _device(spec.resources.gpus_per_worker)
            found = memory_of_finetune(spec, device)
        case _:
            raise SpecError(f"--memory is for an audit or for fine-tunes, and this is a spec of kind {spec.kind}")
    told: dict[str, Any] = {"device": device, "process": process}
    if found is None:
        return {**told, "described": "cannot be said of this model"}
    return {**told, **asdict(found), "total": found.total, "described": found.describe()}


def memory_text(planned: dict[str, Any]) -> str:
    """One line."""
    where = "a GPU" if planned["device"] == "cuda" else "a CPU"
    return f"memory of one {planned['process']} on {where}: {planned['described']}"


def _device(gpus: float | str) -> str:
    if gpus == "auto":
        return room_here()[0]
    return "cuda" if gpus else "cpu"
