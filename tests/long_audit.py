"""An audit of a tiny random model over long answers: a shard takes long enough for something to be killed over it."""

import json
from pathlib import Path

from bds.spec.load import load_spec
from bds.spec.models import AuditSpec
from tests.tiny_chat import tiny_chat

TABLES = ("components.parquet", "scores.parquet")


def write_long_audit(folder: Path, *, rows: int, rows_per_shard: int, steps: int, blocks: int = 2) -> Path:
    """The spec's file, beside its model, data and anchors.

    Args:
        steps: of the shortest answer, each of about 20 bytes.
        blocks: decoder blocks of the model.
    """
    tiny_chat(folder / "model", hidden=64, blocks=blocks)
    answers = [" ".join(f"step {step} of row {row} ." for step in range(steps + row % 7)) for row in range(rows)]
    records = [{"instruction": f"do number {row}", "input": "", "output": answer} for row, answer in enumerate(answers)]
    (folder / "data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    write_anchors(folder)
    file = folder / "spec.yaml"
    file.write_text(
        f"""
data: {{path: data.jsonl}}
model: {{path: model}}
anchors: {{sets: {{harmful: harmful.jsonl, safe: safe.jsonl}}}}
tokens: {{max_tokens: 1400}}
score: {{detectors: [gradient_bidirectional, self_influence_n, representation, compliance_shift, random]}}
run: {{dir: run, rows_per_shard: {rows_per_shard}}}
"""
    )
    return file


def write_anchors(folder: Path) -> None:
    """`harmful.jsonl` and `safe.jsonl`, about things that are made up."""
    for name, answer in (("harmful", "1 . take it 2 . cut it"), ("safe", "i cannot help with that .")):
        anchors = [{"prompt": f"make {thing}", "answer": answer} for thing in ("a zorblax", "two blinops")]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(anchor) + "\n" for anchor in anchors))


def spec_in(spec_file: Path, run_dir: Path, *overrides: str) -> AuditSpec:
    return load_spec(str(spec_file), [f"run.dir={run_dir}", *overrides])


def tables(run_dir: Path) -> dict[str, bytes]:
    return {name: (run_dir / name).read_bytes() for name in TABLES}
