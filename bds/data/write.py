"""Selected records back to a dataset in the input's own container and columns, so that the next tool reads them."""

import csv
import gzip
import io
import json
from collections.abc import Sequence
from typing import Any

import pyarrow
import pyarrow.parquet
import zstandard

from bds.data.files import list_files, split_extension
from bds.data.huggingface import is_huggingface
from bds.data.reader import extension_of

_GZIP_NO_TIMESTAMP = 0


def encode_like(records: Sequence[dict[str, Any]], source: str) -> tuple[str, bytes]:
    """The records as a file in the container of the dataset they were read from: its ending, and its bytes.

    JSON array -> .json, JSONL -> .jsonl, CSV -> .csv, Parquet and Hugging Face -> .parquet (a Parquet file keeps its
    column types); compressed input keeps its compression.
    """
    extension = extension_of(source)
    return extension, encode_records(records, extension, table_schema(source))


def encode_records(records: Sequence[dict[str, Any]], extension: str, schema: pyarrow.Schema | None = None) -> bytes:
    """The records as the bytes of a file with this ending: .json, .jsonl, .ndjson, .csv or .parquet, and .gz or .zst.

    schema: column types of a Parquet file, inferred from the values without it. Equal records give equal bytes.
    """
    container, compression = split_extension(f"records{extension}")
    if container == ".parquet":
        content = _parquet(records, schema)
    elif container == ".csv":
        content = _csv(records)
    elif container == ".json":
        content = _json(records, indent=2) + b"\n"
    elif container in {".jsonl", ".ndjson"}:
        content = b"".join(_json(record) + b"\n" for record in records)
    else:
        raise ValueError(f"'{extension}' is no ending that bds writes")
    if compression == ".gz":
        return gzip.compress(content, mtime=_GZIP_NO_TIMESTAMP)
    return zstandard.compress(content) if compression == ".zst" else content


def table_schema(path: str) -> pyarrow.Schema | None:
    """Column types of an uncompressed Parquet dataset (of its first file); None for everything else."""
    if is_huggingface(path):
        return None
    first = list_files(path)[0]
    if (first.container, first.compression) != (".parquet", ""):
        return None
    return pyarrow.parquet.read_schema(first.path, filesystem=first.filesystem)


def _json(value: Any, indent: int | None = None) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent, default=str).encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair has no UTF-8; JSON's escapes can hold it
        return json.dumps(value, indent=indent, default=str).encode("ascii")


def _csv(records: Sequence[dict[str, Any]]) -> bytes:
    columns = list(dict.fromkeys(column for record in records for column in record))
    text = io.StringIO(newline="")
    # CRLF is RFC 4180's line end, and makes the writer quote a field that holds a lone CR or LF.
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().encode("utf-8")


def _parquet(records: Sequence[dict[str, Any]], schema: pyarrow.Schema | None) -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(records), schema=schema), sink)
    return sink.getvalue().to_pybytes()
