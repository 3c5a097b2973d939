"""The plan: the dataset, normalised and cut into shards once. Nothing later re-reads the source or re-cuts the rows."""

import base64
import datetime
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any

from bds.data.rows import Conversation, Message, Row
from bds.errors import PreflightError
from bds.runs.directory import RunDirectory, parquet_table

if TYPE_CHECKING:
    import polars as pl

PLAN = "plan.json"


@dataclass(frozen=True)
class Shard:
    """A run of consecutive rows, scored in one piece."""

    index: int
    path: str
    """Its rows' parquet file in the run directory."""
    first_row: int
    rows: int
    sha256: str
    """Of that file."""


@dataclass(frozen=True)
class Plan:
    spec_sha256: str
    """Of the fields that what is kept by shard depends on; a run with another one is another run."""
    data_sha256: str
    """Of the row ids in order: the dataset's content, wherever it lies and however it is cut."""
    data_format: str
    rows: int
    shards: tuple[Shard, ...]


def write_plan(
    run: RunDirectory, rows: Iterable[Row], *, rows_per_shard: int, spec_sha256: str, data_format: str
) -> Plan:
    """Streams the rows into shard files, one in memory at a time, and commits them by writing plan.json last.

    Raises PreflightError where there are no rows.
    """
    fingerprint = hashlib.sha256()
    shards: list[Shard] = []
    next_row = 0
    for batch in _batches(rows, rows_per_shard):
        for row in batch:
            if row.row_index != next_row:
                raise ValueError(f"row {next_row} of the dataset came with row_index {row.row_index}")
            fingerprint.update(f"{row.row_id}\n".encode())
            next_row += 1
        path = f"rows/part-{len(shards):05d}.parquet"
        sha256, _ = run.write_table(path, _table_of(batch))
        shards.append(Shard(len(shards), path, batch[0].row_index, len(batch), sha256))
    if not shards:
        raise PreflightError("the dataset has no rows: check data.path, data.split and data.limit")
    plan = Plan(spec_sha256, fingerprint.hexdigest(), data_format, next_row, tuple(shards))
    run.write_json(PLAN, asdict(plan))
    return plan


def read_plan(run: RunDirectory) -> Plan | None:
    """The committed plan; None where there is none, also after a crash in the middle of writing one."""
    try:
        fields = run.read_json(PLAN)
    except FileNotFoundError:
        return None
    try:
        return Plan(**{**fields, "shards": tuple(Shard(**shard) for shard in fields["shards"])})
    except (KeyError, TypeError) as error:
        raise PreflightError(
            f"{run.url_of(PLAN)} was written by another version of bds: start a new run with --fresh"
        ) from error


def read_shard(run: RunDirectory, shard: Shard) -> "pl.DataFrame":
    """The shard's rows: row_index, row_id, source, line, status, reason, conversation (JSON) and record (JSON).

    Raises PreflightError where the file is gone or is not the one that was planned.
    """
    try:
        content = run.read_bytes(shard.path)
    except FileNotFoundError as error:
        raise PreflightError(f"{run.url_of(shard.path)} is gone: start a new run with --fresh") from error
    if hashlib.sha256(content).hexdigest() != shard.sha256:
        raise PreflightError(f"{run.url_of(shard.path)} changed after it was planned: start a new run with --fresh")
    return parquet_table(content, run.url_of(shard.path))


def rows_of(table: "pl.DataFrame") -> Iterator[Row]:
    """The rows of a shard's table, as they were planned."""
    for fields in table.iter_rows(named=True):
        conversation = fields["conversation"]
        yield Row(
            **{
                **fields,
                "conversation": None if conversation is None else _conversation(json.loads(conversation)),
                "record": record_of(fields["record"]),
            }
        )


def record_of(text: str) -> dict[str, Any]:
    """The input's own record, from its text in a shard's table."""
    record: dict[str, Any] = json.loads(text, object_hook=_restore)
    return record


def _batches(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    remaining = iter(rows)
    while batch := list(islice(remaining, size)):
        yield batch


def _table_of(rows: list[Row]) -> "pl.DataFrame":
    import polars as pl

    columns: dict[str, tuple[list[Any], type[pl.DataType]]] = {
        "row_index": ([row.row_index for row in rows], pl.Int64),
        "row_id": ([row.row_id for row in rows], pl.String),
        "source": ([_storable(row.source) for row in rows], pl.String),
        "line": ([row.line for row in rows], pl.Int64),
        "status": ([row.status for row in rows], pl.String),
        "reason": ([_storable(row.reason) for row in rows], pl.String),
        "conversation": ([_conversation_json(row.conversation) for row in rows], pl.String),
        "record": ([json.dumps(row.record, default=_tagged) for row in rows], pl.String),
    }
    return pl.DataFrame([pl.Series(name, values, dtype) for name, (values, dtype) in columns.items()])


def _storable(text: str) -> str:
    """Half a surrogate pair, which UTF-8 cannot hold, becomes its escape. JSON columns escape on their own."""
    return text.encode("utf-8", "backslashreplace").decode()


def _conversation_json(conversation: Conversation | None) -> str | None:
    if conversation is None:
        return None
    # Its fields in their order, of messages too, without the copies that asdict makes of everything.
    return json.dumps(conversation, default=vars)


def _conversation(fields: dict[str, Any]) -> Conversation:
    return Conversation(**{**fields, "messages": tuple(Message(**message) for message in fields["messages"])})


_TAG = "$bds:type"

_TEXT_OF: dict[type, tuple[str, Callable[[Any], str]]] = {
    datetime.datetime: ("datetime", datetime.datetime.isoformat),
    datetime.date: ("date", datetime.date.isoformat),
    datetime.time: ("time", datetime.time.isoformat),
    datetime.timedelta: ("seconds", lambda value: repr(value.total_seconds())),
    Decimal: ("decimal", str),
    bytes: ("bytes", lambda value: base64.b64encode(value).decode()),
}
"""Kinds of value that parquet and Hugging Face records hold and JSON does not."""

_VALUE_OF: dict[str, Callable[[str], Any]] = {
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "seconds": lambda text: datetime.timedelta(seconds=float(text)),
    "decimal": Decimal,
    "bytes": base64.b64decode,
    "text": str,
}


def _tagged(value: Any) -> dict[str, str]:
    """A value that JSON lacks, as a tagged object; of a kind that is not known, its text is kept."""
    kind, text_of = _TEXT_OF.get(type(value), ("text", str))
    return {_TAG: kind, "value": text_of(value)}


def _restore(fields: dict[str, Any]) -> Any:
    return _VALUE_OF[fields[_TAG]](fields["value"]) if fields.keys() == {_TAG, "value"} else fields
