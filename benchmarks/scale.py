"""What the driver costs: planning many rows, listing many receipts, driving many workers, with a scorer that sleeps.

    python benchmarks/scale.py [--rows 1000000] [--receipts 1000 4000 16000] [--actors 1 2 4 8 16] [--shards 4000]
                               [--shard-rows 4] [--no-real] [--workers 1000] [--out FILE.json]

planned    a JSONL file of so many rows is read, given ids and cut into shards, as an audit does. Memory is that of the
           process above what it had before, after each quarter of the rows: what grows with them shows.
listed     a run of so many finished shards is asked what is left to do, as a resumed audit does: every receipt and part
           is read. Seconds a receipt should not depend on their number.
driven     Ray Data feeds the actors shards that take a fixed time asleep, through the product's own path: read the
           shard, score, write the part, write the receipt. Efficiency is the time asleep over actors x wall, from the
           first receipt to the last but for the tail, in which some actors have nothing left. All actors share this
           machine's cores: with more of them the compute that each shard costs adds up, which is told beside it.
long       Ray Data gives so many shards that take no time to two actors. Seconds of processor a shard, of the driver
           and of everything that Ray runs beside the actors; the driver's memory after each quarter of the shards.
real       The tiny aligned model scores its own dataset for real, with one actor and with two: rows a second from the
           first receipt to the last.
crowd      so many threads in place of actors score and commit shards at the pace of real ones, spread over the time
           that one takes, and the driver does for each receipt what an audit does: its processor time a receipt is what
           a thousand workers would ask of it, without Ray. The longest wait is that of one receipt for the driver.

The figures are the result; nothing is asserted.
"""

import argparse
import contextlib
import functools
import hashlib
import json
import queue
import random
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import psutil
from tiny_model import RESULTS, write_record

from bds.data.reader import read_rows
from bds.distributed.audit import run_audit
from bds.distributed.scoring import WorkerPool, score_shards
from bds.distributed.session import private_cluster
from bds.organism import cached_organism
from bds.organism.recipe import Recipe
from bds.runs.directory import RunDirectory
from bds.runs.events import EventLog
from bds.runs.execute import try_shard
from bds.runs.plan import Plan, Shard, write_plan
from bds.runs.progress import Meter, show_progress
from bds.runs.receipts import PartFile, Receipt, Worker, part_path, read_receipt, receipt_path, remaining, write_receipt
from bds.spec.models import AuditSpec, DataSpec

ROWS_PER_SHARD = 256
FEW_ROWS = 4
"""Of a shard where shards are counted, not rows."""
ASLEEP_SECONDS = 2.0
SHARDS_PER_ACTOR = 8
CROWD_SECONDS = 60.0
"""A short shard of a real audit."""
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
    run, plan = planned_shards(own, shards)
    with private_cluster(cpus=actors):
        score(run, plan.shards, ASLEEP_SECONDS, actors, lambda receipt: None)
    # When each was committed, by whom: the driver may hear of one late, and of several at once.
    commits: dict[int, list[float]] = {}
    for shard in plan.shards:
        receipt = read_receipt(run, shard.index)
        assert receipt is not None
        committed = Path(run.uri, receipt_path(shard.index)).stat().st_mtime
        commits.setdefault(receipt.worker.pid, []).append(committed)
    # From an actor's first commit to its last one, it should only have slept.
    asleep = sum(len(times) - 1 for times in commits.values()) * ASLEEP_SECONDS
    spent = sum(max(times) - min(times) for times in commits.values())
    return {
        "actors": actors,
        "at_work": len(commits),
        "shards": shards,
        "seconds_between_commits": round(spent / sum(len(times) - 1 for times in commits.values()), 3),
        "efficiency": round(asleep / spent, 3),
    }


def long(folder: Path, shards: int, rows: int) -> dict[str, Any]:
    """What shards cost beside their scoring, and what of it the driver keeps."""
    own = folder / "long"
    own.mkdir()
    run, plan = planned_shards(own, shards, rows)
    process = psutil.Process()
    memory: list[int] = []
    done = 0

    def count(receipt: Receipt) -> None:
        nonlocal done
        done += 1
        if done % max(1, shards // 4) == 0:
            memory.append(process.memory_info().rss)

    with private_cluster(cpus=2):
        # What Ray and the actors take to start is not what a shard costs.
        score(run, plan.shards[:2], 0.0, 2, lambda receipt: None)
        driver, helpers, began = seconds_of(process), helper_seconds(process), time.perf_counter()
        before = process.memory_info().rss
        score(run, plan.shards[2:], 0.0, 2, count)
        wall = time.perf_counter() - began
        driver, helpers = seconds_of(process) - driver, helper_seconds(process) - helpers
    return {
        "shards": shards,
        "rows": plan.rows,
        "shards_left": len(remaining(plan, run)),
        "wall_seconds": round(wall, 1),
        "driver_milliseconds_a_shard": round(1000 * driver / shards, 2),
        "ray_milliseconds_a_shard": round(1000 * helpers / shards, 2),
        "driver_mebibytes_more_after_each_quarter": [round((each - before) / 2**20) for each in memory],
    }


def planned_shards(folder: Path, shards: int, rows_per_shard: int = FEW_ROWS) -> tuple[RunDirectory, Plan]:
    write_rows(folder / "data.jsonl", shards * rows_per_shard)
    run = RunDirectory(str(folder / "run"))
    rows = read_rows(DataSpec(path=str(folder / "data.jsonl")))
    return run, write_plan(run, rows, rows_per_shard=rows_per_shard, spec_sha256="", data_format="")


def score(
    run: RunDirectory, shards: Sequence[Shard], asleep: float, actors: int, on_receipt: Callable[[Receipt], None]
) -> None:
    score_shards(
        run,
        shards,
        functools.partial(sleeper, asleep),
        WorkerPool(actors, 1, 0.0, None),
        attempt=1,
        on_receipt=on_receipt,
        on_failure=lambda failure: print(f"shard {failure.shard} failed: {failure.reason}"),
    )


def seconds_of(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def helper_seconds(driver: psutil.Process) -> float:
    """Processor time of everything below the driver that is no scoring actor."""
    total = 0.0
    for process in driver.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "MapWorker" not in " ".join(process.cmdline()):
                total += seconds_of(process)
    return total


def real(folder: Path, actors: int) -> dict[str, Any]:
    """An audit by all default detectors, each actor with one thread."""
    organism = cached_organism(Recipe(), print)
    run_dir = folder / f"real-{actors}"
    spec = AuditSpec.model_validate(
        {
            "data": {"path": str(organism.pool)},
            "model": {"path": str(organism.model)},
            "anchors": {"sets": {name: str(organism.anchors(name)) for name in ("harmful", "safe")}},
            "resources": {"actors": actors},
            "run": {"dir": str(run_dir), "rows_per_shard": 20},
        }
    )
    run_audit(spec)
    ended = []
    for line in (run_dir / "events" / "attempt-0001.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "shard":
            ended.append(datetime.fromisoformat(event["at"]).timestamp())
    # Two actors do not begin at once: both have work from the second receipt on.
    between = ended[actors - 1 :]
    return {
        "actors": actors,
        "rows_per_second": round(20 * (len(between) - 1) / (between[-1] - between[0]), 1),
    }


def crowd(folder: Path, workers: int) -> dict[str, Any]:
    """A thousand workers' receipts as a driver sees them: two shards each, begun at random moments."""
    own = folder / "crowd"
    own.mkdir()
    run, plan = planned_shards(own, 2 * workers)
    arrived: queue.Queue[tuple[float, Receipt]] = queue.Queue()
    draw = random.Random(0)

    def work(shards: Sequence[Shard], late: float) -> None:
        time.sleep(late)
        for shard in shards:
            outcome = try_shard(run, shard, functools.partial(sleep_over, CROWD_SECONDS), attempt=1, tries=1)
            assert isinstance(outcome, Receipt), outcome
            arrived.put((time.perf_counter(), outcome))

    threads = [
        threading.Thread(target=work, args=(plan.shards[2 * each : 2 * each + 2], draw.uniform(0, CROWD_SECONDS)))
        for each in range(workers)
    ]
    meter = Meter(shards=len(plan.shards), rows=plan.rows, shards_before=0, rows_before=0)
    log = EventLog(run, 1)
    waits, spent = [], 0.0
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    with show_progress(meter) as show:
        for _ in plan.shards:
            at, receipt = arrived.get()
            waits.append(time.perf_counter() - at)
            before = time.thread_time()
            meter.add(receipt)
            show()
            log.add("shard", {"shard": receipt.shard, "seconds": receipt.seconds, "rows_ok": receipt.rows_ok})
            spent += time.thread_time() - before
    wall = time.perf_counter() - began
    log.close()
    return {
        "workers": workers,
        "shards": len(plan.shards),
        "wall_seconds": round(wall, 1),
        "shards_left": len(remaining(plan, run)),
        "driver_milliseconds_a_receipt": round(1000 * spent / len(plan.shards), 3),
        "longest_wait_milliseconds": round(1000 * max(waits), 1),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--receipts", type=int, nargs="*", default=[1000, 4000, 16000])
    parser.add_argument("--actors", type=int, nargs="*", default=[1, 2, 4, 8, 16])
    parser.add_argument("--shards", type=int, default=4000)
    parser.add_argument("--shard-rows", type=int, default=FEW_ROWS, help="of the many shards")
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--real", action=argparse.BooleanOptionalAction, default=True)
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
        if asked.shards:
            found["long"] = long(Path(folder), asked.shards, asked.shard_rows)
            print(found["long"], flush=True)
        if asked.real:
            found["real"] = [real(Path(folder), actors) for actors in (1, 2)]
            print(found["real"], flush=True)
        if asked.workers:
            found["crowd"] = crowd(Path(folder), asked.workers)
            print(found["crowd"], flush=True)
    write_record(asked.out, {"asleep_seconds": ASLEEP_SECONDS, "rows_per_shard": ROWS_PER_SHARD, **found})


if __name__ == "__main__":
    main()
