"""Scoring one shard: read its rows, call the scorer, write the parts, then the receipt. Ray is not needed."""

import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bds.data.rows import SCORED_STATUSES
from bds.errors import BdsError
from bds.runs.directory import RunDirectory
from bds.runs.manifest import versions
from bds.runs.messages import first_line
from bds.runs.plan import Shard, read_shard
from bds.runs.receipts import COMPONENTS, PartFile, Receipt, Worker, part_path, write_receipt

if TYPE_CHECKING:
    import polars as pl

IDENTITY = ("row_index", "row_id", "source", "line", "status", "reason")

Scorer = Callable[["pl.DataFrame"], Mapping[str, "pl.DataFrame"]]
"""A shard's rows, as `read_shard` gives them, to tables by name; `components` has one row a row, in the same order."""

ScorerFactory = Callable[[], Scorer]
"""Loads the model and returns the scorer. Picklable: a module-level function, or functools.partial of one."""


@dataclass(frozen=True)
class ShardFailure:
    """An exception while scoring a shard, as data. It says nothing about the other shards."""

    shard: int
    tries: int
    """How often this attempt has tried the shard, this time included."""
    reason: str
    trace: str


def run_shard(run: RunDirectory, shard: Shard, scorer: Scorer, attempt: int) -> Receipt:
    """Scores a shard and commits it. Raises ValueError where the scorer lost, doubled or reordered rows."""
    started = time.perf_counter()
    rows = read_shard(run, shard)
    tables = scorer(rows)
    components = tables.get(COMPONENTS)
    if components is None:
        raise ValueError(f"the scorer returned {sorted(tables)} and no table named {COMPONENTS}")
    if not components.select("row_index", "row_id").equals(rows.select("row_index", "row_id")):
        raise ValueError(f"the scorer's {COMPONENTS} are not the shard's {shard.rows} rows in order")
    return _commit(run, shard, tables, attempt, time.perf_counter() - started, failure="")


def try_shard(run: RunDirectory, shard: Shard, scorer: Scorer, attempt: int, tries: int) -> Receipt | ShardFailure:
    """`run_shard` with an exception turned into data. A BdsError (full disk, say) stops the run instead."""
    try:
        return run_shard(run, shard, scorer, attempt)
    except BdsError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        return ShardFailure(shard.index, tries, reason, traceback.format_exc())


def give_up(run: RunDirectory, shard: Shard, failure: ShardFailure, attempt: int) -> Receipt:
    """Commits a shard that cannot be scored: each of its rows is written with the status `failed` and the reason.

    Rows that were bad before scoring keep their own status.
    """
    import polars as pl

    scorable = pl.col("status").is_in(SCORED_STATUSES)
    rows = read_shard(run, shard).select(IDENTITY)
    failed = rows.with_columns(
        status=pl.when(scorable).then(pl.lit("failed")).otherwise("status"),
        reason=pl.when(scorable).then(pl.lit(failure.reason)).otherwise("reason"),
    )
    return _commit(run, shard, {COMPONENTS: failed}, attempt, seconds=0.0, failure=failure.reason)


def _commit(
    run: RunDirectory,
    shard: Shard,
    tables: Mapping[str, "pl.DataFrame"],
    attempt: int,
    seconds: float,
    failure: str,
) -> Receipt:
    files = {}
    for name, table in tables.items():
        path = part_path(name, shard.index)
        sha256, size = run.write_table(path, table)
        files[name] = PartFile(path, sha256, size)
    components = tables[COMPONENTS]
    rows_ok = int(components["status"].is_in(SCORED_STATUSES).sum())
    receipt = Receipt(
        shard=shard.index,
        shard_sha256=shard.sha256,
        attempt=attempt,
        rows_ok=rows_ok,
        rows_not_ok=shard.rows - rows_ok,
        tokens=_tokens(components),
        seconds=round(seconds, 3),
        files=files,
        worker=Worker(socket.gethostname(), os.getpid(), _device()),
        versions=versions(),
        failure=failure,
    )
    write_receipt(run, receipt)
    return receipt


def _tokens(components: "pl.DataFrame") -> int:
    """Tokens that went through the model: each row's prompt and what it supervises."""
    counted = [name for name in ("prompt_tokens", "supervised_tokens") if name in components.columns]
    return sum(int(components[name].sum()) for name in counted)


def _device() -> str:
    """The GPU in use, else cpu. A scorer that has not loaded torch has no GPU in use."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return "cpu"
    return str(torch.cuda.get_device_name())
