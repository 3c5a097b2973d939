"""Records to conversations: one table of the dataset formats that are known by their columns.

Rules for every format: consecutive turns of one role are joined by a blank line, because chat templates want them to
alternate; a leading assistant turn stays, and the chat template has the last word on it; a prompt and its input or
context are joined by a blank line.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bds.data.rows import BadRow, Conversation, Message
from bds.data.values import kind_of
from bds.errors import PreflightError, SpecError

JOINT = "\n\n"

ROLES = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "system": "system",
    "developer": "system",
}
"""What a turn's `role` or `from` may say, and the role it means."""

MAPPED_ROLES = ("prompt", "answer", "system", "input", "messages")
_PROMPT_NAMES = ("instruction", "prompt", "question", "query", "input", "user", "request", "ask")
_ANSWER_NAMES = ("response", "output", "answer", "completion", "reply", "target", "assistant", "text")


@dataclass(frozen=True)
class Format:
    """One way to lay out a conversation in columns."""

    name: str
    columns: tuple[str, ...]
    """The columns a record must have."""
    description: str
    to_conversation: Callable[[Mapping[str, Any]], Conversation]
    """Raises BadRow with a status and the reason where the record does not hold a conversation."""

    def fits(self, record: Mapping[str, Any]) -> bool:
        return all(column in record for column in self.columns)


def columns_format(mapping: Mapping[str, str]) -> Format:
    """The format that `data.columns` describes: {prompt, answer, system?, input?} or {messages}, to the file's columns.

    Raises SpecError for an unknown role or a missing one.
    """
    unknown = [role for role in mapping if role not in MAPPED_ROLES]
    if unknown:
        raise SpecError(f"data.columns: '{unknown[0]}' is no role; use {', '.join(MAPPED_ROLES)}.")
    if "messages" in mapping:
        if len(mapping) > 1:
            raise SpecError("data.columns: 'messages' holds the whole conversation; give it alone.")
        return _turns_format("columns", "The columns that data.columns maps.", mapping["messages"])
    missing = [role for role in ("prompt", "answer") if role not in mapping]
    if missing:
        raise SpecError(f"data.columns: the role '{missing[0]}' is missing; map it to one of the file's columns.")
    return _single_turn_format(
        "columns",
        "The columns that data.columns maps.",
        prompt=mapping["prompt"],
        answer=mapping["answer"],
        context=mapping.get("input"),
        system=mapping.get("system"),
        layout="alpaca" if "input" in mapping else "",
        optional_must_exist=True,
    )


def _single_turn_format(
    name: str,
    description: str,
    *,
    prompt: str,
    answer: str,
    context: str | None = None,
    system: str | None = "system",
    layout: str = "",
    optional_must_exist: bool = False,
) -> Format:
    def to_conversation(record: Mapping[str, Any]) -> Conversation:
        system_text = _optional_text(record, system)
        instruction = _text(record, prompt)
        context_text = _optional_text(record, context)
        answer_text = _text(record, answer)
        user_text = JOINT.join((instruction, context_text)) if context_text.strip() else instruction
        messages = [Message("user", user_text), Message("assistant", answer_text)]
        if system_text.strip():
            messages.insert(0, Message("system", system_text))
        _check_answer(messages)
        return Conversation(tuple(messages), instruction, context_text if context_text.strip() else "", layout)

    optional = tuple(column for column in (context, system) if column) if optional_must_exist else ()
    return Format(name, (prompt, answer, *optional), description, to_conversation)


def _turns_format(name: str, description: str, column: str) -> Format:
    def to_conversation(record: Mapping[str, Any]) -> Conversation:
        return from_turns(_present(record, column), column)

    return Format(name, (column,), description, to_conversation)


def from_turns(turns: Any, column: str) -> Conversation:
    """A conversation from a list of turns, each with `role` and `content` (or `from` and `value`).

    `content` is text or a list of {type: text, text: ...} parts. Raises BadRow.
    """
    if not isinstance(turns, Sequence) or isinstance(turns, (str, bytes)):
        raise BadRow("malformed", f"column '{column}' is {kind_of(turns)}, not a list of turns")
    messages: list[Message] = []
    for number, turn in enumerate(turns, start=1):
        message = _turn(turn, f"turn {number} of '{column}'")
        if messages and messages[-1].role == message.role:
            message = Message(message.role, JOINT.join((messages.pop().content, message.content)))
        messages.append(message)
    _check_answer(messages)
    return Conversation(tuple(messages))


def _turn(turn: Any, where: str) -> Message:
    if not isinstance(turn, Mapping):
        raise BadRow("malformed", f"{where} is {kind_of(turn)}, not an object with role and content")
    role_key, content_key = ("from", "value") if "from" in turn else ("role", "content")
    for key in (role_key, content_key):
        if key not in turn:
            raise BadRow("malformed", f"{where} has no '{key}'")
    role = turn[role_key]
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise BadRow("malformed", f"{where} has the role {role!r:.40}; known roles are {', '.join(ROLES)}")
    content = turn[content_key]
    if isinstance(content, Sequence) and not isinstance(content, (str, bytes)):
        content = "".join(_part(part, where) for part in content)
    return Message(ROLES[role.lower()], _checked_text(content, where))


def _part(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else kind_of(part)
    if not isinstance(part, Mapping) or kind != "text":
        raise BadRow("malformed", f"{where} holds a part of type {kind!r:.40}; only text can be scored")
    return _checked_text(part.get("text"), where)


def _check_answer(messages: Sequence[Message]) -> None:
    answers = [message for message in messages if message.role == "assistant"]
    if not answers:
        raise BadRow("no_answer", "the conversation has no assistant turn")
    if not answers[-1].content.strip():
        raise BadRow("empty_answer", "the last assistant turn holds no text")


def _present(record: Mapping[str, Any], column: str) -> Any:
    if column not in record:
        raise BadRow("malformed", f"column '{column}' is missing; this row has {_listed(record)}")
    return record[column]


def _text(record: Mapping[str, Any], column: str) -> str:
    return _checked_text(_present(record, column), f"column '{column}'")


def _optional_text(record: Mapping[str, Any], column: str | None) -> str:
    if column is None or record.get(column) is None:
        return ""
    return _checked_text(record[column], f"column '{column}'")


def _checked_text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise BadRow("malformed", f"{where} is {kind_of(value)}, not text")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise BadRow("malformed", f"{where} holds half of a surrogate pair, which is no Unicode text")
    return value


def _listed(columns: Any) -> str:
    return ", ".join(str(column) for column in columns) or "no columns"


FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        _turns_format(
            "messages", "OpenAI messages: a list of {role, content} turns, with system and many turns.", "messages"
        ),
        _turns_format("sharegpt", "ShareGPT: a list of {from: human|gpt|system, value} turns.", "conversations"),
        _single_turn_format(
            "alpaca",
            "Alpaca: instruction, output and an optional input (and system).",
            prompt="instruction",
            answer="output",
            context="input",
            layout="alpaca",
        ),
        _single_turn_format(
            "dolly",
            "Dolly: instruction, response and an optional context (and system).",
            prompt="instruction",
            answer="response",
            context="context",
            layout="dolly",
        ),
        _single_turn_format("gsm8k", "GSM8K: question and answer.", prompt="question", answer="answer"),
        _single_turn_format("prompt_completion", "A prompt and its completion.", prompt="prompt", answer="completion"),
        columns_format({"prompt": "prompt", "answer": "answer"}),
    )
}
"""Every format by name. Detection takes the one that fits most records; of several, the first here: whole conversations
come before single turns, and `columns` (here with the columns prompt and answer) is what `data.columns` builds."""


def choose_format(name: str, mapping: Mapping[str, str] | None, records: Sequence[Mapping[str, Any]]) -> Format:
    """The format of a spec: `data.format` and `data.columns`, checked against the first records.

    Raises SpecError for an unknown name, a bad mapping or columns that no record has; PreflightError if nothing fits.
    """
    present = columns_of(records)
    if mapping is not None:
        if name not in {"auto", "columns"}:
            raise SpecError(f"data.format '{name}' and data.columns exclude each other; leave one of them out.")
        form = columns_format(mapping)
        for role, column in mapping.items():
            if column not in present:
                raise SpecError(
                    f"data.columns maps {role} to the column '{column}', which the data does not have; it has "
                    f"{_listed(present)}."
                )
        return form
    if name == "auto":
        return detect_format(records)
    if name not in FORMATS:
        raise SpecError(f"data.format '{name}' is unknown; use auto or one of {', '.join(FORMATS)}.")
    form = FORMATS[name]
    if not any(form.fits(record) for record in records):
        raise SpecError(
            f"data.format {name} needs the columns {_listed(form.columns)}, but the data has {_listed(present)}; "
            "choose another format or map the columns with data.columns."
        )
    return form


def detect_format(records: Sequence[Mapping[str, Any]]) -> Format:
    """The format that fits most of the first records. Raises PreflightError with the columns found where none fits."""
    counts = {name: sum(form.fits(record) for record in records) for name, form in FORMATS.items()}
    best = max(counts, key=lambda name: counts[name])  # the first of equals
    if counts[best]:
        return FORMATS[best]
    present = columns_of(records)
    raise PreflightError(
        f"No known format fits the columns {_listed(present)}; say which is which in the spec, for example "
        f"data.columns: {_suggestion(present)}."
    )


def columns_of(records: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The columns of the records in order of appearance."""
    return tuple(dict.fromkeys(str(column) for record in records for column in record))


def _suggestion(present: Sequence[str]) -> str:
    lowered = {column.lower(): column for column in present}
    prompt = next((lowered[name] for name in _PROMPT_NAMES if name in lowered), "<column>")
    answer = next((lowered[name] for name in _ANSWER_NAMES if name in lowered and lowered[name] != prompt), "<column>")
    return f"{{prompt: {prompt}, answer: {answer}}}"
