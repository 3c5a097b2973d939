"""A suite as a folder: suite.yaml says what it is, prompts.jsonl holds the prompts.

  suite.yaml      schema, name, kind, source, licence, version, redistribute, sha256, categories
  prompts.jsonl   a prompt on each line: id, prompt (or messages), category, details

A folder of prompts that others must not see is written for its owner only (0700, files 0600).
"""

import json
import os
from pathlib import Path
from typing import Any

import yaml

from bds.data.rows import Message
from bds.data.values import kind_of
from bds.errors import PreflightError, SpecError
from bds.evaluation.suites.files import TableRow, read_table
from bds.evaluation.suites.suite import KINDS, Suite, SuitePrompt, check_prompts, one_turn
from bds.spec.document import Document, parse_document

SCHEMA = "bds.suite/1"
DESCRIPTION, PROMPTS = "suite.yaml", "prompts.jsonl"
ROLES = ("system", "user", "assistant")

_REQUIRED = ("schema", "name", "kind")
_TEXTS = ("schema", "name", "kind", "source", "licence", "version", "sha256")
_FIELDS = (*_TEXTS, "redistribute", "categories")
_PROMPT_FIELDS = ("id", "prompt", "messages", "category", "details")


def write_suite(suite: Suite, folder: Path) -> None:
    """Write a suite as a new folder.

    Raises SpecError where the folder has files already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SpecError(f"{folder} already exists and is not empty; name a new folder.")
    folder.mkdir(parents=True, exist_ok=True, mode=0o777 if suite.redistribute else 0o700)
    if not suite.redistribute:
        folder.chmod(0o700)
    description = {
        "schema": SCHEMA,
        "name": suite.name,
        "kind": suite.kind,
        "source": suite.source,
        "licence": suite.licence,
        "version": suite.version,
        "redistribute": suite.redistribute,
        "sha256": suite.sha256,
        "categories": dict(suite.categories),
    }
    lines = (json.dumps(_record(prompt), ensure_ascii=False) + "\n" for prompt in suite.prompts)
    _write(folder / PROMPTS, "".join(lines), suite.redistribute)
    _write(folder / DESCRIPTION, yaml.safe_dump(description, sort_keys=False, allow_unicode=True), suite.redistribute)


def load_suite(path: str) -> Suite:
    """The suite of a folder, or of the suite.yaml in it.

    Raises:
        SpecError: suite.yaml is no such document; the sentence names file, line and field.
        PreflightError: there is no such file, a prompt is broken or twice there, or the prompts are not those that
            `sha256` was written for.
    """
    given = Path(path)
    folder = given.parent if given.name == DESCRIPTION else given
    file = folder / DESCRIPTION
    if not file.is_file():
        raise PreflightError(f"'{path}' has no {DESCRIPTION}; give the folder of a suite, or import your files as one.")
    document = _description(file)
    value = document.value
    prompts_file = str(folder / PROMPTS)
    prompts = tuple(_prompt(row) for row in read_table(prompts_file, ("id",)))
    check_prompts(prompts_file, prompts)
    suite = Suite(
        value["name"],
        value["kind"],
        prompts,
        source=value.get("source", ""),
        licence=value.get("licence", ""),
        version=value.get("version", ""),
        redistribute=value.get("redistribute", False),
        categories=value.get("categories", {}),
    )
    if value.get("sha256", suite.sha256) != suite.sha256:
        raise PreflightError(
            f"'{prompts_file}' is not what {_where(document, 'sha256')} was written for: prompts, ids or their order "
            "changed; import the suite again, or delete that line if the change is meant."
        )
    return suite


def _record(prompt: SuitePrompt) -> dict[str, Any]:
    record: dict[str, Any] = {"id": prompt.id}
    if len(prompt.messages) == 1 and prompt.messages[0].role == "user":
        record["prompt"] = prompt.messages[0].content
    else:
        record["messages"] = [{"role": turn.role, "content": turn.content} for turn in prompt.messages]
    return {**record, "category": prompt.category, "details": dict(prompt.details)}


def _write(file: Path, text: str, readable_by_others: bool) -> None:
    mode = 0o666 if readable_by_others else 0o600
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as stream:
        stream.write(text)


def _description(file: Path) -> Document:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PreflightError(f"'{file}' cannot be read as UTF-8 text; check the file and its permissions.") from error
    document = parse_document(text, str(file), called="suite", needs="schema, name and kind")
    value = document.value
    for name in value:
        if name not in _FIELDS:
            raise SpecError(f"{_where(document, name)} is no field of a suite; use {', '.join(_FIELDS)}.")
    for name in _REQUIRED:
        if name not in value:
            raise SpecError(f"{file}:1: the field '{name}' is missing; a suite needs {', '.join(_REQUIRED)}.")
    for name in _TEXTS:
        if not isinstance(value.get(name, ""), str):
            raise SpecError(f"{_where(document, name)} is {kind_of(value[name])}, not text; put it in quotes.")
    if not isinstance(value.get("redistribute", False), bool):
        raise SpecError(f"{_where(document, 'redistribute')} is neither true nor false; write one of them.")
    categories = value.get("categories", {})
    if not isinstance(categories, dict) or not all(isinstance(name, str) for name in categories.values()):
        raise SpecError(f"{_where(document, 'categories')} maps no numbers to names; write lines such as `3: Name`.")
    if value["schema"] != SCHEMA:
        raise SpecError(f"{_where(document, 'schema')} is '{value['schema']}', which this bds does not know; {SCHEMA}.")
    if value["kind"] not in KINDS:
        raise SpecError(f"{_where(document, 'kind')} is '{value['kind']}'; use {', '.join(KINDS)}.")
    return document


def _where(document: Document, name: str) -> str:
    return f"{document.source}:{document.lines.get((name,), 1)}: '{name}'"


def _prompt(row: TableRow) -> SuitePrompt:
    record = row.record
    unknown = [name for name in record if name not in _PROMPT_FIELDS]
    if unknown:
        raise _bad(row, f"has the field '{unknown[0]}', use {', '.join(_PROMPT_FIELDS)}")
    if ("prompt" in record) == ("messages" in record):
        raise _bad(row, "needs either a prompt or messages, and not both")
    details = record.get("details") or {}
    if not isinstance(details, dict):
        raise _bad(row, f"has details that are {kind_of(details)}, not an object")
    messages = one_turn(row.text("prompt")) if "prompt" in record else _messages(row)
    return SuitePrompt(row.text("id"), messages, row.optional("category"), details)


def _messages(row: TableRow) -> tuple[Message, ...]:
    turns = row.record["messages"]
    if not isinstance(turns, list) or not turns:
        raise _bad(row, f"has messages that are {kind_of(turns)}, not a list of turns")
    messages = []
    for turn in turns:
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
        if role not in ROLES or not isinstance(content, str) or not content.strip():
            raise _bad(row, f"has a turn without text or without a role of {', '.join(ROLES)}")
        messages.append(Message(role, content))
    if messages[-1].role != "user":
        raise _bad(row, "ends with a turn that is not the user's, so nothing is asked")
    return tuple(messages)


def _bad(row: TableRow, problem: str) -> PreflightError:
    return PreflightError(f"'{row.source}' line {row.line} {problem}; mend the line.")
