"""Containers to entries: the values that stand in one open JSON, JSONL, CSV or Parquet file, as a stream.

An entry that cannot be parsed is an entry with an error; a container that is broken as a whole is a PreflightError.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow
import pyarrow.parquet

from bds.data.values import kind_of, one_line
from bds.errors import PreflightError

_PARQUET_BATCH_ROWS = 1000
_UTF8_BOM = b"\xef\xbb\xbf"
_NOT_UTF8_STARTS = {
    b"\xff\xfe": "is UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "is UTF-16 text; save it as UTF-8",
    b"\x1f\x8b": "is gzip-compressed; give its name the ending .gz",
    b"\x28\xb5\x2f\xfd": "is zstd-compressed; give its name the ending .zst",
    b"PAR1": "is a Parquet file; give its name the ending .parquet",
    b"PK\x03\x04": "is a zip archive; unpack it first",
}


@dataclass(frozen=True)
class Entry:
    """One JSON value, CSV row or table row of a file."""

    source: str
    line: int
    """Line of the file (JSONL, CSV) or number of the record (JSON, Parquet, Hugging Face), from 1."""
    value: Any
    error: str = ""
    """Why the entry could not be parsed; empty when it could."""
    raw: bytes = b""
    """What stands in the file, where it could not be parsed."""


def check_start(name: str, start: bytes) -> None:
    for magic, problem in _NOT_UTF8_STARTS.items():
        if start.startswith(magic):
            raise PreflightError(f"'{name}' {problem}.")


def _json_entries(name: str, stream: BinaryIO) -> Iterator[Entry]:
    content = stream.read().removeprefix(_UTF8_BOM)
    try:
        value = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise PreflightError(f"'{name}' line {line} is not UTF-8 text; save the file as UTF-8.") from error
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and content.lstrip()[:1] == b"{":
            yield from _json_line_entries(name, io.BytesIO(content))
            return
        position = f"line {error.lineno}, column {error.colno}"
        raise PreflightError(f"'{name}' is broken JSON at {position}: {error.msg}; mend the file there.") from error
    except (ValueError, RecursionError) as error:
        raise PreflightError(f"'{name}' is JSON that cannot be read: {one_line(error)}.") from error
    for number, element in enumerate(_row_list(name, value), start=1):
        yield Entry(name, number, element)


def _row_list(name: str, value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        lists = {key: entry for key, entry in value.items() if isinstance(entry, list)}
        if "data" in lists:
            return lists["data"]
        if len(lists) == 1:
            return next(iter(lists.values()))
    raise PreflightError(
        f"'{name}' holds {kind_of(value)} without a list of rows; write an array of objects, or an object with a "
        "list under 'data'."
    )


def _json_line_entries(name: str, stream: BinaryIO) -> Iterator[Entry]:
    for number, line in enumerate(stream, start=1):
        raw = line.rstrip(b"\r\n")
        if number == 1:
            raw = raw.removeprefix(_UTF8_BOM)
        if not raw.strip():
            continue
        try:
            yield Entry(name, number, json.loads(raw.decode("utf-8")))
        except UnicodeDecodeError as error:
            problem = f"line {number}, column {error.start + 1}: byte 0x{raw[error.start]:02X} is not UTF-8"
            yield Entry(name, number, None, problem, raw)
        except json.JSONDecodeError as error:
            yield Entry(name, number, None, f"line {number}, column {error.colno}: {error.msg}", raw)
        except (ValueError, RecursionError) as error:
            yield Entry(name, number, None, f"line {number}: {one_line(error)}", raw)


def _csv_entries(name: str, stream: BinaryIO) -> Iterator[Entry]:
    csv.field_size_limit(2**31 - 1)  # the default of 128 KiB refuses a long answer
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(text, strict=True)
    header = _csv_header(name, reader)
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "end of data" in str(error):
                raise PreflightError(
                    f"'{name}': a quote in the row at line {line} never closes, which hides the rest of the file; "
                    "close it or double it."
                ) from error
            yield Entry(name, line, None, f"line {line}: {error}", f"line {line}: {error}".encode())
            continue
        if not fields:
            continue
        problem = _csv_problem(line, fields, header)
        if problem:
            yield Entry(name, line, None, problem, ",".join(fields).encode("utf-8", "surrogateescape"))
        else:
            yield Entry(name, line, dict(zip(header, fields, strict=True)))


def _csv_header(name: str, reader: Any) -> list[str]:
    try:
        header: list[str] = next(reader, [])
    except csv.Error as error:
        raise PreflightError(f"'{name}' line 1 is no CSV header: {error}.") from error
    repeated = sorted({column for column in header if header.count(column) > 1})
    if repeated:
        raise PreflightError(f"'{name}' names the column '{repeated[0]}' twice in its header; rename one of them.")
    return header


def _csv_problem(line: int, fields: list[str], header: list[str]) -> str:
    if len(fields) != len(header):
        return f"line {line} has {len(fields)} fields, the header has {len(header)}"
    try:
        "".join(fields).encode("utf-8")
    except UnicodeEncodeError as error:
        byte = ord(error.object[error.start]) - 0xDC00
        return f"line {line}: byte 0x{byte:02X} is not UTF-8"
    return ""


def parquet_entries(name: str, table_file: pyarrow.NativeFile) -> Iterator[Entry]:
    number = 0
    with pyarrow.parquet.ParquetFile(table_file) as table:
        for batch in table.iter_batches(batch_size=_PARQUET_BATCH_ROWS):
            for value in batch.to_pylist():
                number += 1
                yield Entry(name, number, value)


TEXT_CONTAINERS: dict[str, Callable[[str, BinaryIO], Iterator[Entry]]] = {
    ".json": _json_entries,
    ".jsonl": _json_line_entries,
    ".ndjson": _json_line_entries,
    ".csv": _csv_entries,
}
CONTAINERS = (*TEXT_CONTAINERS, ".parquet")
