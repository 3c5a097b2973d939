"""A small planned run and a scorer that needs no model: its loss is a sum over the text, so any machine gives it."""

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from bds.data.rows import Conversation, Message, Row
from bds.runs.directory import RunDirectory
from bds.runs.execute import ShardFailure
from bds.runs.plan import Plan, write_plan
from bds.runs.receipts import Receipt

IDENTITY = ["row_index", "row_id", "source", "line", "status", "reason"]


def rows(count: int) -> list[Row]:
    """Every tenth row has no answer, so that not every row can be scored."""
    made = []
    for i in range(count):
        question, answer = Message("user", f"What is {i} times {i}?"), Message("assistant", f"It is {i * i}.")
        good = i % 10 != 3
        made.append(
            Row(
                row_index=i,
                row_id=f"{i:08x}-0",
                source="data.jsonl",
                line=i + 1,
                status="ok" if good else "no_answer",
                reason="" if good else "no assistant turn",
                conversation=Conversation((question, answer) if good else (question,)),
                record={"ask": question.content, "reply": answer.content},
            )
        )
    return made


def planned_run(folder: Path, *, count: int = 50, rows_per_shard: int = 5) -> tuple[RunDirectory, Plan]:
    run = RunDirectory(str(folder))
    plan = write_plan(run, rows(count), rows_per_shard=rows_per_shard, spec_sha256="spec", data_format="messages")
    return run, plan


def score(table: pl.DataFrame) -> dict[str, pl.DataFrame]:
    scored = table["status"] == "ok"
    seeds = [zlib.crc32(text.encode()) for text in table["conversation"]]
    hidden = np.stack([np.random.default_rng(seed).standard_normal(4, dtype=np.float32) for seed in seeds])
    components = table.select(IDENTITY).with_columns(
        pl.Series("prompt_tokens", [3] * len(table), pl.Int32),
        pl.Series("supervised_tokens", [2] * len(table), pl.Int32),
        loss=pl.when(scored).then(pl.Series(hidden.sum(axis=1))).otherwise(None),
    )
    return {
        "components": components,
        "hidden": pl.DataFrame({"row_index": table["row_index"], "hidden": hidden}),
    }


def load_score() -> Callable[[pl.DataFrame], dict[str, pl.DataFrame]]:
    return score


def part_bytes(run: RunDirectory) -> dict[str, bytes]:
    """Every file that must not depend on how the run went."""
    return {name: run.read_bytes(name) for name in run.list("stages/score") if name.endswith(".parquet")}


class Log:
    """Collects the callbacks of a run."""

    def __init__(self) -> None:
        self.receipts: list[Receipt] = []
        self.failures: list[ShardFailure] = []

    def failure(self, failure: ShardFailure) -> None:
        self.failures.append(failure)
