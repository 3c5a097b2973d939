"""Files to records: every container, compression and place a dataset can come in, read as a stream.

A record that cannot be parsed is a record with an error. A file that cannot be read at all is a PreflightError.
"""

import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow
import pyarrow.fs

from bds.data import huggingface
from bds.data.containers import TEXT_CONTAINERS, Entry, check_start, parquet_entries
from bds.data.values import canonical_json, kind_of, one_line
from bds.errors import PreflightError

CONTAINERS = (*TEXT_CONTAINERS, ".parquet")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_READ_BUFFER = 1 << 20


@dataclass(frozen=True)
class Record:
    """An entry that is an object with named columns (`value`), or the reason why it is not (`error`)."""

    source: str
    line: int
    value: dict[str, Any] | None
    error: str = ""
    raw: bytes = b""


@dataclass(frozen=True)
class DataFile:
    """One file of a dataset."""

    name: str
    """As the user would write it; what messages and rows show."""
    filesystem: pyarrow.fs.FileSystem
    path: str
    """As the filesystem wants it."""
    container: str
    """.json, .jsonl, .ndjson, .csv or .parquet."""
    compression: str
    """.gz, .zst or empty."""


def read_records(path: str, *, split: str = "train", subset: str | None = None) -> Iterator[Record]:
    """Every record of a file, a folder of files (sorted by name), a pyarrow.fs URI or a Hugging Face dataset, in order.

    Blank lines of JSONL and CSV are no records. `split` and `subset` matter to Hugging Face datasets only.

    Raises PreflightError where the path, the compression or the container as a whole cannot be read, or holds nothing.
    """
    for entry in read_entries(path, split=split, subset=subset):
        if entry.error or isinstance(entry.value, dict):
            yield Record(entry.source, entry.line, entry.value, entry.error, entry.raw)
        else:
            kind = kind_of(entry.value)
            raw = canonical_json(entry.value)
            yield Record(
                entry.source, entry.line, None, f"line {entry.line} is {kind}, not an object with columns", raw
            )


def read_entries(path: str, *, split: str = "train", subset: str | None = None) -> Iterator[Entry]:
    """Like read_records, for files whose lines may also be lists (the public anchor files)."""
    entries = (
        _huggingface_entries(path, split, subset)
        if huggingface.is_huggingface(path)
        else (entry for file in list_files(path) for entry in _file_entries(file))
    )
    empty = True
    for entry in entries:
        empty = False
        yield entry
    if empty:
        raise PreflightError(f"'{path}' holds no rows; check that it is the file you mean.")


def fingerprint(path: str, *, split: str = "train", subset: str | None = None) -> str:
    """SHA-256 (hex) of the dataset's bytes, so that a resumed run can tell that its input changed.

    Over the names and bytes of the files; for a Hugging Face dataset over its records as canonical JSON, because its
    own fingerprint depends on the machine's cache.
    """
    digest = hashlib.sha256()
    if huggingface.is_huggingface(path):
        for record in huggingface.load(path, split, subset):
            digest.update(canonical_json(record))
            digest.update(b"\n")
        return digest.hexdigest()
    for file in list_files(path):
        digest.update(os.path.basename(file.path).encode("utf-8", "surrogateescape") + b"\0")
        try:
            with file.filesystem.open_input_stream(file.path, compression=None) as stream:
                while chunk := stream.read(_READ_BUFFER):
                    digest.update(chunk)
        except OSError as error:
            raise _unreadable(file, error) from error
    return digest.hexdigest()


def split_extension(name: str) -> tuple[str, str]:
    """Container and compression endings of a file name: "rows.jsonl.gz" gives (".jsonl", ".gz")."""
    stem, ending = os.path.splitext(name.lower())
    if ending in COMPRESSIONS:
        return os.path.splitext(stem)[1], ending
    return ending, ""


def list_files(path: str) -> list[DataFile]:
    """The data files that a path, folder or URI stands for, sorted by name. A folder is not searched in depth."""
    filesystem, inner = _filesystem(path)
    try:
        info = filesystem.get_file_info(inner)
    except OSError as error:
        raise PreflightError(f"'{path}' cannot be reached: {one_line(error)}.") from error
    if info.type == pyarrow.fs.FileType.NotFound:
        raise PreflightError(f"'{path}' does not exist; check the path.")
    if info.type == pyarrow.fs.FileType.Directory:
        return _list_folder(path, filesystem, inner)
    container, compression = split_extension(inner)
    if container not in CONTAINERS:
        raise PreflightError(f"'{path}' has the unknown ending '{container}'; bds reads {_known_endings()}.")
    if info.size == 0:
        raise PreflightError(f"'{path}' is empty; check that it was written completely.")
    return [DataFile(path, filesystem, inner, container, compression)]


def _list_folder(path: str, filesystem: pyarrow.fs.FileSystem, inner: str) -> list[DataFile]:
    try:
        infos = filesystem.get_file_info(pyarrow.fs.FileSelector(inner))
    except OSError as error:
        raise PreflightError(f"The folder '{path}' cannot be listed: {one_line(error)}.") from error
    files = []
    for info in sorted(infos, key=lambda info: info.base_name):
        container, compression = split_extension(info.base_name)
        hidden = info.base_name.startswith((".", "_"))
        if info.type == pyarrow.fs.FileType.File and container in CONTAINERS and not hidden and info.size != 0:
            name = f"{path.rstrip('/')}/{info.base_name}"
            files.append(DataFile(name, filesystem, info.path, container, compression))
    if not files:
        raise PreflightError(f"The folder '{path}' has no data files in it; bds reads {_known_endings()}.")
    return files


def _filesystem(path: str) -> tuple[pyarrow.fs.FileSystem, str]:
    if "://" not in path:
        return pyarrow.fs.LocalFileSystem(), os.path.expanduser(path)
    try:
        filesystem, inner = pyarrow.fs.FileSystem.from_uri(path)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise PreflightError(
            f"'{path}' is no storage address that pyarrow knows: {one_line(error)}; write a path, file://, s3://, "
            "gs://, abfs://, hdfs:// or hf://owner/name."
        ) from error
    return filesystem, inner


def _file_entries(file: DataFile) -> Iterator[Entry]:
    try:
        if file.container == ".parquet" and not file.compression:
            with file.filesystem.open_input_file(file.path) as table_file:
                yield from parquet_entries(file.name, table_file)
            return
        codec = COMPRESSIONS.get(file.compression)
        with file.filesystem.open_input_stream(file.path, compression=codec) as arrow_stream:
            stream = io.BufferedReader(arrow_stream, _READ_BUFFER)
            if file.container == ".parquet":
                # A table is read from its end; a compressed one cannot seek, so it has to be in memory for that.
                yield from parquet_entries(file.name, pyarrow.BufferReader(stream.read()))
            else:
                check_start(file.name, stream.peek(4))
                yield from TEXT_CONTAINERS[file.container](file.name, stream)
    except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
        raise _unreadable(file, error) from error


def _huggingface_entries(path: str, split: str, subset: str | None) -> Iterator[Entry]:
    for number, value in enumerate(huggingface.load(path, split, subset), start=1):
        yield Entry(path, number, value)


def _known_endings() -> str:
    return f"{', '.join(CONTAINERS)}, each also with {' or '.join(COMPRESSIONS)}"


def _unreadable(file: DataFile, error: Exception) -> PreflightError:
    what = {".gz": "as gzip", ".zst": "as zstd"}.get(file.compression, "")
    return PreflightError(f"'{file.name}' cannot be read{' ' if what else ''}{what}: {one_line(error)}.")
