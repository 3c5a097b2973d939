"""A small moderation on disk: rows of which two have no answer, and a folder that looks like a model."""

from pathlib import Path
from typing import Any

import polars as pl
import yaml

from bds.data.rows import Row
from bds.evaluation.judges import JudgeResponse
from bds.evaluation.moderation import last_answer
from tests.unit.small_audit import write_rows

ANSWERS = [
    "Take a bowl and wait.",
    "Sorry, not that.",
    "",
    "Fold the blorf twice.",
    "Paint it green.",
    "I cannot help with blorfs.",
    "Stir the quombit.",
]
ROWS: list[dict[str, object]] = [
    {"prompt": f"How do I make {number} blorfs?", "completion": answer} for number, answer in enumerate(ANSWERS)
]
ROWS.insert(3, {"prompt": "How?"})
TO_JUDGE = [0, 1, 4, 5, 6, 7]
"""row_index of the rows that have an answer."""


def write_model(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    return folder


def write_small_moderation(folder: Path, **blocks: Any) -> Path:
    """The spec of a moderation that passes every check made before a model loads; `blocks` replace its own."""
    write_rows(folder / "data.jsonl", ROWS)
    write_model(folder / "guard")
    spec = {
        "kind": "moderate",
        "data": {"path": "data.jsonl"},
        "judges": {"guard": {"method": "llama_guard_3", "model": "guard"}, "words": "refusal_prefixes"},
        "run": {"dir": "run", "rows_per_shard": 3},
        **blocks,
    }
    (folder / "moderate.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    return folder / "moderate.yaml"


def canned_reply(row: Row) -> JudgeResponse:
    """What the stub of a guard says: unsafe of what is green, nothing readable of what is stirred."""
    assert row.conversation is not None
    _, answer = last_answer(row.conversation)
    if "Stir" in answer:
        return JudgeResponse(text="perhaps")
    harmful = "green" in answer
    return JudgeResponse(
        text="unsafe\nS9,S2" if harmful else "safe",
        alternatives=({"safe": -2.0, "unsafe": -0.2} if harmful else {"safe": -0.1, "unsafe": -3.0},),
    )


def of_judge(table: pl.DataFrame, name: str) -> list[dict[str, Any]]:
    return table.filter(pl.col("judge") == name).to_dicts()
