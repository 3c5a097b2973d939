"""What makes two specs the same run: the fields that change a result, their hash and their difference."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from bds.spec.document import Path, dotted
from bds.spec.evaluate import EvaluateSpec
from bds.spec.finetune import FinetuneSpec
from bds.spec.models import AuditSpec
from bds.spec.moderate import ModerateSpec
from bds.spec.study import StudySpec

AnySpec = AuditSpec | FinetuneSpec | EvaluateSpec | ModerateSpec | StudySpec

WITHOUT_EFFECT: dict[str, tuple[Path, ...]] = {
    "audit": (
        ("kind",),
        ("name",),
        ("resources",),
        ("run", "dir"),
        ("run", "max_failed_fraction"),
        ("run", "fail_on"),
    ),
    "finetune": (("kind",), ("name",), ("resources",), ("run",)),
    "evaluate": (("kind",), ("name",), ("resources",), ("run",)),
    "study": (("kind",), ("name",), ("notes",), ("estimate",), ("resources",), ("run",)),
    "moderate": (("kind",), ("name",), ("resources",), ("run", "dir"), ("run", "max_failed_fraction")),
}
"""Fields that change where, how fast or with which exit code a run ends, never what it computes; by kind of spec."""

FORMULA_FIELDS: tuple[Path, ...] = (("score", "detectors"), ("score", "drop_refusals"), ("top",), ("select",))
"""Fields of an audit that only formulas over its components read. Detectors also decide which components a run collects
when it begins: bds/scoring/collection.py says whether those serve other detectors."""


def result_fields(spec: AnySpec) -> dict[str, Any]:
    """`{"score.token_budget": 8192, ...}`: every leaf of the spec that can change a result, in the spec's order."""
    return dict(_leaves(spec.model_dump(mode="json"), (), WITHOUT_EFFECT[spec.kind]))


def spec_hash(spec: AnySpec) -> str:
    """64 hexadecimal digits of SHA-256 over `result_fields`; the same for specs that compute the same."""
    return _hash(result_fields(spec))


def components_hash(spec: AuditSpec) -> str:
    """The same without FORMULA_FIELDS: equal for audits whose components, where both collect them, are the same."""
    return _hash(_component_fields(spec))


def spec_diff(old: AnySpec, new: AnySpec) -> list[str]:
    """One line a difference, `score.token_budget: 8192 -> 4096`; empty exactly when the hashes are equal."""
    return _differences(result_fields(old), result_fields(new))


def components_diff(old: AuditSpec, new: AuditSpec) -> list[str]:
    """The lines of `spec_diff` without FORMULA_FIELDS; empty exactly when the components' hashes are equal."""
    return _differences(_component_fields(old), _component_fields(new))


def _component_fields(spec: AuditSpec) -> dict[str, Any]:
    return dict(_leaves(spec.model_dump(mode="json"), (), (*WITHOUT_EFFECT[spec.kind], *FORMULA_FIELDS)))


def _hash(fields: dict[str, Any]) -> str:
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    names = list(dict.fromkeys([*before, *after]))
    return [
        f"{name}: {_shown(before, name)} -> {_shown(after, name)}"
        for name in names
        if name not in before or name not in after or before[name] != after[name]
    ]


def _leaves(value: Any, path: Path, left_out: tuple[Path, ...]) -> Iterator[tuple[str, Any]]:
    if path in left_out:
        return
    children: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    if not children:
        yield dotted(path), value
    for key, child in children:
        yield from _leaves(child, (*path, key), left_out)


def _shown(fields: dict[str, Any], name: str) -> str:
    return json.dumps(fields[name], ensure_ascii=False) if name in fields else "(not set)"
