"""What a model spread over processes cannot do is told before anything is looked at."""

from typing import Any

import pytest

from bds.checks import check_spec
from bds.errors import PreflightError, SpecError
from bds.spec.models import AuditSpec

BASE: dict[str, Any] = {
    "data": {"path": "/nowhere/data.jsonl"},
    "model": {"path": "/nowhere/model"},
    "anchors": {"sets": {"harmful": "/nowhere/harmful.jsonl", "safe": "/nowhere/safe.jsonl"}},
    "score": {"detectors": ["self_influence"]},
    "run": {"dir": "/nowhere/run"},
}


def spec(parts: int, **blocks: dict[str, Any]) -> AuditSpec:
    merged = {name: {**BASE.get(name, {}), **blocks.get(name, {})} for name in {*BASE, *blocks}}
    return AuditSpec.model_validate({**merged, "resources": {"parts_per_model": parts}})


@pytest.mark.parametrize(
    ("blocks", "field"),
    [
        ({"model": {"adapter": "/nowhere/adapter"}}, "field model.adapter: "),
        ({"score": {"parameters": "lora"}}, "field score.parameters: "),
        (
            {"score": {"detectors": ["self_influence", {"name": "larf", "probe_prompts": "/nowhere/probes.jsonl"}]}},
            r"field score.detectors.1.probe_prompts: .* set the detector's layer",
        ),
    ],
    ids=str,
)
def test_it_is_refused_for_several_processes_alone(blocks: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError, match=field):
        check_spec(spec(2, **blocks))
    with pytest.raises(PreflightError, match="does not exist"):
        check_spec(spec(1, **blocks))


def test_anything_else_goes_on_to_the_files() -> None:
    with pytest.raises(PreflightError, match="does not exist"):
        check_spec(spec(3))
