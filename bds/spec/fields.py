"""What a place in the spec may hold, read from the Pydantic models: the one source of names and choices."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from bds.spec.document import Path, dotted
from bds.spec.models import AuditSpec, Block


@dataclass(frozen=True)
class Place:
    """One place in the spec."""

    types: tuple[Any, ...]
    """What may stand here, unions taken apart."""
    description: str = ""

    @property
    def keys(self) -> list[str]:
        """The keys known here; empty where none are fixed."""
        return [key for block in self.types if _is_block(block) for key in block.model_fields]

    @property
    def choices(self) -> list[str]:
        """The words allowed here; empty where any value of the right type is."""
        return [str(choice) for kind in self.types if get_origin(kind) is Literal for choice in get_args(kind)]

    @property
    def expected(self) -> str:
        """What may stand here, in words."""
        return " or ".join(dict.fromkeys(word for kind in self.types if (word := _in_words(kind))))


def place_at(path: Path) -> Place | None:
    """The place at `path`; None where the spec has no such place."""
    place: Place | None = ROOT
    for part in path:
        place = _step(place, part) if place is not None else None
    return place


def longest_known(path: Path) -> Path:
    """The part of `path` that the spec has: Pydantic appends the names of union members, which are no places."""
    known: Path = ()
    for part in path:
        if place_at((*known, part)) is None:
            break
        known = (*known, part)
    return known


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The known word that `word` is most likely a slip of."""
    matches = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    return matches[0] if matches else None


def suggestion(word: str, known: Sequence[str]) -> str:
    """The way out of an unknown word: the nearest known one, or all of them."""
    close = nearest(word, known)
    return f"did you mean `{close}`?" if close else f"choose one of {', '.join(known)}"


def unknown_key(path: Path) -> str:
    """The sentence about a key the spec does not have, with the nearest sibling, its right block, or all siblings."""
    parent, key = path[:-1], str(path[-1])
    siblings = known.keys if (known := place_at(parent)) is not None else []
    elsewhere = [dotted(home) for home in _homes(key) if home[:-1] != parent]
    if elsewhere:
        way_out = f"did you mean `{' or '.join(elsewhere)}`?"
    elif (close := nearest(key, siblings)) is not None:
        way_out = f"did you mean `{close}`?"
    else:
        way_out = f"the keys here are {', '.join(siblings)}"
    return f"field {dotted(path)} is unknown; {way_out}"


def _step(place: Place, part: str | int) -> Place | None:
    for kind in place.types:
        if _is_block(kind) and part in kind.model_fields:
            info = kind.model_fields[part]
            return Place(tuple(_alternatives(info.annotation)), info.description or "")
        if get_origin(kind) is list and isinstance(part, int):
            return Place(tuple(_alternatives(get_args(kind)[0])), place.description)
        if get_origin(kind) is dict and isinstance(part, str):
            return Place(tuple(_alternatives(get_args(kind)[1])), place.description)
    return None


def _alternatives(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for member in get_args(annotation):
            yield from _alternatives(member)
    else:
        yield annotation


def _is_block(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Block)


def _homes(key: str) -> Iterator[tuple[str, ...]]:
    """Where `key` does stand, one block down from the root at most."""
    for name in ROOT.keys:
        if name == key:
            yield (name,)
        place = place_at((name,))
        if place is not None and key in place.keys and not any(get_origin(kind) is list for kind in place.types):
            yield (name, key)


def _in_words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        *others, last = (str(choice) for choice in get_args(kind))
        return f"{', '.join(others)} or {last}" if others else last
    if get_origin(kind) is list:
        return "a list"
    if _is_block(kind) or get_origin(kind) is dict:
        return "a block of `key: value` lines"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: ""}.get(kind, "")


ROOT = Place((AuditSpec,))
