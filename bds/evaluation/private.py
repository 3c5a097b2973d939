"""The private part of a run directory: prompts, answers and judges' replies, for their owner only.

  private/key             names what is in here outside of it: keyed hashes of prompts
  private/generations/    the answers
  private/verdicts/       what judges replied
  private/utility/        what lm-eval wrote

On a local disk the folder is 0700 and its files 0600. An object store has the bucket's permissions.
"""

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from bds.data.rows import Message
from bds.data.values import canonical_json
from bds.errors import PreflightError
from bds.runs.directory import RunDirectory
from bds.runs.messages import first_line

PRIVATE = "private"
_KEY = f"{PRIVATE}/key"
_ROWS_PER_UPLOAD = 200


def open_private(run: RunDirectory) -> bytes:
    """Makes the private folder where there is none, and returns the key of its run.

    Raises PreflightError where it cannot be made.
    """
    folder = run.local_path(PRIVATE)
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.chmod(0o700)
        except OSError as error:
            raise PreflightError(
                f"{folder} cannot be made for its owner only ({first_line(error)}); check it"
            ) from error
    try:
        return run.read_bytes(_KEY)
    except FileNotFoundError:
        key = secrets.token_bytes(32)
        run.write_bytes(_KEY, key)
        path = run.local_path(_KEY)
        if path is not None:
            path.chmod(0o600)
        return key


def keyed_hash(key: bytes, value: str | Sequence[Message]) -> str:
    """HMAC-SHA256 of a prompt or of a hash of one: equal for equal ones of a run, and nothing to look up in a list."""
    told = value if isinstance(value, str) else [[message.role, message.content] for message in value]
    return hmac.new(key, canonical_json(told), hashlib.sha256).hexdigest()


class RowLog:
    """Rows in the order in which they were finished: on a local disk each as soon as it is there.

    An object store cannot append; there a file is written every `_ROWS_PER_UPLOAD` rows and at the end, and what a
    kill costs is the rows since the last one.
    """

    def __init__(self, run: RunDirectory, folder: str) -> None:
        self._run = run
        self._folder = f"{PRIVATE}/{folder}"
        self._name = f"{self._folder}/{len(run.list(self._folder)):05d}"
        self._pending: list[bytes] = []
        self._uploads = 0
        self._descriptor: int | None = None

    def add(self, row: Mapping[str, Any]) -> None:
        line = json.dumps(row, ensure_ascii=True).encode() + b"\n"
        path = self._run.local_path(f"{self._name}.jsonl")
        if path is None:
            self._pending.append(line)
            if len(self._pending) >= _ROWS_PER_UPLOAD:
                self._upload()
            return
        if self._descriptor is None:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(self._descriptor, line)
        except OSError as error:
            raise PreflightError(
                f"{path} cannot be written ({first_line(error)}): free space and run the same command again"
            ) from error

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        if self._pending:
            self._upload()

    def _upload(self) -> None:
        self._run.write_bytes(f"{self._name}-{self._uploads:05d}.jsonl", b"".join(self._pending))
        self._pending.clear()
        self._uploads += 1


@contextmanager
def row_log(run: RunDirectory, folder: str) -> Iterator[RowLog]:
    log = RowLog(run, folder)
    try:
        yield log
    finally:
        log.close()


def logged_rows(run: RunDirectory, folder: str) -> dict[str, dict[str, Any]]:
    """The last row of each `key`, but that one which says `failed` never replaces another.

    A line that a kill cut off is no row.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in run.list(f"{PRIVATE}/{folder}"):
        for line in run.read_bytes(name).splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            before = found.get(row["key"])
            if before is None or row["status"] != "failed" or before["status"] == "failed":
                found[row["key"]] = row
    return found
