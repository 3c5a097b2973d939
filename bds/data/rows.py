"""The row: what every stage passes on. A bad row is a row with a status, never an exception and never dropped."""

from dataclasses import dataclass, field
from typing import Any

SCORED_STATUSES = ("ok", "truncated_answer")
"""Rows that have a score. `truncated_answer` lost the end of its answer to `tokens.max_tokens`."""

STATUSES = (*SCORED_STATUSES, "no_answer", "empty_answer", "truncated_prompt", "malformed", "failed")


class BadRow(Exception):
    """A record that cannot become a conversation: its status and the reason in one clause."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True)
class Message:
    role: str
    """system, user or assistant."""
    content: str


@dataclass(frozen=True)
class Conversation:
    messages: tuple[Message, ...]
    instruction: str | None = None
    """The prompt without its context; None where the source keeps the prompt in one piece."""
    context: str = ""
    """Alpaca's input or Dolly's context. The user message holds it too, after the instruction."""
    layout: str = ""
    """alpaca, dolly or anchor: the papers' template (he2024) writes each in its own way. Empty for all else."""


@dataclass(frozen=True)
class Row:
    """One record of the dataset, scored or not."""

    row_index: int
    """Position in the dataset, from 0."""
    row_id: str
    """Hash of the canonical content, a dash, and the occurrence number of that content."""
    source: str
    line: int
    """Line of the file, or number of the record where the format has no lines; from 1."""
    status: str
    reason: str = ""
    conversation: Conversation | None = None
    record: dict[str, Any] = field(default_factory=dict)
    """The record as read, so that a selection can be written back unchanged."""
