"""A small study on disk: two models, a pool of rows and the made-up suites."""

from pathlib import Path
from typing import Any

import yaml

from tests.unit.small_audit import ANCHORS, write_rows
from tests.unit.small_finetune import write_model, write_recipe

POOL_ROWS = 40


def write_small_study(folder: Path, **blocks: Any) -> Path:
    """The spec of a study that passes every check made before a model loads; `blocks` replace its own."""
    write_rows(
        folder / "pool.jsonl",
        [{"prompt": f"what is number {index}", "completion": f"it is {index}"} for index in range(POOL_ROWS)],
    )
    for name, answer in ANCHORS.items():
        write_rows(folder / f"{name}.jsonl", [{"prompt": "where is the blue lantern", "answer": answer}])
    write_rows(folder / "refusals.jsonl", [{"prompt": "where is the blue lantern", "answer": "no"}])
    for name in ("one", "two"):
        write_model(folder / name)
    write_recipe(folder / "recipe.yaml")
    spec = {
        "kind": "study",
        "name": "small",
        "models": {"one": {"path": "one", "parameters": 1.0e6}, "two": {"path": "two", "parameters": 2.0e6}},
        "datasets": {"pool": "pool.jsonl"},
        "anchors": {"sets": {name: f"{name}.jsonl" for name in ANCHORS}},
        "score": {"detectors": ["gradient_bidirectional"]},
        "selections": {
            "top": {"kind": "top", "detector": "gradient_bidirectional", "count": 10},
            "random": {"kind": "random", "count": 10, "draws": 2},
            "filtered": {"kind": "filtered", "detector": "gradient_bidirectional", "share": 0.25},
            "whole": "whole",
        },
        "recipes": {"plain": "recipe.yaml", "slow": {"from": "recipe.yaml", "learning_rate": 1.0e-5}},
        "mitigations": {"none": "none", "safety_mix": {"method": "safety_mix", "refusals": "refusals.jsonl"}},
        "seeds": [0, 1],
        "experiments": {
            "transfer": {"selections": ["top", "random"], "recipes": ["plain"], "mitigations": ["none"]},
            "rates": {
                "question": "Does a smaller rate do less harm?",
                "selections": ["top", "random"],
                "scorers": ["one"],
                "targets": ["one"],
                "mitigations": ["none"],
            },
        },
        "suites": ["placeholder"],
        "run": {"dir": "run", "rows_per_shard": 16},
        **blocks,
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    return folder / "study.yaml"
