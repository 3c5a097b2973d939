"""What an audit would do, from the spec and the dataset alone: no model is loaded and nothing is written."""

import heapq
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from bds.data.reader import open_dataset, read_rows
from bds.data.rows import STATUSES, Row
from bds.runs.directory import RunDirectory
from bds.runs.plan import read_plan
from bds.runs.receipts import remaining
from bds.scoring.detectors import DETECTORS
from bds.scoring.passes import requested_detectors
from bds.spec.identity import spec_hash
from bds.spec.models import AuditSpec, DetectorSpec

CHARACTERS_PER_TOKEN = 4
"""Of ordinary English in the vocabularies of current chat models; a byte-level model has one token a byte."""

BYTES_PER_COMPONENT_ROW = 600
"""Identity, features, scalars and a few dozen anchor values of one row of components.parquet and scores.parquet."""

LONGEST_SHOWN = 3


@dataclass
class DatasetCount:
    """One walk over the rows."""

    rows: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    """Rows whose content stood in an earlier row."""
    characters: int = 0
    """Of the messages of every row that has a conversation."""
    longest: list[tuple[int, str, int]] = field(default_factory=list)
    """(characters, source, line), longest first."""


def count_rows(rows: Iterable[Row]) -> DatasetCount:
    """Count rows one at a time: a dataset larger than memory is fine."""
    count = DatasetCount()
    for row in rows:
        count.rows += 1
        count.statuses[row.status] += 1
        count.repeated += not row.row_id.endswith("-0")
        if row.conversation is None:
            continue
        characters = sum(len(message.content) for message in row.conversation.messages)
        count.characters += characters
        if len(count.longest) < LONGEST_SHOWN:
            heapq.heappush(count.longest, (characters, row.source, row.line))
        else:
            heapq.heappushpop(count.longest, (characters, row.source, row.line))
    count.longest.sort(reverse=True)
    return count


def plan_audit(spec: AuditSpec) -> dict[str, Any]:
    """The plan as JSON-ready values; every number that is not counted has `estimated` in its name.

    Raises:
        SpecError, PreflightError: the dataset cannot be read or no format fits it.
    """
    dataset = open_dataset(spec.data)
    count = count_rows(read_rows(spec.data))
    shards = math.ceil(count.rows / spec.run.rows_per_shard)
    stored = count.characters + count.rows * BYTES_PER_COMPONENT_ROW
    return {
        "spec_hash": spec_hash(spec),
        "run_dir": spec.run.dir,
        "dataset": {"description": dataset.describe(), "format": dataset.format.name, "detected": dataset.detected},
        "rows": count.rows,
        "statuses": {status: count.statuses[status] for status in STATUSES if count.statuses[status]},
        "repeated_rows": count.repeated,
        "longest": [
            {"characters": characters, "source": source, "line": line} for characters, source, line in count.longest
        ],
        "rows_per_shard": spec.run.rows_per_shard,
        "shards": shards,
        "finished_shards": _finished_shards(spec),
        "estimated_tokens": round(count.characters / CHARACTERS_PER_TOKEN),
        "estimated_storage_bytes": stored,
        "detectors": [_described(detector) for detector in requested_detectors(spec)],
    }


def plan_text(plan: dict[str, Any]) -> str:
    """The plan for a person."""
    rows, statuses = plan["rows"], plan["statuses"]
    lines = [
        plan["dataset"]["description"],
        f"rows: {rows:,} ({', '.join(f'{number:,} {status}' for status, number in statuses.items())})",
    ]
    if plan["repeated_rows"]:
        lines.append(
            f"repeated: {plan['repeated_rows']:,} rows repeat an earlier one; each is scored and keeps its own id"
        )
    for entry in plan["longest"][:1]:
        lines.append(f"longest text: {entry['characters']:,} characters ({entry['source']}:{entry['line']})")
    lines += [
        f"tokens: about {plan['estimated_tokens']:,} (an estimate of one token for {CHARACTERS_PER_TOKEN} characters; "
        "the model's tokenizer decides)",
        f"shards: {plan['shards']:,} of {plan['rows_per_shard']:,} rows"
        + (f", {plan['finished_shards']:,} of them finished already" if plan["finished_shards"] else ""),
        f"storage: about {_size(plan['estimated_storage_bytes'])} in {plan['run_dir']} (an estimate)",
        "detectors:",
    ]
    width = max(len(entry["column"]) for entry in plan["detectors"])
    lines += [f"  {entry['column']:{width}}  {entry['cost']}; needs {entry['needs']}" for entry in plan["detectors"]]
    lines.append(f"passes over the dataset: {_passes(plan)}")
    return "\n".join(lines)


def _described(detector: DetectorSpec) -> dict[str, str]:
    entry = DETECTORS[detector.name]
    needs = ", ".join(sorted(need.value for need in entry.needs)) or "nothing"
    return {"column": detector.column, "name": detector.name, "cost": entry.cost, "needs": needs}


def _passes(plan: dict[str, Any]) -> str:
    costs = {entry["cost"] for entry in plan["detectors"]}
    if "one backward" in costs:
        return "one, forward and backward, for all detectors together"
    return "one, forward only, for all detectors together" if "forward only" in costs else "none with the model"


def _finished_shards(spec: AuditSpec) -> int:
    run = RunDirectory(spec.run.dir)
    plan = read_plan(run)
    return 0 if plan is None else len(plan.shards) - len(remaining(plan, run))


def _size(number: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"
