"""Anchor sets: the samples that a dataset is compared with, and what may be wrong with a choice of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bds.data.files import read_entries
from bds.data.formats import FORMATS, from_turns
from bds.data.rows import BadRow, Conversation
from bds.data.values import kind_of
from bds.errors import PreflightError


@dataclass(frozen=True)
class AnchorSample:
    """One anchor, with the layout `anchor` (template he2024 writes it without the instruction wrapper)."""

    line: int
    """Line of the anchor file, from 1."""
    conversation: Conversation

    @property
    def prompt(self) -> str:
        """The user turns, for pairing."""
        return "\n".join(message.content for message in self.conversation.messages if message.role == "user")

    @property
    def answer(self) -> str:
        """The last assistant turn."""
        return next(m.content for m in reversed(self.conversation.messages) if m.role == "assistant")


def load_anchor_set(path: str, name: str) -> list[AnchorSample]:
    """The anchors of a file, in order.

    A line holds {"messages": [...]} or a bare list of {role, content} turns (the public anchor files have both), prompt
    and answer, or the columns of any other known format; other containers than JSONL load too.

    Raises PreflightError, naming the set, the file and the line, for an anchor that cannot be read or has no answer,
    and for an empty file: a broken anchor would change every score.
    """
    return [
        AnchorSample(
            entry.line, _conversation(entry.value, entry.error, f"anchor set {name}, {entry.source} line {entry.line}")
        )
        for entry in read_entries(path)
    ]


def _conversation(value: Any, error: str, where: str) -> Conversation:
    if error:
        raise PreflightError(f"{where}: {error}; mend the line or take it out")
    try:
        conversation = from_turns(value, "messages") if isinstance(value, list) else _from_columns(value, where)
    except BadRow as bad:
        raise PreflightError(f"{where}: {bad.reason}; every anchor needs a prompt and an answer") from bad
    return replace(conversation, layout="anchor")


def _from_columns(value: Any, where: str) -> Conversation:
    if isinstance(value, dict):
        form = next((form for form in FORMATS.values() if form.fits(value)), None)
        if form is not None:
            return form.to_conversation(value)
        found = f"the columns {', '.join(value) or '(none)'}"
    else:
        found = kind_of(value)
    raise PreflightError(f"{where}: found {found}; write an object with messages, or with prompt and answer")


def check_anchor_sets(sets: Mapping[str, Sequence[AnchorSample]], roles: Mapping[str, str]) -> list[str]:
    """What a user should know about the anchors before trusting a score; one sentence each, by line and never by text.

    roles: harmful or safe for each set. A safe set is meant to answer the harmful set's prompts safely, so that their
    difference holds the answer's safety and not the topic; the released sets are paired only in part.
    """
    warnings = []
    for name, samples in sets.items():
        warnings += _repeated(name, samples)
    harmful = [name for name in sets if roles[name] == "harmful"]
    safe = [name for name in sets if roles[name] == "safe"]
    for safe_name in safe:
        for harmful_name in harmful:
            warnings += _unpaired(harmful_name, sets[harmful_name], safe_name, sets[safe_name])
    return warnings


def _repeated(name: str, samples: Sequence[AnchorSample]) -> list[str]:
    first_line: dict[tuple[str, str], int] = {}
    warnings = []
    for sample in samples:
        content = (_normalised(sample.prompt), _normalised(sample.answer))
        if content in first_line:
            warnings.append(
                f"anchor set {name}: line {sample.line} repeats line {first_line[content]}, which counts it twice"
            )
        first_line.setdefault(content, sample.line)
    return warnings


def _unpaired(
    harmful_name: str, harmful: Sequence[AnchorSample], safe_name: str, safe: Sequence[AnchorSample]
) -> list[str]:
    warnings = []
    for name, samples, other_name, others in (
        (harmful_name, harmful, safe_name, safe),
        (safe_name, safe, harmful_name, harmful),
    ):
        prompts = {_normalised(sample.prompt) for sample in others}
        lines = [sample.line for sample in samples if _normalised(sample.prompt) not in prompts]
        if lines:
            warnings.append(
                f"anchor set {name}: {len(lines)} of {len(samples)} prompts have no partner in {other_name} "
                f"(lines {_listed(lines)}): part of their difference is the topic"
            )
    return warnings


_LINES_SHOWN = 10


def _listed(lines: Sequence[int]) -> str:
    shown = ", ".join(str(line) for line in lines[:_LINES_SHOWN])
    return f"{shown}, ..." if len(lines) > _LINES_SHOWN else shown


def _normalised(text: str) -> str:
    return " ".join(text.lower().split())
