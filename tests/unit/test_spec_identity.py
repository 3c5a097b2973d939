"""The hash of a spec changes exactly with what changes a result, and the difference says what that was."""

from typing import Any

import pytest

from bds.spec.identity import components_diff, components_hash, result_fields, spec_diff, spec_hash
from bds.spec.models import AuditSpec

BASE: dict[str, Any] = {"data": {"path": "/d"}, "model": {"path": "m"}, "run": {"dir": "/r"}}


def changed(**blocks: Any) -> AuditSpec:
    merged = {**BASE}
    for name, value in blocks.items():
        merged[name] = {**merged.get(name, {}), **value} if isinstance(value, dict) else value
    return AuditSpec.model_validate(merged)


@pytest.mark.parametrize(
    "blocks",
    [
        {"name": "other"},
        {"resources": {"actors": 8, "gpus_per_actor": 1, "address": "auto"}},
        {"run": {"dir": "/elsewhere"}},
        {"run": {"max_failed_fraction": 0.5}},
        {"run": {"fail_on": {"flagged_fraction": 0.5}}},
        {"tokens": {"max_tokens": 1024}},
        {"score": {"layers": [-1]}},
    ],
    ids=str,
)
def test_what_changes_no_result_keeps_the_hash(blocks: dict[str, Any]) -> None:
    assert spec_hash(changed(**blocks)) == spec_hash(changed())
    assert spec_diff(changed(), changed(**blocks)) == []


@pytest.mark.parametrize(
    ("blocks", "lines"),
    [
        ({"score": {"token_budget": 4096}}, ["score.token_budget: 8192 -> 4096"]),
        ({"data": {"limit": 5}}, ["data.limit: null -> 5"]),
        ({"run": {"rows_per_shard": 2}}, ["run.rows_per_shard: 256 -> 2"]),
        ({"model": {"path": "n"}}, ['model.path: "m" -> "n"']),
        (
            {"anchors": {"sets": {"harmful": "/h"}}},
            [
                "anchors.sets: {} -> (not set)",
                'anchors.sets.harmful.path: (not set) -> "/h"',
                'anchors.sets.harmful.role: (not set) -> "harmful"',
            ],
        ),
        ({"score": {"layers": [-1, 2]}}, ["score.layers.1: (not set) -> 2"]),
        ({"top": 7}, ["top: null -> 7"]),
    ],
    ids=str,
)
def test_what_changes_a_result_changes_hash_and_difference(blocks: dict[str, Any], lines: list[str]) -> None:
    assert spec_hash(changed(**blocks)) != spec_hash(changed())
    assert sorted(spec_diff(changed(), changed(**blocks))) == sorted(lines)


@pytest.mark.parametrize(
    "blocks",
    [
        {"score": {"detectors": ["loss", {"name": "random", "seed": 1}]}},
        {"score": {"drop_refusals": True}},
        {"select": [{"kind": "random", "count": 3}]},
        {"top": 7},
    ],
    ids=str,
)
def test_what_only_formulas_read_keeps_the_components(blocks: dict[str, Any]) -> None:
    assert spec_hash(changed(**blocks)) != spec_hash(changed())
    assert components_hash(changed(**blocks)) == components_hash(changed())
    assert components_diff(changed(), changed(**blocks)) == []


def test_every_other_field_is_one_that_components_depend_on() -> None:
    one, two = changed(top=7, score={"layers": [0]}), changed(score={"layers": [1], "detectors": ["loss"]})
    assert components_diff(one, two) == ["score.layers.0: 0 -> 1"]
    assert components_hash(one) != components_hash(two)


def test_every_field_is_in_the_hash_but_the_named_ones() -> None:
    """A field added to the models later is part of the hash unless somebody says that it changes no result."""
    blocks = {name.split(".")[0] for name in result_fields(changed())}
    assert blocks == set(AuditSpec.model_fields) - {"kind", "name", "resources"}
    assert {name for name in result_fields(changed()) if name.startswith("run.")} == {"run.rows_per_shard"}


def test_the_hash_does_not_depend_on_the_order_of_anchor_sets_written() -> None:
    one = changed(anchors={"sets": {"harmful": "/h", "safe": "/s"}})
    two = changed(anchors={"sets": {"safe": "/s", "harmful": "/h"}})
    assert spec_hash(one) == spec_hash(two)
    assert spec_diff(one, two) == []


def test_the_hash_is_stable_over_time() -> None:
    """A resumed run compares with a hash on storage: 64 digits, the same in every process."""
    assert len(spec_hash(changed())) == 64
    assert spec_hash(changed()) == spec_hash(AuditSpec.model_validate_json(changed().model_dump_json()))
