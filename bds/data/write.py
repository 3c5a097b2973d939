"""Selected records back to a dataset in the input's own container and columns, so that the next tool reads them.

Records are taken one at a time, so that a dataset of any size needs no memory of its size. Where a file's columns stand
before its first record, the records are read through once for their columns.
"""

import contextlib
import csv
import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import IO, Any

import pyarrow
import pyarrow.parquet
import zstandard

from bds.data.files import list_files, split_extension
from bds.data.huggingface import is_huggingface

_GZIP_NO_TIMESTAMP = 0
_RECORDS_AT_ONCE = 1 << 16
"""Of a Parquet file's row group."""

Records = Iterable[dict[str, Any]]


def write_records(file: IO[bytes], records: Records, extension: str, schema: pyarrow.Schema | None = None) -> None:
    """The records as the bytes of a file with this ending: .json, .jsonl, .ndjson, .csv or .parquet, and .gz or .zst.

    Equal records give equal bytes.

    Args:
        records: read through once or twice, with the same records each time.
        schema: column types of a Parquet file, inferred from the values without it.
    """
    container, compression = split_extension(f"records{extension}")
    if container not in _WRITERS:
        raise ValueError(f"'{extension}' is no ending that bds writes")
    with _compressed(file, compression) as packed:
        _WRITERS[container](packed, records, schema)


def table_schema(path: str) -> pyarrow.Schema | None:
    """Column types of an uncompressed Parquet dataset (of its first file); None for everything else."""
    if is_huggingface(path):
        return None
    first = list_files(path)[0]
    if (first.container, first.compression) != (".parquet", ""):
        return None
    return pyarrow.parquet.read_schema(first.path, filesystem=first.filesystem)


@contextlib.contextmanager
def _compressed(file: IO[bytes], compression: str) -> Iterator[IO[bytes]]:
    if compression == ".gz":
        with gzip.GzipFile("", "wb", fileobj=file, mtime=_GZIP_NO_TIMESTAMP) as packed:
            yield packed  # type: ignore[misc]
    elif compression == ".zst":
        with zstandard.ZstdCompressor().stream_writer(file, closefd=False) as packed:
            yield packed
    else:
        yield file


def _json(file: IO[bytes], records: Records, schema: pyarrow.Schema | None) -> None:
    """As json.dumps writes the whole list with an indent of 2."""
    before = b"[\n"
    for record in records:
        # No raw line end is inside a value: JSON escapes it.
        file.write(before + b"  " + _dumped(record, indent=2).replace(b"\n", b"\n  "))
        before = b",\n"
    file.write(b"[]\n" if before == b"[\n" else b"\n]\n")


def _json_lines(file: IO[bytes], records: Records, schema: pyarrow.Schema | None) -> None:
    for record in records:
        file.write(_dumped(record) + b"\n")


def _dumped(value: Any, indent: int | None = None) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent, default=str).encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair has no UTF-8; JSON's escapes can hold it
        return json.dumps(value, indent=indent, default=str).encode("ascii")


def _csv(file: IO[bytes], records: Records, schema: pyarrow.Schema | None) -> None:
    columns = list(dict.fromkeys(column for record in records for column in record))
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    # CRLF is RFC 4180's line end, and makes the writer quote a field that holds a lone CR or LF.
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(records)
    text.detach()


def _parquet(file: IO[bytes], records: Records, schema: pyarrow.Schema | None) -> None:
    if schema is None:
        found = [pyarrow.schema(list(pyarrow.infer_type(block))) for block in _blocks(records)]
        schema = pyarrow.unify_schemas(found, promote_options="permissive") if found else pyarrow.schema([])
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        for block in _blocks(records):
            writer.write_table(pyarrow.Table.from_pylist(block, schema=schema))


def _blocks(records: Records) -> Iterator[list[dict[str, Any]]]:
    left = iter(records)
    while block := list(islice(left, _RECORDS_AT_ONCE)):
        yield block


_WRITERS: dict[str, Callable[[IO[bytes], Records, pyarrow.Schema | None], None]] = {
    ".json": _json,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".csv": _csv,
    ".parquet": _parquet,
}
