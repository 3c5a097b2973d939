"""The flag forms of audits, fine-tunes, evaluations and moderations: what each option sets in the spec."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from bds.errors import SpecError
from bds.spec.document import Path
from bds.spec.entries import folder_name
from bds.spec.overrides import Override

Entries = Mapping[str, str | Mapping[str, Any]] | Sequence[str]
"""Named entries of a fine-tune spec: name to a string or a block, or strings that give the names."""


def option_overrides(
    *,
    model: str | None = None,
    data: str | None = None,
    format: str | None = None,
    detectors: Sequence[str] | None = None,
    anchors: Mapping[str, str] | None = None,
    top: int | None = None,
    limit: int | None = None,
    run_dir: str | None = None,
    address: str | None = None,
    prefix: str = "--",
) -> list[Override]:
    """The options that were given, as overrides; `prefix` is how their names read in error messages."""
    values: dict[str, tuple[Path, Any]] = {
        "model": (("model", "path"), model),
        "data": (("data", "path"), data),
        "format": (("data", "format"), format),
        "detector": (("score", "detectors"), None if not detectors else list(detectors)),
        "anchors": (("anchors", "sets"), None if not anchors else dict(anchors)),
        "top": (("top",), top),
        "limit": (("data", "limit"), limit),
        "run-dir": (("run", "dir"), run_dir),
        "address": (("resources", "address"), address),
    }
    return _given(values, prefix)


def finetune_overrides(
    *,
    models: Entries | None = None,
    datasets: Entries | None = None,
    recipes: Entries | None = None,
    mitigations: Entries | None = None,
    seeds: Sequence[int] | None = None,
    run_dir: str | None = None,
    address: str | None = None,
    prefix: str = "--",
) -> list[Override]:
    """The options of fine-tunes that were given, as overrides; entries are a mapping by name or a list of strings."""
    values: dict[str, tuple[Path, Any]] = {
        "model": (("models",), _plain(models)),
        "dataset": (("datasets",), _plain(datasets)),
        "recipe": (("recipes",), _plain(recipes)),
        "mitigation": (("mitigations",), _plain(mitigations)),
        "seed": (("seeds",), None if not seeds else list(seeds)),
        "run-dir": (("run", "dir"), run_dir),
        "address": (("resources", "address"), address),
    }
    return _given(values, prefix)


def evaluate_overrides(
    *,
    models: Entries | None = None,
    finetunes: Sequence[str] | None = None,
    endpoint: str | None = None,
    served_as: str | None = None,
    suites: Sequence[str] | None = None,
    judges: Entries | None = None,
    tasks: Sequence[str] | None = None,
    run_dir: str | None = None,
    address: str | None = None,
    prefix: str = "--",
) -> list[Override]:
    """The options of an evaluation that were given, as overrides.

    An endpoint is a condition of its own, named after the model that it serves.

    Raises:
        SpecError: an endpoint without the model's name, or beside models.
    """
    if endpoint is not None and (models or not served_as):
        raise SpecError(
            f"{prefix}endpoint goes with {prefix}served-as, the name that the server knows the model by, and without "
            f"{prefix}model; write a spec for more"
        )
    values: dict[str, tuple[Path, Any]] = {
        "model": (("models",), _plain(models)),
        "endpoint": (
            ("models",),
            None
            if endpoint is None
            else {folder_name(served_as or ""): {"endpoint": {"url": endpoint, "model": served_as}}},
        ),
        "finetunes": (("finetunes",), None if not finetunes else list(finetunes)),
        "suite": (("suites",), None if not suites else list(suites)),
        "judge": (("judges",), _plain(judges)),
        "task": (("utility", "tasks"), None if not tasks else list(tasks)),
        "run-dir": (("run", "dir"), run_dir),
        "address": (("resources", "address"), address),
    }
    return _given(values, prefix)


def moderate_overrides(
    *,
    data: str | None = None,
    audit: str | None = None,
    format: str | None = None,
    judges: Entries | None = None,
    limit: int | None = None,
    run_dir: str | None = None,
    address: str | None = None,
    prefix: str = "--",
) -> list[Override]:
    """The options of a moderation that were given, as overrides."""
    values: dict[str, tuple[Path, Any]] = {
        "data": (("data", "path"), data),
        "audit": (("audit",), audit),
        "format": (("data", "format"), format),
        "judge": (("judges",), _plain(judges)),
        "limit": (("data", "limit"), limit),
        "run-dir": (("run", "dir"), run_dir),
        "address": (("resources", "address"), address),
    }
    return _given(values, prefix)


def study_overrides(*, run_dir: str | None = None, address: str | None = None, prefix: str = "--") -> list[Override]:
    """The options of a study that were given, as overrides."""
    values: dict[str, tuple[Path, Any]] = {
        "run-dir": (("run", "dir"), run_dir),
        "address": (("resources", "address"), address),
    }
    return _given(values, prefix)


def waiting_override(text: str | None) -> list[Override]:
    """`--wait-for-resources 10m` as an override of the seconds.

    Raises SpecError for what is no time.
    """
    if text is None:
        return []
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip().lower())
    if match is None:
        raise SpecError(f"--wait-for-resources {text}: this is no time; write seconds, or 90s, 10m or 2h")
    seconds = round(float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]])
    return [Override(("resources", "wait_seconds"), seconds, "--wait-for-resources")]


def _given(values: Mapping[str, tuple[Path, Any]], prefix: str) -> list[Override]:
    return [Override(path, value, f"{prefix}{name}") for name, (path, value) in values.items() if value is not None]


def _plain(entries: Entries | None) -> Any:
    if not entries:
        return None
    if not isinstance(entries, Mapping):
        return list(entries)
    return {name: entry if isinstance(entry, str) else dict(entry) for name, entry in entries.items()}


def parse_judges(entries: Sequence[str]) -> dict[str, str | dict[str, str]]:
    """`["qi_29", "wildguard=folder"]` as judges by the name of their method, each with its model where one is given.

    Raises:
        SpecError: a method given twice.
    """
    judges: dict[str, str | dict[str, str]] = {}
    for entry in entries:
        method, separator, model = entry.partition("=")
        if method in judges:
            raise SpecError(f"--judge {entry}: {method} is given twice; write a spec, where each has a name of its own")
        judges[method] = {"method": method, "model": model} if separator else method
    return judges


def parse_anchors(entries: Sequence[str]) -> dict[str, str]:
    """`["harmful=h.jsonl", "safe=s.jsonl"]` as a mapping from set name to file.

    Raises:
        SpecError: an entry without a name, or a name given twice.
    """
    sets: dict[str, str] = {}
    for entry in entries:
        name, separator, path = entry.partition("=")
        if not separator or not name or not path:
            raise SpecError(f"--anchors {entry}: this names no set; write --anchors NAME=FILE, as in harmful={entry}")
        if name in sets:
            raise SpecError(f"--anchors {entry}: set `{name}` is given twice; give each set its own name")
        sets[name] = path
    return sets
