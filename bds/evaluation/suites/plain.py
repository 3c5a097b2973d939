"""Any list of prompts: JSONL, JSON, CSV or Parquet with a named column, or a text file with a prompt on each line."""

from dataclasses import dataclass
from pathlib import Path

from bds.data.formats import columns_of
from bds.data.prompts import PROMPT_COLUMNS
from bds.errors import PreflightError, SpecError
from bds.evaluation.suites.files import read_table, read_text
from bds.evaluation.suites.suite import KINDS, Imported, Kind, Suite, SuitePrompt, check_prompts, one_turn


@dataclass(frozen=True)
class PlainOptions:
    """What a file of one's own does not say itself."""

    name: str = ""
    """Of the suite; empty takes the file's."""
    kind: Kind = "refuse"
    column: str = ""
    """Of the prompts; empty takes the first of `bds.data.prompts.PROMPT_COLUMNS` that the file has."""
    id_column: str = ""
    """Of the ids; empty numbers the rows from 1."""
    category_column: str = ""
    source: str = ""
    licence: str = ""


def import_plain(path: str, options: PlainOptions) -> Imported:
    """The suite of a file. A text file's blank lines are no prompts, and its ids are line numbers.

    Raises:
        SpecError: an unknown kind, or columns named for a text file.
        PreflightError: the file lacks a named column, names no known one, or has a row without a prompt.
    """
    if options.kind not in KINDS:
        raise SpecError(f"'{options.kind}' is no kind of suite; use {', '.join(KINDS)}.")
    name = options.name or Path(path).name.partition(".")[0]
    prompts = _text_prompts(path, name, options) if path.endswith(".txt") else _table_prompts(path, name, options)
    warnings = check_prompts(path, prompts)
    suite = Suite(name, options.kind, tuple(prompts), source=options.source or path, licence=options.licence)
    return Imported((suite,), warnings)


def _text_prompts(path: str, name: str, options: PlainOptions) -> list[SuitePrompt]:
    named = [column for column in (options.column, options.id_column, options.category_column) if column]
    if named:
        raise SpecError(f"'{path}' is a text file, which has no column '{named[0]}'; leave the columns out.")
    return [
        SuitePrompt(f"{name}/{number}", one_turn(line.strip()))
        for number, line in enumerate(read_text(path).splitlines(), start=1)
        if line.strip()
    ]


def _table_prompts(path: str, name: str, options: PlainOptions) -> list[SuitePrompt]:
    named = [column for column in (options.column, options.id_column, options.category_column) if column]
    rows = read_table(path, named)
    column = options.column or _prompt_column(path, columns_of([row.record for row in rows]))
    return [
        SuitePrompt(
            f"{name}/{row.optional(options.id_column) if options.id_column else row.number}",
            one_turn(row.text(column)),
            row.optional(options.category_column) if options.category_column else "",
        )
        for row in rows
    ]


def _prompt_column(path: str, present: tuple[str, ...]) -> str:
    column = next((column for column in PROMPT_COLUMNS if column in present), None)
    if column is None:
        raise PreflightError(
            f"'{path}' has the columns {', '.join(present)}, none of which is {', '.join(PROMPT_COLUMNS)}; name the "
            "column of the prompts."
        )
    return column
