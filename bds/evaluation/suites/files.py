"""The files that users bring: read as rows, with a sentence for each thing that is saved in their place by mistake."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bds.data.files import read_records
from bds.data.values import kind_of
from bds.errors import PreflightError

_START_BYTES = 4096


@dataclass(frozen=True)
class TableRow:
    """One row of a table, whose prompt is checked."""

    source: str
    line: int
    number: int
    """Of the row in its file, from 1."""
    record: Mapping[str, Any]

    def text(self, column: str) -> str:
        """The text in a column. Raises PreflightError where there is none."""
        value = self.record.get(column)
        if isinstance(value, str) and value.strip():
            return value
        held = "nothing" if value is None or isinstance(value, str) else kind_of(value)
        raise PreflightError(
            f"'{self.source}' line {self.line} has {held} in the column '{column}', where text belongs; mend the line "
            "or take it out."
        )

    def optional(self, column: str) -> str:
        """The value of a column as text, empty where it has none."""
        value = self.record.get(column)
        return "" if value is None else str(value)


def read_table(path: str, columns: Sequence[str]) -> list[TableRow]:
    """The rows of a CSV, JSON, JSONL or Parquet file that must have some columns, in order.

    Raises PreflightError, with file and line, where the file is no such file, lacks a column or has a broken row.
    """
    check_body(path)
    rows = []
    for number, record in enumerate(read_records(path), start=1):
        if record.value is None:
            raise PreflightError(f"'{record.source}' {record.error}; mend the line or take it out.")
        row = TableRow(record.source, record.line, number, record.value)
        missing = [column for column in columns if column not in record.value]
        if missing:
            raise PreflightError(
                f"'{path}' line {record.line} has no column '{missing[0]}', it has {', '.join(record.value)}; check "
                "that it is the file you mean."
            )
        rows.append(row)
    return rows


def read_text(path: str) -> str:
    """A text file whole. Raises PreflightError where it is no UTF-8 text, or not what a dataset's file holds."""
    check_body(path)
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PreflightError(f"'{path}' is not UTF-8 text (byte {error.start}); save the file as UTF-8.") from error


def check_body(path: str) -> None:
    """Raises PreflightError where a file is missing, empty, or holds what a failed download leaves in its place."""
    file = Path(path)
    if not file.is_file():
        raise PreflightError(f"'{path}' is {'a folder' if file.is_dir() else 'missing'}; give the path of a file.")
    try:
        with file.open("rb") as stream:
            start = stream.read(_START_BYTES)
    except OSError as error:
        raise PreflightError(f"'{path}' cannot be read ({error.strerror}); check its permissions.") from error
    text = start.decode("utf-8-sig", "replace").strip()
    if not text:
        raise PreflightError(f"'{path}' is empty; check that it was downloaded completely.")
    reason = _not_a_dataset(text)
    if reason:
        raise PreflightError(f"'{path}' {reason}.")


def _not_a_dataset(text: str) -> str:
    """What a body is instead of a dataset's file, and the way out; empty where it may be one."""
    lowered = text.lower()
    if text.startswith("version https://git-lfs.github.com/spec/"):
        return "is a Git LFS pointer, not the file itself; run git lfs pull, or download the file"
    if lowered.startswith(("<!doctype html", "<html", "<?xml", "<head")):
        return "is a web page, not the file itself; download the raw file, signed in where it is gated"
    if lowered.rstrip(".") in {"entry not found", "not found", "404: not found", "invalid username or password"}:
        return f"holds only the words '{text}': upstream has no such file, or not for you; delete it or get it again"
    if lowered.startswith("access to dataset") and "restricted" in lowered:
        return "says that access is restricted; accept the dataset's terms and download it signed in"
    if lowered.startswith('{"error"'):
        return "is an error message of the server, not the file itself; download it again"
    return ""
