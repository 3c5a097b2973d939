"""What a disturbed run must leave behind: rows, files and work of an undisturbed one. Every complaint is a sentence.

Nothing here runs anything, so that the tests can show that each check fails where it must.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl


@dataclass(frozen=True)
class Table:
    """A result table with the columns that name a row of it."""

    rows: pl.DataFrame
    key: tuple[str, ...]


@dataclass(frozen=True)
class Left:
    """What a finished run left behind."""

    tables: Mapping[str, Table]
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 by name, of what has to be the same to the byte."""
    done: Counter[str] = field(default_factory=Counter)
    """How often each piece of work was finished and committed."""
    begun: int = 0
    """Pieces of work that were begun, those that a kill cut off included."""


def complaints(expected: Left, found: Left, *, lost_work: int) -> list[str]:
    """Everything that is wrong with a disturbed run; empty where nothing is.

    Args:
        expected: of the undisturbed run.
        lost_work: pieces of work in flight that the faults may have cost, which are begun again.
    """
    told = []
    for name, table in expected.tables.items():
        told += table_complaints(name, table, found.tables.get(name))
    told += [f"{name} has other bytes" for name, digest in expected.files.items() if found.files.get(name) != digest]
    told += [f"{name} is there and should not be" for name in found.files.keys() - expected.files.keys()]
    told += work_complaints(expected, found, lost_work=lost_work)
    return told


def table_complaints(name: str, expected: Table, found: Table | None) -> list[str]:
    """Lost, doubled, foreign, disordered or changed rows of one table."""
    if found is None:
        return [f"{name} is not there"]
    told = []
    keys, others = _keys(expected), _keys(found)
    wanted, had = Counter(keys), Counter(others)
    if lost := wanted.keys() - had.keys():
        told.append(f"{name} lost {len(lost)} of {len(wanted)} rows, for example {sorted(map(str, lost))[0]}")
    if foreign := had.keys() - wanted.keys():
        told.append(f"{name} has {len(foreign)} rows that nobody asked for, for example {sorted(map(str, foreign))[0]}")
    if doubled := [key for key, times in had.items() if times > wanted.get(key, 1)]:
        told.append(f"{name} has {len(doubled)} rows more than once, for example {sorted(map(str, doubled))[0]}")
    if not told and keys != others:
        told.append(f"{name} has its rows in another order")
    # Frames of other types are equal to Polars where their values are.
    if not told and (expected.rows.schema != found.rows.schema or not expected.rows.equals(found.rows)):
        told.append(f"{name} has {_changed(expected.rows, found.rows)}")
    return told


def work_complaints(expected: Left, found: Left, *, lost_work: int) -> list[str]:
    """Work that was left out, was finished twice, or was begun more often than the faults explain."""
    told = []
    if missing := expected.done.keys() - found.done.keys():
        told.append(f"{len(missing)} pieces of work were never finished, for example {sorted(missing)[0]}")
    if twice := sorted(name for name, times in found.done.items() if times > 1):
        told.append(f"{len(twice)} finished pieces of work were done again, for example {twice[0]}")
    again = found.begun - expected.begun
    if again > lost_work:
        told.append(f"{again} pieces of work were begun again, and the faults explain {lost_work}")
    return told


def sentence_complaints(code: int, said: str, words: Sequence[str]) -> list[str]:
    """A command that has to stop says why in one line of its own, without a traceback.

    Args:
        words: at least one of them tells that it is the right reason.
    """
    told = []
    if code == 0:
        told.append("it ended as if nothing were wrong")
    if "Traceback (most recent call last)" in said:
        told.append("it ended with a traceback")
    if not any(word in said for word in words):
        last = said.strip().splitlines()[-1:] or ["nothing"]
        told.append(f"it did not say why it stopped, but: {last[0][:200]}")
    return told


def read_table(file: Path, key: Sequence[str], *, without: Sequence[str] = ()) -> Table:
    return Table(pl.read_parquet(file).drop(without, strict=False), tuple(key))


def digest_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def lines_of(file: Path) -> list[dict[str, object]]:
    """Of a log of JSON lines, those that a kill has not cut off."""
    rows = []
    for line in file.read_bytes().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def _keys(table: Table) -> list[tuple[object, ...]]:
    return table.rows.select(table.key).rows()


def _changed(expected: pl.DataFrame, found: pl.DataFrame) -> str:
    if expected.columns != found.columns:
        return f"other columns: {sorted(set(expected.columns) ^ set(found.columns)) or 'in another order'}"
    columns = [name for name in expected.columns if not expected[name].equals(found[name], null_equal=True)]
    return f"other values in {', '.join(columns) or 'columns of other types'}"
