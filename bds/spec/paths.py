"""Where the relative paths of a spec lead."""

import os
import re
from collections.abc import Callable
from pathlib import Path as FilePath
from typing import Any

from bds.spec.document import Path

HUB_PREFIX = "hf://"
"""Of a dataset on the Hugging Face hub."""
BUILTIN_TEMPLATES = ("model", "he2024")
_DATASET_PATHS = (["path"], ["audit"], ["mix", "into", "path"])
_URI = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")


def is_uri(path: str) -> bool:
    """Whether `path` names its file system (`s3://...`, `hf://...`)."""
    return _URI.match(path) is not None


def resolve_paths(spec: dict[str, Any], folder_of: Callable[[Path], FilePath]) -> dict[str, Any]:
    """A dumped spec with its relative paths made absolute.

    `folder_of` gives the folder that a place's path is relative to. URIs stay as they are. A model or an adapter is a
    folder where one exists or where it is written as a path (`./x`, `../x`, `a/b/c`), else a Hugging Face name.
    """

    def replaced(value: Any, path: Path) -> Any:
        if isinstance(value, dict):
            return {key: replaced(child, (*path, key)) for key, child in value.items()}
        if isinstance(value, list):
            return [replaced(child, (*path, index)) for index, child in enumerate(value)]
        return _resolve(value, path, folder_of(path)) if isinstance(value, str) else value

    return {key: replaced(value, (key,)) for key, value in spec.items()}


def _resolve(value: str, path: Path, folder: FilePath) -> str:
    match path:
        case ("data", "path") | ("audit",) | ("run", "dir") | ("anchors", "sets", _, "path"):
            return absolute(value, folder)
        case ("score", "detectors", _, "probe_prompts" | "calibration"):
            return absolute(value, folder)
        case ("tokens", "template") if value not in BUILTIN_TEMPLATES:
            return absolute(value, folder)
        case ("datasets", _, *place) | ("then", _, "data", *place) if place in _DATASET_PATHS:
            return absolute(value, folder)
        case ("experiments", _, "then", _, "data", *place) if place in _DATASET_PATHS:
            return absolute(value, folder)
        case ("selections", _, "mix", "into", "path"):
            return absolute(value, folder)
        case ("mitigations", _, "audit" | "refusals" | "harmful" | "safe"):
            return absolute(value, folder)
        case ("suites", _, "path") | ("finetunes", _) | ("judges", _, "policy" | "template"):
            return absolute(value, folder)
        case ("utility", "tasks", _) if value.endswith((".yaml", ".yml")):
            return absolute(value, folder)
        case ("model", "path" | "adapter") | ("models", _, "path" | "adapter" | "base") if _is_folder(value, folder):
            return absolute(value, folder)
        case ("judges", _, "model" | "adapter") if _is_folder(value, folder):
            return absolute(value, folder)
    return value


def absolute(value: str, folder: FilePath) -> str:
    """A path below `folder`, `~` or the root without `..` in it; a URI as it is."""
    if is_uri(value):
        return value
    return os.path.normpath(folder / os.path.expanduser(value))


def _is_folder(value: str, folder: FilePath) -> bool:
    return value.startswith((".", "~")) or value.count("/") > 1 or (folder / value).exists()
