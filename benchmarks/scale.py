"""What the driver costs: planning many rows, listing many receipts, and feeding many actors, with a scorer that sleeps.

    python benchmarks/scale.py [--rows 1000000] [--receipts 1000 4000 16000] [--actors 1 2 4 8 16] [--out FILE.json]

planned    a JSONL file of so many rows is read, given ids and cut into shards, as an audit does. Memory is that of the
           process above what it had before, after each quarter of the rows: what grows with them shows.
listed     a run of so many finished shards is asked what is left to do, as a resumed audit does: every receipt and part
           is read. Seconds a receipt should not depend on their number.
driven     Ray Data feeds the actors shards that take a fixed time asleep, through the product's own path: read the
           shard, score, write the part, write the receipt. Efficiency is the time asleep over actors x wall, from the
           first receipt to the last but for the tail, in which some actors have nothing left. All actors share this
           machine's cores: with more of them the compute that each shard costs adds up, which is told beside it.

The figures are the result; nothing is asserted.
"""

import argparse
import functools
import hashlib
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import psutil
from tiny_model import RESULTS, write_record

from bds.data.reader import read_rows
from bds.distributed.scoring import WorkerPool, score_shards
from bds.distributed.session import private_cluster
from bds.runs.directory import RunDirectory
from bds.runs.plan import Plan, Shard, write_plan
from bds.runs.receipts import PartFile, Receipt, Worker, part_path, remaining, write_receipt
from bds.spec.models import DataSpec

ROWS_PER_SHARD = 256
ASLEEP_SECONDS = 2.0
SHARDS_PER_ACTOR = 8
PART = bytes(1 << 16)
"""As large as a part of 256 rows with a few anchors."""


def write_rows(file: Path, rows: int) -> None:
    with file.open("w", encoding="utf-8") as opened:
        for row in range(rows):
            opened.write(
                json.dumps({"prompt": f"what is number {row}", "completion": f"it is {row}, as I said"}) + "\n"
            )


def planned(folder: Path, rows: int) -> dict[str, Any]:
    """Seconds, and bytes of memory after each quarter."""
    write_rows(folder / "data.jsonl", rows)
    process = psutil.Process()
    before = process.memory_info().rss
    memory: list[int] = []

    def watched() -> Any:
        for row in read_rows(DataSpec(path=str(folder / "data.jsonl"))):
            yield row
            if (row.row_index + 1) % max(1, rows // 4) == 0:
                memory.append(process.memory_info().rss - before)

    started = time.perf_counter()
    plan = write_plan(
        RunDirectory(str(folder / "run")), watched(), rows_per_shard=ROWS_PER_SHARD, spec_sha256="", data_format=""
    )
    seconds = time.perf_counter() - started
    return {
        "rows": rows,
        "shards": len(plan.shards),
        "seconds": round(seconds, 1),
        "rows_per_second": round(rows / seconds),
        "mebibytes_after_each_quarter": [round(each / 2**20) for each in memory],
        "bytes_a_row": round((memory[-1] - memory[0]) / (rows * 3 / 4)),
    }


def listed(folder: Path, receipts: int) -> dict[str, Any]:
    """Seconds to find out what is left of a run whose shards are all done."""
    run = RunDirectory(str(folder / f"listed-{receipts}"))
    shards = tuple(Shard(index, "", index, 1, "0") for index in range(receipts))
    for shard in shards:
        part = PartFile(part_path("components", shard.index), hashlib.sha256(PART).hexdigest(), len(PART))
        run.write_bytes(part.path, PART)
        done = Receipt(shard.index, "0", 1, 1, 0, 1, 1.0, {"components": part}, Worker("here", 1, "cpu"), {})
        write_receipt(run, done)
    started = time.perf_counter()
    left = remaining(Plan("", "", "", receipts, shards), run)
    seconds = time.perf_counter() - started
    return {
        "receipts": receipts,
        "left": len(left),
        "seconds": round(seconds, 2),
        "milliseconds_a_receipt": round(1000 * seconds / receipts, 3),
    }


def sleep_over(seconds: float, table: pl.DataFrame) -> dict[str, pl.DataFrame]:
    time.sleep(seconds)
    return {"components": table.select("row_index", "row_id", "source", "line", "status", "reason")}


def sleeper(seconds: float) -> Any:
    return functools.partial(sleep_over, seconds)


def driven(folder: Path, actors: int) -> dict[str, Any]:
    """How much of the actors' time is scoring."""
    shards = actors * SHARDS_PER_ACTOR
    own = folder / f"driven-{actors}"
    own.mkdir()
    write_rows(own / "data.jsonl", shards * 16)
    run = RunDirectory(str(own / "run"))
    rows = read_rows(DataSpec(path=str(own / "data.jsonl")))
    plan = write_plan(run, rows, rows_per_shard=16, spec_sha256="", data_format="")
    ended: list[float] = []
    with private_cluster(cpus=actors):
        score_shards(
            run,
            plan.shards,
            functools.partial(sleeper, ASLEEP_SECONDS),
            WorkerPool(actors, 1, 0.0, None),
            attempt=1,
            on_receipt=lambda receipt: ended.append(time.perf_counter()),
            on_failure=lambda failure: print(f"shard {failure.shard} failed: {failure.reason}"),
        )
    # The first round begins when actors are up, the last one ends one by one: between them all have work.
    first, last = ended[actors - 1], ended[-actors] if actors > 1 else ended[-1]
    between = len(ended) - 2 * actors + 1 if actors > 1 else len(ended) - 1
    return {
        "actors": actors,
        "shards": shards,
        "shards_between": between,
        "seconds_between": round(last - first, 2),
        "efficiency": round(between * ASLEEP_SECONDS / (actors * (last - first)), 3),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--receipts", type=int, nargs="*", default=[1000, 4000, 16000])
    parser.add_argument("--actors", type=int, nargs="*", default=[1, 2, 4, 8, 16])
    parser.add_argument("--out", type=Path, default=RESULTS / "scale.json")
    asked = parser.parse_args(arguments)
    found: dict[str, Any] = {"listed": [], "driven": []}
    with tempfile.TemporaryDirectory() as folder:
        if asked.rows:
            found["planned"] = planned(Path(folder), asked.rows)
            print(found["planned"], flush=True)
        for receipts in asked.receipts:
            found["listed"].append(listed(Path(folder), receipts))
            print(found["listed"][-1], flush=True)
        for actors in asked.actors:
            found["driven"].append(driven(Path(folder), actors))
            print(found["driven"][-1], flush=True)
    write_record(asked.out, {"asleep_seconds": ASLEEP_SECONDS, "rows_per_shard": ROWS_PER_SHARD, **found})


if __name__ == "__main__":
    main()
