"""The paths that a spec names: small files that can go along with it, and what must be there already."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from bds.spec.document import Path, dotted
from bds.spec.paths import BUILTIN_TEMPLATES, HUB_PREFIX, is_uri

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


@dataclass(frozen=True)
class HubName:
    """One model, adapter or dataset of the Hugging Face hub that a spec names."""

    field: str
    name: str
    """owner/name."""
    kind: Literal["model", "adapter", "dataset"]
    revision: str | None


def hub_names(spec: BaseModel) -> list[HubName]:
    """Every name of the hub in a spec, each once: a model or an adapter that is no path, and `hf://owner/name`."""
    found: dict[tuple[str, str, str | None], HubName] = {}

    def visit(value: Any, place: Path) -> None:
        if isinstance(value, dict):
            for key, child in value.items():
                visit(child, (*place, key))
                name = _hub_name((*place, key), child, value)
                if name is not None:
                    found.setdefault((name.name, name.kind, name.revision), name)
        elif isinstance(value, list):
            for index, child in enumerate(value):
                visit(child, (*place, index))

    visit(spec.model_dump(mode="json"), ())
    return list(found.values())


def _hub_name(place: Path, value: Any, block: dict[str, Any]) -> HubName | None:
    if not isinstance(value, str) or _kind(place, value) != "there":
        return None
    if value.startswith(HUB_PREFIX):
        return HubName(dotted(place), value.removeprefix(HUB_PREFIX).strip("/"), "dataset", None)
    last = place[-1]
    if place[0] not in ("model", "models", "judges") or is_uri(value) or os.path.isabs(value):
        return None
    kind: Literal["model", "adapter"] = "adapter" if last == "adapter" else "model"
    return HubName(dotted(place), value, kind, block.get("revision") if last in ("path", "model") else None)


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
