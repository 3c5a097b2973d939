"""The flagged samples as a reader sees them: clipped text, visible control characters, tokens by their share."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from bds.report.composition import FORMATS, KEYWORDS, QUESTION_TYPE
from bds.report.guards import GuardChip, guard_chips
from bds.report.inputs import ReportInputs
from bds.report.wording import count, number, percent, sentence_list, status
from bds.scoring import columns
from bds.scoring.explanation import AnchorMatch, Explanation, TokenContribution

SHOWN_CHARACTERS = 420
FOLDED_CHARACTERS = 6000
SHOWN_TOKENS = 110
FOLDED_TOKENS = 300
ANCHORS_SHOWN = 3
LEVELS = (1.0, 2.0, 4.0, 8.0)
"""Multiples of an even split of the gradient norm at which a token's colour gets darker."""

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
_SPECIAL = {"\u007f": "␡"}


@dataclass(frozen=True)
class Clipped:
    """A text in three parts: shown, folded away, and left out of the page."""

    shown: str
    folded: str
    left_out: int
    """Characters that are not in the page at all."""


@dataclass(frozen=True)
class Token:
    text: str
    level: int
    """0 below an even share, 1 to 4 by LEVELS, -1 pulls the other way."""
    share: str


@dataclass(frozen=True)
class ScoreChip:
    label: str
    score: str
    rank: str
    flagged: bool


@dataclass(frozen=True)
class Card:
    """One flagged sample."""

    position: int
    row_index: int
    row_id: str
    place: str
    score: str
    why: list[str]
    chips: list[str]
    warnings: list[str]
    guards: list[GuardChip]
    prompt: Clipped | None
    answer: Clipped | None
    tokens: list[Token]
    folded_tokens: list[Token]
    left_out_tokens: str
    anchors: list[tuple[str, list[tuple[int, str]]]]
    scores: list[ScoreChip]
    facts: list[tuple[str, str]]


def visible(text: str) -> str:
    """The text with control characters, lone surrogates and direction overrides shown instead of obeyed."""
    return _CONTROL.sub(lambda match: _picture(match.group()), text.replace("\r\n", "\n"))


def _picture(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    return _SPECIAL.get(character, "\ufffd")


def clip(text: str, shown: int = SHOWN_CHARACTERS, folded: int = FOLDED_CHARACTERS) -> Clipped:
    """Cuts at a word where one ends near the limit; a text only slightly too long is shown whole."""
    if len(text) <= shown * 1.15:
        return Clipped(visible(text), "", 0)
    at = text.rfind(" ", int(shown * 0.85), shown)
    at = at if at > 0 else shown
    rest = text[at : at + folded]
    return Clipped(visible(text[:at]), visible(rest), len(text) - at - len(rest))


def tokens(contributions: Sequence[TokenContribution]) -> list[Token]:
    """Every token with its colour level: its share as a multiple of an even split, 1 / number of tokens."""
    even = 1 / len(contributions) if contributions else 0.0
    return [
        Token(visible(contribution.text), _level(contribution.share, even), percent_signed(contribution.share))
        for contribution in contributions
    ]


def _level(share: float, even: float) -> int:
    if share < 0:
        return -1 if -share >= even else 0
    return sum(share > multiple * even for multiple in LEVELS)


def percent_signed(share: float) -> str:
    return f"−{percent(-share)}" if share < 0 else percent(share)


def heaviest(contributions: Sequence[TokenContribution]) -> str | None:
    """How few tokens carry half of the gradient norm, in words."""
    if len(contributions) < 3:
        return None
    total, needed = 0.0, 0
    for share in sorted((contribution.share for contribution in contributions), reverse=True):
        total, needed = total + share, needed + 1
        if total >= 0.5:
            break
    first = max(1, math.ceil(len(contributions) / 10))
    opening = sum(contribution.share for contribution in contributions[:first])
    name = "the first token carries" if first == 1 else f"the first {first} tokens carry"
    return (
        f"{needed} of {count(len(contributions))} answer tokens {'carries' if needed == 1 else 'carry'} "
        f"{percent(total)} of the squared gradient norm; "
        f"{name} {percent_signed(opening)}"
    )


def strongest_by_set(matches: Sequence[AnchorMatch]) -> list[tuple[str, list[tuple[int, str]]]]:
    """Anchor set to (anchor number from 1, value) of its strongest matches, in the order the sets first appear."""
    by_set: dict[str, list[tuple[int, str]]] = {}
    for match in matches:
        of_set = by_set.setdefault(match.anchor_set, [])
        if len(of_set) < ANCHORS_SHOWN:
            of_set.append((match.anchor_index + 1, f"{match.value:.2f}".replace("-", "−")))
    return list(by_set.items())


def cards(
    inputs: ReportInputs, scored: pl.DataFrame, label: str, flagged: dict[str, list[int]], shown: int
) -> list[Card]:
    """The first `shown` flagged rows of a detector."""
    wanted = flagged[label][:shown]
    facts = {row["row_index"]: row for row in scored.filter(pl.col("row_index").is_in(wanted)).iter_rows(named=True)}
    texts = {
        row["row_index"]: row for row in inputs.rows.filter(pl.col("row_index").is_in(wanted)).iter_rows(named=True)
    }
    members = {name: set(rows) for name, rows in flagged.items()}
    guards = guard_chips(inputs.moderation, wanted)
    return [
        _card(
            position,
            facts[row_index],
            texts.get(row_index),
            inputs.explanations.get(row_index),
            label,
            members,
            guards.get(row_index, []),
        )
        for position, row_index in enumerate(wanted, start=1)
        if row_index in facts
    ]


def _card(
    position: int,
    row: dict,
    text: dict | None,
    explanation: Explanation | None,
    label: str,
    members: dict[str, set[int]],
    guards: list[GuardChip],
) -> Card:
    contributions = explanation.tokens if explanation else ()
    shown = tokens(contributions)
    hidden = contributions[SHOWN_TOKENS + FOLDED_TOKENS :]
    anchors = strongest_by_set(explanation.anchors) if explanation else []
    return Card(
        position=position,
        row_index=row["row_index"],
        row_id=row["row_id"],
        place=f"{row['source']}:{row['line']}",
        score=number(row[columns.score(label)]),
        why=_why(row["row_index"], contributions, anchors, label, members),
        chips=[name for feature, name in FORMATS.items() if row.get(feature) and feature != "no_format"]
        + ([f"asks: {status(row[QUESTION_TYPE])}"] if row.get(QUESTION_TYPE) else []),
        warnings=[name for feature, name in KEYWORDS.items() if row.get(feature)]
        + (["answer cut"] if row["status"] == "truncated_answer" else []),
        guards=guards,
        prompt=clip(text["prompt"] or "") if text else None,
        answer=clip(text["answer"] or "") if text else None,
        tokens=shown[:SHOWN_TOKENS],
        folded_tokens=shown[SHOWN_TOKENS : SHOWN_TOKENS + FOLDED_TOKENS],
        left_out_tokens=(
            f"{count(len(hidden))} more tokens, with {percent_signed(sum(token.share for token in hidden))} of the "
            "squared gradient norm, are not shown."
            if hidden
            else ""
        ),
        anchors=anchors,
        scores=[
            ScoreChip(name, number(row[columns.score(name)]), count(row[columns.rank(name)]), row["row_index"] in rows)
            for name, rows in members.items()
        ],
        facts=[
            (name, value(row[column]))
            for column, name, value in (
                ("answer_tokens", "answer tokens", count),
                ("answer_words", "answer words", count),
                (columns.LOSS, "loss", number),
                (columns.SQUARED_GRADIENT_NORM, "squared gradient norm", number),
            )
            if row.get(column) is not None
        ],
    )


def _why(
    row_index: int,
    contributions: Sequence[TokenContribution],
    anchors: list[tuple[str, list[tuple[int, str]]]],
    label: str,
    members: dict[str, set[int]],
) -> list[str]:
    reasons = []
    if anchors:
        pointed = [f"{anchor_set} #{matches[0][0]} ({matches[0][1]})" for anchor_set, matches in anchors if matches]
        reasons.append(f"closest anchors: {sentence_list(pointed)}")
    weight = heaviest(contributions)
    if weight:
        reasons.append(weight)
    others = [name for name, rows in members.items() if name != label and row_index in rows]
    if others:
        reasons.append(f"also flagged by {sentence_list(others)}")
    return reasons
