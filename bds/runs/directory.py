"""The run directory: any folder or bucket that pyarrow.fs can reach, and the few things bds does to it.

A name is relative to the directory and uses forward slashes: `stages/score/receipts/00042.json`.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bds.errors import PreflightError
from bds.runs.messages import first_line

if TYPE_CHECKING:
    import polars as pl
    from pyarrow.fs import FileSystem

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+)://")
"""At least two letters, so that a Windows drive is not a scheme."""

ROW_GROUP = 65_536
"""Rows of a Parquet file's row group."""

_TEMPORARY = ".bds-temporary-"
_BLOCK = 1 << 22
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_PERMISSION = {errno.EACCES, errno.EPERM, errno.EROFS}
_NOT_A_FOLDER = {errno.ENOTDIR, errno.EEXIST, errno.EISDIR}


class RunDirectory:
    """Reads and writes whole files under one root. Pickles as its URI, so that workers open storage themselves.

    On a local disk a file appears whole or not at all (written aside, synced, renamed). An object store has no rename
    and a put is whole anyway. Every storage error is a PreflightError that names the directory and the way out; only
    reading a name that does not exist raises FileNotFoundError.
    """

    def __init__(self, uri: str) -> None:
        scheme = _SCHEME.match(uri)
        self._root: Path | None = None
        if scheme is None:
            self._root = Path(uri).expanduser().absolute()
            self.uri = str(self._root)
        else:
            self.uri = uri.rstrip("/")
        self._opened: tuple[FileSystem, str] | None = None

    def __reduce__(self) -> tuple[type["RunDirectory"], tuple[object, ...]]:
        return RunDirectory, (self.uri,)

    def __repr__(self) -> str:
        return f"RunDirectory({self.uri!r})"

    def url_of(self, name: str) -> str:
        """Where a person finds the file."""
        return str(self._root / name) if self._root is not None else f"{self.uri}/{name}"

    def local_path(self, name: str) -> Path | None:
        """The file's path on this machine's disk; None on an object store."""
        filesystem, base = self._storage()
        return Path(base) / name if filesystem.type_name == "local" else None

    @property
    def is_local(self) -> bool:
        """Whether the directory is a path, which other machines see only if it is on a shared disk."""
        return self.local_path("") is not None

    def read_bytes(self, name: str) -> bytes:
        """Raises FileNotFoundError where there is no such file."""
        filesystem, base = self._storage()
        with self._explained("read", name), filesystem.open_input_file(f"{base}/{name}") as file:
            content: bytes = file.readall()
            return content

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[IO[bytes]]:
        """A file to read from in any order. Raises FileNotFoundError where there is no such file."""
        filesystem, base = self._storage()
        with self._explained("read", name), filesystem.open_input_file(f"{base}/{name}") as file:
            yield file

    def write_bytes(self, name: str, content: bytes) -> None:
        filesystem, base = self._storage()
        with self._explained("write", name):
            path = self.local_path(name)
            if path is not None:
                _write_whole(path, content)
                return
            parent, _, _ = f"{base}/{name}".rpartition("/")
            filesystem.create_dir(parent, recursive=True)
            with filesystem.open_output_stream(f"{base}/{name}", compression=None) as file:
                file.write(content)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A file of any size to write to: it appears whole at the end of the block, or not at all."""
        path = self.local_path(name)
        if path is not None:
            with self._explained("write", name), _appears_whole(path) as file:
                yield file
            return
        with tempfile.NamedTemporaryFile(prefix="bds-") as aside:
            yield aside
            aside.flush()
            self.upload(Path(aside.name), name)

    def append_line(self, name: str, line: str) -> None:
        """Adds a line to a file on a local disk. An object store cannot append: ValueError."""
        path = self.local_path(name)
        if path is None:
            raise ValueError(f"{self.url_of(name)} is on an object store, which cannot append")
        with self._explained("write", name):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def read_json(self, name: str) -> Any:
        """Raises FileNotFoundError where there is no such file, PreflightError where it is not JSON."""
        content = self.read_bytes(name)
        try:
            return json.loads(content)
        except ValueError as error:
            raise PreflightError(
                f"{self.url_of(name)} is damaged ({error}): delete it and run the same command again"
            ) from error

    def write_json(self, name: str, value: Any) -> None:
        """See `readable_json`: sorted keys, two spaces, ASCII, a newline at the end."""
        self.write_bytes(name, readable_json(value))

    def read_table(self, name: str) -> "pl.DataFrame":
        """Raises FileNotFoundError where there is no such file, PreflightError where it is not parquet."""
        return parquet_table(self.read_bytes(name), self.url_of(name))

    def write_table(self, name: str, table: "pl.DataFrame") -> tuple[str, int]:
        """Writes parquet whose bytes depend on nothing but the table. Returns the SHA-256 and the size in bytes."""
        content = parquet_bytes(table)
        self.write_bytes(name, content)
        return hashlib.sha256(content).hexdigest(), len(content)

    def upload(self, local: Path, name: str) -> tuple[str, int]:
        """Copies a file of any size from this machine's disk, whole or not at all. Returns its SHA-256 and size."""
        filesystem, base = self._storage()
        with self._explained("write", name):
            path = self.local_path(name)
            if path is not None:
                return _copy_whole(local, path)
            parent, _, _ = f"{base}/{name}".rpartition("/")
            filesystem.create_dir(parent, recursive=True)
            with local.open("rb") as source, filesystem.open_output_stream(f"{base}/{name}", compression=None) as file:
                return _copy(source, file)

    def download(self, name: str, local: Path) -> None:
        """Copies a file of any size to this machine's disk. Raises FileNotFoundError where there is no such file."""
        filesystem, base = self._storage()
        local.parent.mkdir(parents=True, exist_ok=True)
        with (
            self._explained("read", name),
            filesystem.open_input_stream(f"{base}/{name}", compression=None) as source,
            local.open("wb") as file,
        ):
            _copy(source, file)

    def sha256(self, name: str) -> str | None:
        """Of a file of any size; None where there is no such file."""
        filesystem, base = self._storage()
        try:
            with (
                self._explained("read", name),
                filesystem.open_input_stream(f"{base}/{name}", compression=None) as source,
            ):
                return _hashed(source)
        except FileNotFoundError:
            return None

    def exists(self, name: str) -> bool:
        from pyarrow.fs import FileType

        filesystem, base = self._storage()
        with self._explained("read", name):
            return bool(filesystem.get_file_info(f"{base}/{name}").type == FileType.File)

    def list(self, folder: str = "") -> dict[str, int]:
        """Names and sizes in bytes of every file below a folder, sorted; empty where there is no such folder."""
        from pyarrow.fs import FileSelector

        filesystem, base = self._storage()
        selector = FileSelector(f"{base}/{folder}".rstrip("/"), allow_not_found=True, recursive=True)
        with self._explained("list", folder):
            found = filesystem.get_file_info(selector)
        files = [file for file in found if file.is_file and not file.base_name.startswith(_TEMPORARY)]
        return dict(sorted((file.path[len(base) + 1 :], file.size) for file in files))

    def entries(self, folder: str = "") -> dict[str, bool]:
        """Names of what lies in a folder itself, sorted; whether each is a folder. Empty where there is no folder."""
        from pyarrow.fs import FileSelector, FileType

        filesystem, base = self._storage()
        selector = FileSelector(f"{base}/{folder}".rstrip("/"), allow_not_found=True)
        with self._explained("list", folder):
            found = filesystem.get_file_info(selector)
        return dict(sorted((each.base_name, each.type == FileType.Directory) for each in found))

    def delete(self, name: str) -> None:
        """Deletes a file; one that is not there is as good as deleted."""
        filesystem, base = self._storage()
        with contextlib.suppress(FileNotFoundError), self._explained("delete", name):
            filesystem.delete_file(f"{base}/{name}")

    def _storage(self) -> tuple["FileSystem", str]:
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def _open(self) -> tuple["FileSystem", str]:
        from pyarrow.fs import FileSystem, LocalFileSystem

        if self._root is not None:
            return LocalFileSystem(), self._root.as_posix().rstrip("/")
        try:
            filesystem, base = FileSystem.from_uri(self.uri)
        except (OSError, ValueError, ImportError) as error:
            raise PreflightError(
                f"the run directory {self.uri} cannot be opened ({first_line(error)}): "
                "give a path, or a URI such as s3://bucket/folder with its credentials in the environment"
            ) from error
        return filesystem, base.rstrip("/")

    @contextlib.contextmanager
    def _explained(self, action: str, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if action in {"read", "delete"} and isinstance(error, FileNotFoundError):
                raise
            raise PreflightError(self._explanation(action, name, error)) from error

    def _explanation(self, action: str, name: str, error: OSError) -> str:
        where = f"the run directory {self.uri}"
        if error.errno in _NO_ROOM:
            return f"{where} has no room: free space and run the same command again; finished shards are kept"
        if error.errno in _NO_PERMISSION:
            return (
                f"no permission to {action} {self.url_of(name)}: change its permissions or choose another run directory"
            )
        if error.errno in _NOT_A_FOLDER:
            return f"{where} cannot hold {name}, something else is in its place: choose another run directory"
        return f"cannot {action} {self.url_of(name)} ({first_line(error)}): check it and run the same command again"


def readable_json(value: Any) -> bytes:
    """JSON as it stands in a run directory, a line for each value, in one spelling: equal values, equal bytes."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=True) + "\n").encode()


def parquet_bytes(table: "pl.DataFrame") -> bytes:
    """Parquet with fixed compression and row groups: equal tables give equal bytes, whatever their chunks."""
    buffer = io.BytesIO()
    table.rechunk().write_parquet(
        buffer, compression="zstd", compression_level=3, row_group_size=ROW_GROUP, statistics=True
    )
    return buffer.getvalue()


def parquet_table(content: bytes, shown_name: str) -> "pl.DataFrame":
    """The table of parquet bytes. Raises PreflightError, naming the file, where they are not parquet."""
    import polars as pl

    try:
        return pl.read_parquet(io.BytesIO(content))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise PreflightError(
            f"{shown_name} is damaged ({first_line(error)}): delete it and run the same command again"
        ) from error


def _write_whole(path: Path, content: bytes) -> None:
    with _appears_whole(path) as file:
        file.write(content)


def _copy_whole(local: Path, path: Path) -> tuple[str, int]:
    with local.open("rb") as source, _appears_whole(path) as file:
        return _copy(source, file)


def _copy(source: IO[bytes], target: IO[bytes]) -> tuple[str, int]:
    """SHA-256 and number of the bytes copied."""
    digest, size = hashlib.sha256(), 0
    while block := source.read(_BLOCK):
        digest.update(block)
        size += len(block)
        target.write(block)
    return digest.hexdigest(), size


def _hashed(source: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while block := source.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def _appears_whole(path: Path) -> Iterator[IO[bytes]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{_TEMPORARY}{uuid.uuid4().hex}"
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself survive a power cut; Windows cannot open a folder and has no need to."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
