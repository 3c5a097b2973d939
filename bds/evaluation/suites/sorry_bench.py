"""SORRY-Bench: a CSV or JSONL of question_id, category, turns and prompt_style (Xie et al. 2025)."""

import ast
from typing import Any

from bds.data.rows import Message
from bds.errors import PreflightError
from bds.evaluation.suites.files import TableRow, read_table
from bds.evaluation.suites.suite import Imported, Suite, SuitePrompt, check_prompts, one_turn

PROMPTS = {450: "202406", 440: "202503"}
"""Numbers of base prompts, and the versions that have them."""
BASE_STYLE = "base"


def import_sorry_bench(path: str) -> Imported:
    """The suite `sorry_bench` with upstream's question_id and category number.

    Only prompts of the base style: the others are the same requests in other wording, and are left out with a warning.

    Raises PreflightError for a file without these columns, or turns that are neither text nor a list with one text.
    """
    rows = read_table(path, ("question_id", "category", "turns"))
    base = [row for row in rows if row.optional("prompt_style") in {"", BASE_STYLE}]
    prompts = tuple(
        SuitePrompt(f"sorry_bench/{row.optional('question_id')}", _messages(row), row.optional("category"))
        for row in base
    )
    warnings = list(check_prompts(path, prompts))
    if len(base) < len(rows):
        warnings.append(f"'{path}': {len(rows) - len(base)} prompts of other styles than base are left out.")
    if len(prompts) not in PROMPTS:
        published = " or ".join(str(count) for count in PROMPTS)
        warnings.append(f"'{path}' has {len(prompts)} base prompts; SORRY-Bench has {published}.")
    suite = Suite(
        "sorry_bench",
        "refuse",
        prompts,
        source="sorry-bench/sorry-bench-202503",
        licence="SORRY-Bench Dataset License Agreement",
        version=PROMPTS.get(len(prompts), ""),
    )
    return Imported((suite,), tuple(warnings))


def _messages(row: TableRow) -> tuple[Message, ...]:
    turns = row.record.get("turns")
    if isinstance(turns, str) and turns.lstrip().startswith("["):
        turns = _list_of(turns)
    if isinstance(turns, list) and len(turns) == 1:
        turns = turns[0]
    if not isinstance(turns, str) or not turns.strip():
        raise PreflightError(
            f"'{row.source}' line {row.line}: the column 'turns' is neither text nor a list with one text; mend it."
        )
    return one_turn(turns)


def _list_of(text: str) -> Any:
    """A list as Python or JSON writes it; the text itself where it is none."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
