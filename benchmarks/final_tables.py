"""What the driver's memory and time are while an audit's tables, selections and report are written, by rows.

    python benchmarks/final_tables.py [--rows 200000 1000000] [--anchors 30] [--out FILE.json]

A dataset of so many short rows is planned, and a part of random components is written for each shard as a scorer would:
two anchor sets with a dot product and a cosine for every anchor. Then the product's own last step runs, in a process of
its own, whose memory is looked at every 20 ms. `bytes_a_row` is the growth of the peak from the smaller size to the
larger one, so that what a process takes anyway is not in it; beside it the size of the components in memory as one
table, which is what they would take at least if they were read whole.

The figures are the result; nothing is asserted.
"""

import argparse
import json
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
from scale import ROWS_PER_SHARD, write_rows
from tiny_model import RESULTS, write_record

from bds.data.anchors import AnchorSample
from bds.data.reader import read_rows
from bds.distributed.finished_rows import FinishedComponents, PlannedRows
from bds.distributed.results import TOKEN_SHARES, write_results
from bds.report.archive import write_archived_report
from bds.runs.directory import RunDirectory
from bds.runs.plan import Shard, read_plan, read_shard, write_plan
from bds.runs.receipts import COMPONENTS, PartFile, Receipt, Worker, part_path, valid_receipts, write_receipt
from bds.scoring import columns
from bds.scoring.passes import plan_passes
from bds.spec.models import AuditSpec, DataSpec

SETS = ("harmful", "safe")
LAYER = 2
DETECTORS = ["gradient_bidirectional", "representation", "self_influence_n", "loss", "random"]
FEATURES = ("numbered_list", "bullet_list", "math", "code", "short_answer", "refusal_phrase", "safety_phrase")
TOKENS = ("prompt_tokens", "answer_tokens", "supervised_tokens", "truncated_tokens", "prompt_words", "answer_words")

NUMBERS = (columns.LOSS, columns.SQUARED_GRADIENT_NORM)


def components(table: pl.DataFrame, shard: int, anchors: int) -> pl.DataFrame:
    """Random ones of a shard's rows."""
    draw = np.random.default_rng(shard)
    rows = table.height
    found = table.select("row_index", "row_id", "source", "line", "status", "reason").with_columns(
        *[pl.Series(name, draw.integers(1, 300, rows), dtype=pl.Int32) for name in TOKENS],
        *[pl.Series(name, draw.random(rows) < 0.1) for name in FEATURES],
        pl.lit("what").alias("question_type"),
        *[
            pl.Series(name, draw.random(rows), dtype=pl.Float32)
            for name in (columns.LOSS, columns.SQUARED_GRADIENT_NORM)
        ],
    )
    for name in SETS:
        values = draw.random((2, rows, anchors)).astype(np.float32)
        found = found.with_columns(
            pl.Series(columns.direction_dot(name), draw.random(rows), dtype=pl.Float32),
            pl.Series(columns.anchor_dots(name), values[0]).cast(pl.List(pl.Float32)),
            pl.Series(columns.cosines(name, LAYER), values[1]).cast(pl.List(pl.Float32)),
        )
    return found


def score(folder: Path, rows: int, anchors: int) -> int:
    """Plans the rows and writes every part and receipt. Returns the bytes of the components in memory."""
    write_rows(folder / "data.jsonl", rows)
    run = RunDirectory(str(folder / "run"))
    data = read_rows(DataSpec(path=str(folder / "data.jsonl")))
    plan = write_plan(run, data, rows_per_shard=ROWS_PER_SHARD, spec_sha256="", data_format="")
    return sum(_commit(run, shard, anchors) for shard in plan.shards)


def _commit(run: RunDirectory, shard: Shard, anchors: int) -> int:
    table = components(read_shard(run, shard), shard.index, anchors)
    path = part_path(COMPONENTS, shard.index)
    part = PartFile(path, *run.write_table(path, table))
    worker = Worker("here", 1, "cpu")
    write_receipt(run, Receipt(shard.index, shard.sha256, 1, shard.rows, 0, 1, 1.0, {COMPONENTS: part}, worker, {}))
    return int(table.estimated_size())


def finish(folder: Path, anchors: int, answer: Any) -> None:
    """Puts (peak of memory in bytes, seconds) into the answer."""
    run = RunDirectory(str(folder / "run"))
    sets = {name: str(folder / f"{name}.jsonl") for name in SETS}
    spec = AuditSpec.model_validate(
        {
            "data": {"path": str(folder / "data.jsonl")},
            "model": {"path": "none"},
            "anchors": {"sets": sets},
            "score": {"detectors": DETECTORS, "layers": [LAYER]},
            "run": {"dir": run.uri},
        }
    )
    plan = read_plan(run)
    assert plan is not None
    passes = plan_passes(spec, decoder_blocks=LAYER)
    # No model is there to explain tokens.
    run.write_json(TOKEN_SHARES, {})
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, psutil.Process().memory_info().rss)

    watching = threading.Thread(target=watch)
    watching.start()
    began = time.perf_counter()
    write_results(
        run,
        spec,
        rows=PlannedRows(run, plan),
        passes=passes,
        context=passes.context(None),
        anchors={name: [AnchorSample("prompt", "answer")] * anchors for name in SETS},
        components=FinishedComponents(run, plan, valid_receipts(plan, run), []),
        manifest={"warnings": []},
        once=lambda function: function(),
    )
    write_archived_report(run)
    seconds = time.perf_counter() - began
    done.set()
    watching.join()
    answer.put((peak, seconds))


def measured(rows: int, anchors: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        size = score(Path(folder), rows, anchors)
        answer = multiprocessing.get_context("spawn").Queue()
        process = multiprocessing.get_context("spawn").Process(target=finish, args=(Path(folder), anchors, answer))
        process.start()
        peak, seconds = answer.get()
        process.join()
        tables = {name: Path(folder, "run", name).stat().st_size for name in ("components.parquet", "scores.parquet")}
    return {
        "rows": rows,
        "seconds": round(seconds, 1),
        "peak_mebibytes": round(peak / 2**20),
        "components_in_memory_bytes_a_row": round(size / rows),
        "file_bytes_a_row": {name: round(size / rows) for name, size in tables.items()},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs=2, default=[200_000, 1_000_000])
    parser.add_argument("--anchors", type=int, default=30, help="of each of the two sets")
    parser.add_argument("--out", type=Path, default=RESULTS / "final_tables.json")
    asked = parser.parse_args(arguments)
    sizes = []
    for rows in sorted(asked.rows):
        sizes.append(measured(rows, asked.anchors))
        print(json.dumps(sizes[-1]), flush=True)
    small, large = sizes
    grown = (large["peak_mebibytes"] - small["peak_mebibytes"]) * 2**20 / (large["rows"] - small["rows"])
    found = {"anchors": asked.anchors, "detectors": DETECTORS, "sizes": sizes, "bytes_a_row": round(grown)}
    print(f"the peak grows by {found['bytes_a_row']} bytes a row", flush=True)
    write_record(asked.out, found)


if __name__ == "__main__":
    main()
