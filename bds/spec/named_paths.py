"""The paths that a spec names: small files that can go along with it, and what must be there already."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from bds.spec.document import Path, dotted
from bds.spec.paths import BUILTIN_TEMPLATES, is_uri

Kind = Literal["input", "text", "there"]
"""input: a small file that is read from any storage. text: one that is read from a disk. there: data, models and runs,
which never go along."""


@dataclass(frozen=True)
class NamedPath:
    """One path of a spec, absolute or a URI."""

    place: Path
    path: str
    kind: Kind

    @property
    def field(self) -> str:
        return dotted(self.place)


def named_paths(spec: dict[str, Any]) -> list[NamedPath]:
    """Every path in a dumped spec but the run directory; names of the Hugging Face hub and built-in names are none."""
    return [
        NamedPath(place, value, kind)
        for place, value in _strings(spec, ())
        if (kind := _kind(place, value)) is not None and (os.path.isabs(value) or is_uri(value))
    ]


def with_paths(spec: dict[str, Any], replaced: dict[Path, str]) -> dict[str, Any]:
    """The dumped spec with other strings at some places."""

    def at(value: Any, place: Path) -> Any:
        if isinstance(value, dict):
            return {key: at(child, (*place, key)) for key, child in value.items()}
        if isinstance(value, list):
            return [at(child, (*place, index)) for index, child in enumerate(value)]
        return replaced.get(place, value)

    return {key: at(value, (key,)) for key, value in spec.items()}


def _kind(place: Path, value: str) -> Kind | None:
    match place:
        case ("anchors", "sets", _, "path") | ("score", "detectors", _, "probe_prompts"):
            return "input"
        case ("mitigations", _, "refusals" | "harmful" | "safe"):
            return "input"
        case ("score", "detectors", _, "calibration") | ("suites", _, "path") | ("judges", _, "policy" | "template"):
            return "text"
        case ("tokens", "template") if value not in BUILTIN_TEMPLATES:
            return "text"
        case ("utility", "tasks", _) if value.endswith((".yaml", ".yml")):
            return "text"
        case ("data", "path") | ("audit",) | ("finetunes", _) | ("mitigations", _, "audit"):
            return "there"
        case ("datasets", _, *_, "path" | "audit") | ("selections", _, "mix", "into", "path"):
            return "there"
        case ("then", _, "data", *_, "path" | "audit") | ("experiments", _, "then", _, "data", *_, "path" | "audit"):
            return "there"
        case (
            ("model", "path" | "adapter")
            | ("models", _, "path" | "adapter" | "base")
            | (
                "judges",
                _,
                "model" | "adapter",
            )
        ):
            return "there"
    return None


def _strings(value: Any, place: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _strings(child, (*place, key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _strings(child, (*place, index))
    elif isinstance(value, str):
        yield place, value
