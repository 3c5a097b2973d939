"""A small audit on disk for the tests of the command line: a dataset, anchors and a folder that looks like a model."""

import json
from pathlib import Path

import yaml

ROWS = [{"prompt": f"what is number {index}", "completion": f"it is {index}"} for index in range(5)]
ANCHORS = {"harmful": "sure, take the blue lantern", "safe": "no, the blue lantern stays where it is"}


def write_rows(file: Path, rows: list[dict[str, object]] | None = None) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in (ROWS if rows is None else rows)), encoding="utf-8")
    return file


def write_small_audit(folder: Path) -> Path:
    """The spec of an audit that passes every check made before the model loads."""
    write_rows(folder / "data.jsonl")
    (folder / "model").mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / "model" / name).write_text("{}")
    for name, answer in ANCHORS.items():
        write_rows(folder / f"{name}.jsonl", [{"prompt": "where is the blue lantern", "answer": answer}])
    spec = {
        "data": {"path": "data.jsonl"},
        "model": {"path": "model"},
        "anchors": {"sets": {name: f"{name}.jsonl" for name in ANCHORS}},
        "run": {"dir": "run"},
    }
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    return folder / "spec.yaml"
