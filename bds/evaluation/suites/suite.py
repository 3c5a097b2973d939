"""A suite: the prompts that a model is measured with, each with a name that stays the same across runs."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from bds.data.rows import Message
from bds.data.values import canonical_json
from bds.errors import PreflightError

Kind = Literal["refuse", "answer", "utility"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""What a good model does with the prompts: refuse them, answer them though they sound like such (over-refusal), or
answer them rightly (utility)."""


@dataclass(frozen=True)
class SuitePrompt:
    """One prompt and where it came from."""

    id: str
    """Suite, category where the upstream numbers within it, and upstream's own id or row: `hexphi/03/007`."""
    messages: tuple[Message, ...]
    """The conversation up to the answer that is asked for: a single user turn in most suites."""
    category: str = ""
    """Upstream's name or number of the category; empty where it has none."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What else upstream says of the prompt, as plain values; no part of the suite's hash."""

    @property
    def text(self) -> str:
        """The conversation as one text: the prompt itself where it is one user turn, else each turn after its role."""
        return conversation_text(self.messages)


@dataclass(frozen=True)
class Suite:
    """Prompts of one kind under one name."""

    name: str
    kind: Kind
    prompts: tuple[SuitePrompt, ...]
    source: str
    """Where the prompts come from."""
    licence: str
    """Under which terms the user has them."""
    version: str = ""
    redistribute: bool = False
    """Whether the licence lets others see the prompts."""
    categories: Mapping[str, str] = field(default_factory=dict)
    """Readable names of the prompts' categories, where these are numbers."""

    @property
    def sha256(self) -> str:
        """The suite's identity: SHA-256 over the ids and messages of the prompts, in order.

        The order is part of it, names and licences are not. Results are paired only where it is equal.
        """
        digest = hashlib.sha256()
        for prompt in self.prompts:
            turns = [[message.role, message.content] for message in prompt.messages]
            digest.update(canonical_json([prompt.id, turns]) + b"\n")
        return digest.hexdigest()


@dataclass(frozen=True)
class Imported:
    """What an importer made of the user's files."""

    suites: tuple[Suite, ...]
    warnings: tuple[str, ...] = ()
    """One sentence each: what is unusual, or was left out."""


def conversation_text(messages: Sequence[Message]) -> str:
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"{message.role}: {message.content}" for message in messages)


def one_turn(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def check_prompts(source: str, prompts: Sequence[SuitePrompt]) -> tuple[str, ...]:
    """Warnings about the prompts of a suite.

    Raises PreflightError where there is no prompt, or where two have the same id, so that results could not be paired.
    """
    if not prompts:
        raise PreflightError(f"'{source}' holds no prompts; check that it is the file you mean.")
    seen: dict[str, str] = {}
    ids = set()
    repeated = []
    for prompt in prompts:
        if prompt.id in ids:
            raise PreflightError(
                f"'{source}' has the id '{prompt.id}' twice, so results could not be paired; give each prompt its own."
            )
        ids.add(prompt.id)
        first = seen.setdefault(prompt.text, prompt.id)
        if first != prompt.id:
            repeated.append(f"{prompt.id} repeats {first}")
    if not repeated:
        return ()
    return (f"'{source}' has {len(repeated)} repeated prompts, which count twice in every rate: {_some(repeated)}.",)


def _some(items: Sequence[str], shown: int = 3) -> str:
    rest = len(items) - shown
    return ", ".join(items[:shown]) + (f" and {rest} more" if rest > 0 else "")
