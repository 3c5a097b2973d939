"""The short forms of named entries in a spec written out: a list of strings, and a string in the place of a block."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bds.errors import SpecError
from bds.spec.document import Document, Path, dotted
from bds.spec.files import stem
from bds.spec.finetune import keyed
from bds.spec.problems import where

RECIPE_FILE = "from"
"""The key of a recipe that names the file with the rest of it; `bds.spec.recipes` puts that in its place."""

_KEYS = {"models": "path", "datasets": "path", "recipes": RECIPE_FILE, "mitigations": "method", "judges": "method"}
"""For each block of named entries, the key that a plain string stands for."""


def written_out(document: Document) -> Document:
    """The document with its short forms written out, so that an override can reach into them.

    Raises:
        SpecError: two entries of a list would have the same name.
    """
    value = entries_at((), document.value, lambda path: where(path, document, {}))
    lines = document.lines
    for block in _KEYS:
        if isinstance(document.value.get(block), list) and isinstance(value[block], dict):
            names = list(value[block])
            lines = {_renamed(path, block, names): line for path, line in lines.items()}
    return replace(document, value=value, lines=lines)


def entries_at(path: Path, value: Any, place: Callable[[Path], str]) -> Any:
    """A value that stands at `path`, with the short forms in it written out; what is no short form stays as it is.

    Args:
        place: where the user wrote what stands at a path, for error messages.
    """
    match path:
        case ():
            return {key: entries_at((key,), child, place) for key, child in value.items()}
        case ("models" | "datasets" | "recipes" | "mitigations" | "judges" as block,):
            if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
                value = _named(block, value, place)
            if isinstance(value, dict):
                return {name: keyed(entry, _KEYS[block]) for name, entry in value.items()}
        case ("models" | "datasets" | "recipes" | "mitigations" | "judges" as block, _):
            return keyed(value, _KEYS[block])
        case ("experiments",) | ("experiments", _) if isinstance(value, dict):
            return {key: entries_at((*path, key), child, place) for key, child in value.items()}
        case ("experiments", _, "then", *rest):
            return entries_at(("then", *rest), value, lambda at: place((*path[:2], *at)))
        case ("engine",):
            return keyed(value, "name")
        case ("then",) if isinstance(value, list):
            return [entries_at((*path, index), entry, place) for index, entry in enumerate(value)]
        case ("then", int()) if isinstance(value, dict):
            return {key: entries_at((*path, key), child, place) for key, child in value.items()}
        case ("then", int(), "data"):
            return keyed(value, "path")
        case ("then", int(), "recipe"):
            return keyed(value, RECIPE_FILE)
    return value


def folder_name(path: str) -> str:
    """The stem of a path, with _ for what a folder's name cannot hold."""
    name = "".join(letter if letter.isalnum() or letter in "._-+" else "_" for letter in stem(path))
    return name.lstrip(".") or "unnamed"


def _named(block: str, entries: list[str], place: Callable[[Path], str]) -> dict[str, str]:
    named: dict[str, str] = {}
    for index, entry in enumerate(entries):
        name = entry if _KEYS[block] == "method" else folder_name(entry)
        if name in named:
            raise SpecError(
                f"{place((block, index))}: field {dotted((block, index))}: {entry} would be named `{name}`, as "
                f"{named[name]} is; write names yourself, as in `{block}: {{{name}: {named[name]}, {name}_2: {entry}}}`"
            )
        named[name] = entry
    return named


def _renamed(path: Path, block: str, names: list[str]) -> Path:
    match path:
        case (first, int(index), *rest) if first == block:
            return (block, names[index], *rest)
    return path
