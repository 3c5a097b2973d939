"""Pydantic's list of errors as one sentence that names the file, the line, the field and the way out."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from bds.errors import SpecError
from bds.spec.document import Document, Path, dotted
from bds.spec.fields import Place, longest_known, nearest, place_at, unknown_key


def spec_error(error: ValidationError, document: Document, origins: Mapping[Path, str] | None = None) -> SpecError:
    """The first problem as a sentence, and how many more there are.

    `origins` names what set a place when that was not the document, for example `--set data.limit=0`.
    """
    by_path: dict[Path, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        by_path.setdefault(_path(details), []).append(details)
    first, *others = sorted(by_path, key=lambda path: _order(path, by_path[path], document))
    sentence = f"{where(first, document, origins or {})}: {_sentence(first, by_path[first])}"
    if others:
        sentence += f" (and {len(others)} more {'problem' if len(others) == 1 else 'problems'} after this one)"
    return SpecError(sentence)


def where(path: Path, document: Document, origins: Mapping[Path, str]) -> str:
    """File and line of the nearest written place, or the option that set it."""
    for length in range(len(path), -1, -1):
        if path[:length] in origins:
            return origins[path[:length]]
        if path[:length] in document.lines:
            return f"{document.source}:{document.lines[path[:length]]}"
    return f"{document.source}:1" if document.lines else document.source


def _path(details: ErrorDetails) -> Path:
    if details["type"] == "extra_forbidden":
        return details["loc"]
    return longest_known(details["loc"])


def _order(path: Path, details: list[ErrorDetails], document: Document) -> tuple[bool, int]:
    """An unknown key comes first, because it often explains a missing one; then the order of the lines."""
    return details[0]["type"] != "extra_forbidden", document.lines.get(path, 0)


def _sentence(path: Path, errors: list[ErrorDetails]) -> str:
    details = errors[0]
    place = place_at(path) or Place(())
    kind = details["type"]
    if kind == "extra_forbidden":
        return unknown_key(path)
    if kind == "missing":
        return f"field {dotted(path)} is missing; {_add(path, place)}"
    problem = str(details["ctx"]["error"]) if kind == "value_error" else "; ".join(_wrong(details, place))
    return f"field {dotted(path)}: {problem}" if path else problem


def _add(path: Path, place: Place) -> str:
    under = f" under `{dotted(path[:-1])}`" if path[:-1] else ""
    if place.keys:
        return f"add a block `{path[-1]}:` with {' and '.join(_required(place)) or 'its keys'}{under}"
    meaning = ": ".join(words for words in (place.expected, _clause(place.description)) if words)
    return f"add `{path[-1]}: ...`{under} ({meaning})"


def _required(place: Place) -> list[str]:
    return [
        f"`{name}`"
        for block in place.types
        if hasattr(block, "model_fields")
        for name, info in block.model_fields.items()
        if info.is_required()
    ]


def _wrong(details: ErrorDetails, place: Place) -> tuple[str, str]:
    """What is wrong with a value, and the way out."""
    value, kind, limits = details["input"], details["type"], details.get("ctx", {})
    if kind in _LIMITS:
        return f"{_shown(value)} is out of range", f"it must be {_LIMITS[kind]} {next(iter(limits.values()))}"
    if kind == "too_short":
        return "the list is empty", "give at least one entry, or remove the line to take the default"
    if value is None:
        return "there is no value", f"write {place.expected}, or remove the line to take the default"
    if place.choices and isinstance(value, str):
        close = nearest(value, place.choices)
        hint = f"did you mean `{close}`?" if close else f"write {place.expected}"
        return f"{_shown(value)} is not {place.expected}", hint
    if kind == "string_type" and not isinstance(value, list | dict):
        return f"YAML reads {_shown(value)} as {_type_word(value)}, not as text", "put it in quotes"
    expected = place.expected or "what belongs here"
    return f"{_shown(value)} is not {expected}", f"write {_example(place, expected)}"


_LIMITS = {
    "greater_than_equal": "at least",
    "greater_than": "greater than",
    "less_than_equal": "at most",
    "less_than": "less than",
}


def _example(place: Place, expected: str) -> str:
    if place.keys:
        return f"its keys indented below it: {', '.join(place.keys)}"
    return f"{expected} ({_clause(place.description)})" if place.description else expected


def _clause(text: str) -> str:
    return text.rstrip(".").replace(";", ",")


def _shown(value: Any) -> str:
    text = repr(value) if not isinstance(value, bool) else str(value).lower()
    return text if len(text) <= 60 else f"{text[:57]}..."


def _type_word(value: Any) -> str:
    words = {bool: "true or false", int: "a number", float: "a number"}
    return words.get(type(value), f"a {type(value).__name__}")
