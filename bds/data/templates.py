"""Conversations to text: a chat template's rendering with the place of every answer in it, and the papers' template."""

import datetime
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bds.data.rows import BadRow, Conversation, Message
from bds.errors import PreflightError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MODEL_TEMPLATE = "model"
HE2024_TEMPLATE = "he2024"

_TODAY = datetime.datetime(2024, 7, 26)
"""The day on which every template is rendered: a score must not depend on the date. Llama 3.1's own default."""

_TASK = "Below is an instruction that describes a task"
_REQUEST = "Write a response that appropriately completes the request."


@dataclass(frozen=True)
class Rendered:
    """A conversation as the text that the model sees."""

    text: str
    answers: tuple[tuple[int, int] | None, ...]
    """Character range [start, end) of each assistant turn's content, in order; None where the template drops it."""


def template_source(tokenizer: "PreTrainedTokenizerBase", template: str) -> str:
    """The Jinja source that `tokens.template` stands for: the model's own, or a file's.

    Raises PreflightError where the model has no chat template or the file cannot be read.
    """
    if template == MODEL_TEMPLATE:
        try:
            return _with_fixed_date(tokenizer.get_chat_template())
        except ValueError as error:
            raise PreflightError(
                f"The tokenizer of '{tokenizer.name_or_path}' has no chat template; set tokens.template to he2024 or "
                "to the path of a Jinja file."
            ) from error
    try:
        with open(os.path.expanduser(template), encoding="utf-8") as file:
            return _with_fixed_date(file.read())
    except (OSError, UnicodeDecodeError) as error:
        raise PreflightError(
            f"tokens.template '{template}' is neither model nor he2024 nor a readable Jinja file ({error})."
        ) from error


_FIXED_DATE_MACRO = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(f" | replace('%{code}', '{_TODAY.strftime(f'%{code}')}')" for code in "aAbBdHIjmMpSyY")
    + " }}{% endmacro %}\n"
)
"""One line that hides transformers' own strftime_now, which cannot be handed in as an argument."""


def _with_fixed_date(source: str) -> str:
    return _FIXED_DATE_MACRO + source if "strftime_now" in source else source


def render(tokenizer: "PreTrainedTokenizerBase", source: str, messages: Sequence[Message]) -> Rendered:
    """Text of the messages under a Jinja chat template, with the place of every answer.

    The place comes from a second rendering in which markers stand for the answers: what differs is the answer. Unlike
    rendering growing prefixes, this also holds for templates that rewrite or drop earlier turns.

    Raises BadRow where the template refuses the conversation.
    """
    text = _apply(tokenizer, source, messages)
    marker = _unused_marker(text)

    def render_marked(marked: Sequence[int]) -> str:
        return _apply(
            tokenizer,
            source,
            [replace(m, content=marker.format(i)) if i in marked else m for i, m in enumerate(messages)],
        )

    turns = [index for index, message in enumerate(messages) if message.role == "assistant"]
    spans = _spans_between(text, render_marked(turns), [marker.format(turn) for turn in turns], messages, turns)
    if spans is None:
        spans = [_changed_span(text, render_marked([turn]), marker.format(turn)) for turn in turns]
    return Rendered(text, tuple(spans))


def _apply(tokenizer: "PreTrainedTokenizerBase", source: str, messages: Sequence[Message]) -> str:
    import jinja2

    turns = [{"role": message.role, "content": message.content} for message in messages]
    try:
        return tokenizer.apply_chat_template(turns, chat_template=source, tokenize=False)
    except jinja2.TemplateSyntaxError as error:
        line = error.lineno - source.startswith(_FIXED_DATE_MACRO)
        raise PreflightError(f"The chat template is broken at its line {line}: {error.message}.") from error
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise BadRow("malformed", f"the chat template refuses this conversation: {reason}") from error


def _unused_marker(text: str) -> str:
    """A format string for one marker a turn, in characters of the private-use area that the text does not hold."""
    code = next(code for code in range(0xE000, 0xF8FF) if chr(code) not in text)
    return f"{chr(code)}{{}}{chr(code)}"


def _spans_between(
    text: str, marked_text: str, markers: Sequence[str], messages: Sequence[Message], turns: Sequence[int]
) -> list[tuple[int, int] | None] | None:
    """Places of the answers where the text around them is that of the marked rendering; None where it is not."""
    spans: list[tuple[int, int] | None] = [None] * len(turns)
    kept = [position for position, marker in enumerate(markers) if marked_text.count(marker) == 1]
    rest = marked_text
    pieces = []
    for position in kept:
        piece, found, rest = rest.partition(markers[position])
        if not found:
            return None
        pieces.append(piece)
    pieces.append(rest)
    cursor = len(pieces[0])
    if not text.startswith(pieces[0]):
        return None
    for position, following in zip(kept, pieces[1:], strict=True):
        content = messages[turns[position]].content
        candidates = (content, content.strip(), content.rstrip(), content.lstrip())
        shown = next((c for c in candidates if text.startswith(c + following, cursor)), None)
        if shown is None:
            return None
        spans[position] = (cursor, cursor + len(shown))
        cursor += len(shown) + len(following)
    return spans if cursor == len(text) else None


def _changed_span(text: str, marked_text: str, marker: str) -> tuple[int, int] | None:
    """The part of the text that changes with one answer, for templates that reshape it (reasoning blocks)."""
    before, found, after = marked_text.partition(marker)
    if not found:
        return None
    start = _common_prefix(text, before)
    tail = _common_prefix(text[start:][::-1], after[::-1])
    return start, len(text) - tail


def _common_prefix(one: str, other: str) -> int:
    """Number of leading characters that two texts share."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def he2024_prompt(conversation: Conversation) -> str:
    """Prompt of He et al. (2024), Llama-2 format, up to and with `[/INST]`, as their data loaders write it.

    Alpaca with input has its own system text and `### Input:`; Dolly's context stands under `Input:` with the plain
    system text; anchors stand without the `### Instruction:` wrapper; GSM8K and all else goes in the instruction.
    A system turn of the row's own replaces the papers' system text, which has no room for it elsewhere.

    Raises BadRow where the conversation is not one user turn and one answer.
    """
    system, user = _single_turn(conversation)
    instruction = user if conversation.instruction is None else conversation.instruction
    task = f"{_TASK}. {_REQUEST}"
    if conversation.layout == "anchor":
        body = user
    elif conversation.layout == "dolly" and conversation.context:
        body = f"### Instruction:\n{instruction}\n\nInput:\n{conversation.context}\n\n### Response:\n"
    elif conversation.context:
        task = f"{_TASK}, paired with an input that provides further context. {_REQUEST}"
        body = f"### Instruction:\n{instruction}\n\n### Input:\n{conversation.context}\n\n### Response:\n"
    else:
        body = f"### Instruction:\n{instruction}\n\n### Response:\n"
    return f"[INST] <<SYS>>\n{system or task}\n<</SYS>>\n\n{body} [/INST]"


def _single_turn(conversation: Conversation) -> tuple[str, str]:
    """System text (or empty) and user text of a conversation of one user turn and one answer."""
    roles = tuple(message.role for message in conversation.messages)
    if roles not in {("user", "assistant"), ("system", "user", "assistant")}:
        raise BadRow(
            "malformed", f"template he2024 holds one user turn and one answer, this row has {', '.join(roles)}"
        )
    system = conversation.messages[0].content if roles[0] == "system" else ""
    return system, conversation.messages[-2].content


def special_ids(tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    """Ids of the tokenizer's special tokens, the added ones included."""
    added: dict[int, Any] = tokenizer.added_tokens_decoder
    return frozenset(tokenizer.all_special_ids) | {token_id for token_id, token in added.items() if token.special}
