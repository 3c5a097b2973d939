"""bds (benign data safety): which samples of an ordinary fine-tuning dataset would break a chat model's alignment.

import bds

result = bds.audit(model="path/to/model", data="alpaca.json", anchors={"harmful": "harmful.jsonl"})
result.scores          # a Polars frame: one row a sample, a score and a rank for every detector
result.selections      # {"top": ..., "random": ...}: Polars frames
print(result.report)   # the path of the HTML report

trained = bds.finetune(models=["path/to/model"], datasets=["alpaca.json"], recipes=["recipe.yaml"])
trained.runs           # a Polars frame: one row a fine-tune, with its loss and the folder of the trained model

measured = bds.evaluate(models={"before": "path/to/model", "after": "path/to/tuned"}, suites=["placeholder"])
measured.metrics["contrasts"]   # what changed, with intervals

studied = bds.study("jobs/quickstart.yaml")
studied.results["transfer"]     # samples that one model chose break another by so much
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bds.api import audit, evaluate, finetune, moderate, study
    from bds.distributed.audit import AuditResult
    from bds.distributed.evaluate import EvaluationResult
    from bds.distributed.finetune import FinetuneResult
    from bds.distributed.moderate import ModerationResult
    from bds.distributed.study import StudyResult
    from bds.spec.evaluate import EvaluateSpec
    from bds.spec.finetune import FinetuneSpec
    from bds.spec.load import load_evaluate_spec, load_finetune_spec, load_spec, load_study_spec
    from bds.spec.models import AuditSpec
    from bds.spec.study import StudySpec

__all__ = [
    "AuditResult",
    "AuditSpec",
    "EvaluateSpec",
    "EvaluationResult",
    "FinetuneResult",
    "FinetuneSpec",
    "ModerationResult",
    "StudyResult",
    "StudySpec",
    "__version__",
    "audit",
    "evaluate",
    "finetune",
    "load_evaluate_spec",
    "load_finetune_spec",
    "load_spec",
    "load_study_spec",
    "moderate",
    "study",
]

_HOMES = {
    "audit": "bds.api",
    "evaluate": "bds.api",
    "finetune": "bds.api",
    "moderate": "bds.api",
    "study": "bds.api",
    "AuditResult": "bds.distributed.audit",
    "EvaluationResult": "bds.distributed.evaluate",
    "FinetuneResult": "bds.distributed.finetune",
    "ModerationResult": "bds.distributed.moderate",
    "StudyResult": "bds.distributed.study",
    "AuditSpec": "bds.spec.models",
    "EvaluateSpec": "bds.spec.evaluate",
    "FinetuneSpec": "bds.spec.finetune",
    "StudySpec": "bds.spec.study",
    "load_spec": "bds.spec.load",
    "load_evaluate_spec": "bds.spec.load",
    "load_finetune_spec": "bds.spec.load",
    "load_study_spec": "bds.spec.load",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use, so that importing bds is instant."""
    import importlib
    from importlib.metadata import version

    if name == "__version__":
        return version("benign-data-safety")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'bds' has no attribute {name!r}")
