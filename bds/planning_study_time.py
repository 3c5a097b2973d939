"""How long the steps of a study take: by what steps of it have taken, where some have, else by counting operations."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from bds.planning_study_work import Spent, Work
from bds.spec.study import EstimateSpec

CPU = "cpu"


@dataclass(frozen=True)
class Estimate:
    """None stands for a number that nobody can tell, because a model's parameters are not known."""

    estimated_operations: float | None
    estimated_device_hours: float | None
    estimated_device_hours_left: float | None
    """Of what is not done yet."""
    estimated_from: str
    device: str
    """gpu, or what the step was measured on."""


def estimate(
    work: Work, spent: Sequence[Spent], parameters: Callable[[str], float | None], own: EstimateSpec
) -> Estimate:
    """Hours of one device, all devices together.

    In this order: the time that steps of the same kind on the same model took in this run, by tokens; that which steps
    of the same kind on other models took, by operations; the operations at the rate that the spec assumes.
    """
    size = parameters(work.model)
    operations = None if size is None else work.passes * size
    alike = [each for each in spent if each.kind == work.kind and each.passes > 0]
    same = [each for each in alike if each.model == work.model]
    seconds, told_by, device = None, "", "gpu"
    if work.passes == 0:
        seconds, told_by = 0.0, "nothing that a model computes"
    elif same:
        seconds = work.passes * sum(each.seconds for each in same) / sum(each.passes for each in same)
        told_by, device = "measured in this run", _device(same)
    elif operations is not None:
        sized = [(each, each_size) for each in alike if (each_size := parameters(each.model)) is not None]
        if sized:
            done = sum(each.passes * each_size for each, each_size in sized)
            seconds = operations * sum(each.seconds for each, _ in sized) / done
            told_by, device = "measured in this run on other models", _device([each for each, _ in sized])
        else:
            seconds = operations / (own.teraflops * 1e12 * own.utilisation)
            told_by = "operations at the assumed rate"
    else:
        told_by = f"not known: parameters of {work.model}"
    hours = None if seconds is None else seconds / 3600
    share_left = 1 - work.passes_done / work.passes if work.passes else 0.0
    left = None if hours is None else hours * max(0.0, share_left)
    return Estimate(operations, hours, left, told_by, device)


def totals(estimates: Sequence[Estimate], own: EstimateSpec) -> dict[str, object]:
    """Hours and cost of all steps. Only GPUs have a price."""
    on_gpu = [each for each in estimates if each.device != CPU]
    on_cpu = [each for each in estimates if each.device == CPU]
    gpu, gpu_left = _sum(on_gpu, "estimated_device_hours"), _sum(on_gpu, "estimated_device_hours_left")
    return {
        "estimated_gpu_hours": gpu,
        "estimated_gpu_hours_left": gpu_left,
        "estimated_cpu_hours": _sum(on_cpu, "estimated_device_hours"),
        "estimated_cpu_hours_left": _sum(on_cpu, "estimated_device_hours_left"),
        "estimated_cost": gpu * own.price_per_gpu_hour,
        "estimated_cost_left": gpu_left * own.price_per_gpu_hour,
        "currency": own.currency,
        "price_per_gpu_hour": own.price_per_gpu_hour,
        "steps_without_estimate": sum(each.estimated_device_hours is None for each in estimates),
    }


def _device(spent: Sequence[Spent]) -> str:
    devices = {each.device.partition(":")[0] for each in spent}
    return devices.pop() if len(devices) == 1 else "several devices"


def _sum(estimates: Sequence[Estimate], field: str) -> float:
    return sum(asdict(each)[field] or 0.0 for each in estimates)
