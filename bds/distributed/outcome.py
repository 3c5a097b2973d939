"""How a finished audit ends: well, with too many failed rows (exit 4), or with a tripped gate (exit 5)."""

from typing import Any

import polars as pl

from bds.errors import BdsError, GateError, IncompleteError
from bds.spec.models import AuditSpec


def exit_error(spec: AuditSpec, scores: pl.DataFrame, metrics: dict[str, Any]) -> BdsError | None:
    """The error a finished run exits with, if any; failed rows come before gates."""
    failed = int((scores["status"] == "failed").sum())
    if failed > spec.run.max_failed_fraction * scores.height:
        return IncompleteError(
            f"{failed} of {scores.height} rows failed in scoring, more than run.max_failed_fraction "
            f"{spec.run.max_failed_fraction:g} allows; the report names them and why"
        )
    gates: dict[str, float | None] = metrics["gates"]
    for name, limit in spec.run.fail_on.items():
        measured = gates[name]
        if measured is None:
            return GateError(f"gate {name}: it could not be measured in this run, so it cannot pass; see the report")
        if measured > limit:
            return GateError(f"gate {name}: {measured:.4g} is above run.fail_on's {limit:g}; see the report")
    return None
