"""What a step of a study asks of a cluster before it begins beside others."""

from pathlib import Path
from typing import Any

import pytest
import ray

from bds.distributed.study_runners import least_resources
from bds.studies.steps import Step
from tests.study_world import study_spec

STEPS = {"audit": Step("audit", "a"), "finetune": Step("finetune", "f"), "evaluate": Step("evaluate", "e")}


@pytest.mark.parametrize(
    ("kind", "fields", "without_gpus", "with_gpus"),
    [
        ("audit", {"resources": {"scoring": {"cpus_per_actor": 2}}}, {"CPU": 2}, {"CPU": 2, "GPU": 1}),
        ("audit", {"resources": {"scoring": {"parts_per_model": 3}}}, {"CPU": 3}, {"CPU": 3, "GPU": 3}),
        ("audit", {"resources": {"scoring": {"gpus_per_actor": 0}}}, {"CPU": 1}, {"CPU": 1}),
        ("finetune", {"resources": {"training": {"workers": 4}}}, {"CPU": 4}, {"CPU": 4, "GPU": 4}),
        ("evaluate", {"serving": {"replicas": 2, "gpus_per_replica": 0.5}}, {"CPU": 2, "GPU": 1}, {"CPU": 2, "GPU": 1}),
        ("evaluate", {"serving": {"replicas": 2, "tensor_parallel": 4}}, {"CPU": 2}, {"CPU": 2, "GPU": 8}),
    ],
)
def test_auto_is_a_gpu_a_process_where_the_cluster_has_gpus(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    fields: dict[str, Any],
    without_gpus: dict[str, float],
    with_gpus: dict[str, float],
) -> None:
    spec = study_spec(tmp_path, **fields)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0})
    assert least_resources(spec, STEPS[kind]) == without_gpus
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 8.0})
    assert least_resources(spec, STEPS[kind]) == with_gpus
