"""Where the relative paths of a spec lead."""

import os
import re
from collections.abc import Callable
from pathlib import Path as FilePath
from typing import Any

from bds.spec.document import Path

BUILTIN_TEMPLATES = ("model", "he2024")
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
        case ("data", "path") | ("run", "dir") | ("anchors", "sets", _, "path"):
            return _absolute(value, folder)
        case ("score", "detectors", _, "probe_prompts"):
            return _absolute(value, folder)
        case ("tokens", "template") if value not in BUILTIN_TEMPLATES:
            return _absolute(value, folder)
        case ("model", "path") | ("model", "adapter") if _is_folder(value, folder):
            return _absolute(value, folder)
    return value


def _absolute(value: str, folder: FilePath) -> str:
    if is_uri(value):
        return value
    return os.path.normpath(folder / os.path.expanduser(value))


def _is_folder(value: str, folder: FilePath) -> bool:
    return value.startswith((".", "~")) or value.count("/") > 1 or (folder / value).exists()
