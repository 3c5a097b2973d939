"""What a run tells Prometheus, by Ray's own metrics: each process counts what it has done; every node is scraped.

Ray adds the prefix `ray_`. Without a connected Ray (--local), or where its metrics are off, it ends at one question.
cluster/grafana.json is the board of these names.
"""

import functools
import os
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bds.runs.receipts import Receipt
from bds.training.curve import Trained


@dataclass(frozen=True)
class Metric:
    kind: Literal["counter", "gauge", "histogram"]
    description: str


STAGE = "stage"
"""The one tag: scoring, training, answering, judging; of a wait, what is waited for."""

METRICS = {
    "bds_rows_total": Metric("counter", "Rows that a stage has finished, failed ones included."),
    "bds_failed_rows_total": Metric("counter", "Rows that a stage has given up."),
    "bds_tokens_total": Metric("counter", "Tokens that went through a model."),
    "bds_retries_total": Metric("counter", "Shards and requests that were tried again."),
    "bds_model_flops_utilization": Metric(
        "gauge", "Operations of the model by the time they took, as a share of the GPU's dense bfloat16 peak."
    ),
    "bds_gpu_memory_bytes": Metric("gauge", "Most GPU memory that the process's tensors have taken."),
    "bds_queue_wait_seconds": Metric("histogram", "How long a stage waited for the cluster to have room."),
}

_SWITCH = "RAY_enable_metrics_collection"

_WAITS = [1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0]

_PEAK_TERAFLOPS = {"A100": 312.0, "H100": 989.0, "H200": 989.0, "B200": 2250.0, "L4": 121.0, "L40S": 362.0}
"""Dense bfloat16, as the maker says. Of any other GPU no utilisation is told."""
_OTHER_PEAKS = ("H100 PCIE", "H100 NVL", "H200 NVL", "MIG")
"""In the names of variants that are slower."""


def shard_scored(receipt: Receipt, *, tries: int, operations_per_token: float | None) -> None:
    """A shard of which this process has written the receipt."""
    if not _on():
        return
    stage = "scoring"
    _count("bds_rows_total", stage, receipt.rows_ok + receipt.rows_not_ok)
    _count("bds_tokens_total", stage, receipt.tokens)
    _count("bds_retries_total", stage, tries - 1)
    if operations_per_token:
        _utilization(stage, operations_per_token * receipt.tokens, receipt.seconds)
    _gpu_memory(stage)


def shard_given_up(receipt: Receipt, *, tries: int) -> None:
    """Told by the driver, which writes the receipt of such a shard."""
    if _on():
        _count("bds_rows_total", "scoring", receipt.rows_ok + receipt.rows_not_ok)
        _count("bds_failed_rows_total", "scoring", receipt.rows_not_ok)
        _count("bds_retries_total", "scoring", tries - 1)


def reply_kept(stage: Literal["answering", "judging"], row: Mapping[str, Any]) -> None:
    """A row that a served model has answered, or failed to."""
    if _on():
        _count("bds_rows_total", stage, 1)
        _count("bds_failed_rows_total", stage, row["status"] == "failed")
        _count("bds_tokens_total", stage, row.get("answer_tokens") or 0)
        _count("bds_retries_total", stage, sum(row["faults"].values()))


class StepMeter:
    """The optimiser steps of one fine-tune, told by its worker of rank 0."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._last: float | None = None

    def add(self, trained: Trained) -> None:
        if not _on():
            return
        now = time.perf_counter()
        _count("bds_rows_total", "training", trained.rows)
        _count("bds_tokens_total", "training", trained.tokens)
        if self._last is not None:
            # The first step has loading and compiling before it, which are not its own.
            _utilization("training", trained.operations / self._workers, now - self._last)
        self._last = now
        _gpu_memory("training")


def waited(noun: str, seconds: float) -> None:
    """Told by the driver when the cluster has room, or has not had it in time."""
    if _on():
        _metric("bds_queue_wait_seconds").observe(seconds, tags={STAGE: noun})


def peak_operations(gpu: str) -> float | None:
    """A second, of a GPU by the name that its driver gives it; None where it is not known."""
    if any(variant in gpu.upper() for variant in _OTHER_PEAKS):
        return None
    words = re.split(r"[^A-Z0-9]+", gpu.upper())
    return next((_PEAK_TERAFLOPS[word] * 1e12 for word in words if word in _PEAK_TERAFLOPS), None)


def _on() -> bool:
    """Ray is not imported for this: where nobody else has, there is none to tell."""
    ray = sys.modules.get("ray")
    if ray is None or os.environ.get(_SWITCH, "1").lower() in {"0", "false"}:
        return False
    return bool(ray.is_initialized())


def _count(name: str, stage: str, amount: float) -> None:
    # Ray refuses to add nothing to a counter.
    if amount > 0:
        _metric(name).inc(amount, tags={STAGE: stage})


def _utilization(stage: str, operations: float, seconds: float) -> None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or seconds <= 0:
        return
    peak = peak_operations(torch.cuda.get_device_name())
    if peak is not None:
        _metric("bds_model_flops_utilization").set(operations / seconds / peak, tags={STAGE: stage})


def _gpu_memory(stage: str) -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        _metric("bds_gpu_memory_bytes").set(torch.cuda.max_memory_allocated(), tags={STAGE: stage})


@functools.cache
def _metric(name: str) -> Any:
    """One object a process and name: Ray registers each."""
    from ray.util import metrics

    described = METRICS[name]
    if described.kind == "histogram":
        return metrics.Histogram(name, described.description, boundaries=_WAITS, tag_keys=(STAGE,))
    kind = metrics.Counter if described.kind == "counter" else metrics.Gauge
    return kind(name, described.description, tag_keys=(STAGE,))
