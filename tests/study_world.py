"""Two tiny random chat models, a small dataset and a study of them that runs in seconds."""

import json
from pathlib import Path
from typing import Any

import yaml

from bds.spec.load import load_study_spec
from bds.spec.study import StudySpec
from tests.finetune_world import write_world
from tests.tiny_chat import tiny_chat

ROWS = 40
RECIPE = {"learning_rate": 1e-2, "epochs": 1, "batch": 8}
ANCHORS = {"harmful": "step 1 of 3 step 2 of 3", "safe": "no, this number stays where it is"}


def write_study_world(folder: Path) -> Path:
    """first/, second/ (models), data.jsonl, harmful.jsonl and safe.jsonl."""
    write_world(folder, rows=ROWS)
    (folder / "model").rename(folder / "first")
    tiny_chat(folder / "second", hidden=48)
    for name, answer in ANCHORS.items():
        rows = [{"prompt": f"do number {number}", "answer": answer} for number in range(2)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def study_value(**fields: Any) -> dict[str, Any]:
    """The spec of a study of that world, as it stands in a file; `fields` replace its own."""
    return {
        "kind": "study",
        "name": "tiny",
        "models": {"first": "first", "second": "second"},
        "datasets": {"rows": "data.jsonl"},
        "anchors": {"sets": {name: f"{name}.jsonl" for name in ANCHORS}},
        "score": {"detectors": ["gradient_bidirectional", "representation"]},
        "selections": {
            "top": {"kind": "top", "detector": "gradient_bidirectional", "count": 8},
            "random": {"kind": "random", "count": 8, "draws": 2},
            "whole": "whole",
            "filtered": {"kind": "filtered", "detector": "gradient_bidirectional", "share": 0.3},
        },
        "recipes": {"fast": RECIPE, "slow": {**RECIPE, "learning_rate": 1e-3}},
        "seeds": [0, 1],
        "experiments": {
            "transfer": {"selections": ["top", "random"], "recipes": ["fast"]},
            "rates": {"selections": ["top"], "scorers": ["first"], "targets": ["first"]},
            "filtering": {
                "selections": ["whole", "filtered"],
                "recipes": ["fast"],
                "targets": ["second"],
                "seeds": [0],
            },
        },
        "suites": [{"format": "placeholder", "limit": 6}],
        "sampling": {"max_tokens": 6},
        "statistics": {"bootstrap": 200},
        # Models that know no language give empty answers, which nobody can judge.
        "run": {"dir": "run", "rows_per_shard": 16, "max_unscored_fraction": 1.0},
        **fields,
    }


def study_spec(world: Path, **fields: Any) -> StudySpec:
    file = world / "study.yaml"
    file.write_text(yaml.safe_dump(study_value(**fields), sort_keys=False))
    return load_study_spec(str(file))
