"""The bundle that goes with a spec to a cluster: the spec and the small files that it names, and nothing else.

  spec.yaml               the resolved spec: recipes filled in, overrides applied
  files/<sha>/<name>      each small file, under the hash of its content
  bundle.json             where the files go

A cluster unpacks a bundle into a folder of one session. So the job first copies the files into its run directory
(`place_files`), and the spec names them there: the next attempt, on whichever cluster, reads the same paths.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bds.errors import PreflightError
from bds.runs.directory import RunDirectory
from bds.spec.document import Path as Place
from bds.spec.identity import AnySpec
from bds.spec.named_paths import NamedPath, named_paths, with_paths
from bds.spec.paths import is_uri

SPEC_FILE = "spec.yaml"
BUNDLE_FILE = "bundle.json"
SUBMITTED = "submitted"
"""The folder of the run directory that the files go to."""

MAX_FILE_BYTES = 8 << 20
MAX_FILES_OF_A_FOLDER = 50

_LEFT_OUT = ("private", "runs", "venv", "__pycache__")


@dataclass(frozen=True)
class BundledFile:
    source: Path
    name: str
    """Below `files/`, with the hash of the content first."""
    bytes: int


@dataclass(frozen=True)
class Bundle:
    """What goes along, and what the cluster must have already."""

    spec: AnySpec
    run_dir: str
    files: tuple[BundledFile, ...]
    moved: dict[Place, tuple[str, NamedPath]] = field(default_factory=dict)
    """Where the spec names a bundled file or folder: its name below `files/`."""
    taken: tuple[tuple[str, str], ...] = ()
    """(field, path) of what is not uploaded and read on the cluster as it is written."""

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    def spec_text(self, place: Callable[[str, NamedPath], str]) -> str:
        """The spec as YAML.

        Args:
            place: where the cluster finds what has a name below `files/`.
        """
        replaced = {at: place(name, named) for at, (name, named) in self.moved.items()}
        value = with_paths(self.spec.model_dump(mode="json"), replaced)
        return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)

    def lines(self) -> list[str]:
        """What is uploaded and what is not, for the user to see before it happens."""
        told = [f"uploads {_told(len(self.files) + 1, 'file')}, {_size(self.bytes)} beside the spec:"]
        told += [f"  {file.name.partition('/')[2]} ({_size(file.bytes)})" for file in self.files]
        if self.taken:
            told.append("reads on the cluster, as they are written; every node that works must have them:")
            told += [f"  {name}: {path}" for name, path in self.taken]
        told.append(f"writes to {self.run_dir}")
        if not is_uri(self.run_dir):
            told.append("  a path: a cluster of several machines must share it")
        return told


def make_bundle(spec: AnySpec) -> Bundle:
    """The bundle of a spec whose paths are absolute.

    Raises:
        PreflightError: a file that would go along cannot be read.
    """
    found: dict[str, tuple[str, list[BundledFile]]] = {}
    moved: dict[Place, tuple[str, NamedPath]] = {}
    taken: list[tuple[str, str]] = []
    for named in named_paths(spec.model_dump(mode="json")):
        if named.path not in found and named.kind != "there" and not is_uri(named.path):
            content = _small(Path(named.path))
            if content is not None:
                found[named.path] = content
        if named.path in found and named.kind != "there":
            moved[named.place] = found[named.path][0], named
        else:
            taken.append((named.field, named.path))
    files = {file.name: file for _, bundled in found.values() for file in bundled}
    return Bundle(spec, run_dir_of(spec), tuple(files.values()), moved, tuple(taken))


def run_dir_of(spec: AnySpec) -> str:
    """Where a run of the spec is kept."""
    return spec.run_dir if spec.kind == "moderate" else spec.run.dir


def write_bundle(bundle: Bundle, folder: Path) -> None:
    """Writes a bundle whose files the job copies into its run directory."""
    for file in bundle.files:
        target = folder / "files" / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(_content(file.source))
    (folder / SPEC_FILE).write_text(bundle.spec_text(lambda name, named: _in_run(bundle, name, named)), "utf-8")
    facts = {"run_dir": bundle.run_dir, "files": [file.name for file in bundle.files]}
    (folder / BUNDLE_FILE).write_text(json.dumps(facts, indent=2) + "\n", "utf-8")


def place_files(bundle_file: str) -> int:
    """Copies the files of an unpacked bundle into its run directory; returns how many were not there yet.

    Raises:
        PreflightError: no such bundle, or the run directory cannot be written.
    """
    try:
        facts = json.loads(Path(bundle_file).read_text("utf-8"))
        run, names = RunDirectory(facts["run_dir"]), list(facts["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PreflightError(f"{bundle_file} is no bundle that `bds submit` wrote; submit the spec again") from error
    there = run.list(SUBMITTED)
    missing = [name for name in names if f"{SUBMITTED}/{name}" not in there]
    for name in missing:
        run.upload(Path(bundle_file).parent / "files" / name, f"{SUBMITTED}/{name}")
    return len(missing)


def _in_run(bundle: Bundle, name: str, named: NamedPath) -> str:
    # Beside the spec, where the job itself reads it: what is read from a disk cannot be read from a bucket.
    beside = is_uri(bundle.run_dir) and named.kind == "text"
    return f"./files/{name}" if beside else f"{bundle.run_dir.rstrip('/')}/{SUBMITTED}/{name}"


def _small(path: Path) -> tuple[str, list[BundledFile]] | None:
    """The name below `files/` and the files of what is small enough to go along; None for everything else."""
    if path.is_file():
        return None if "private" in path.parts else _bundled(path.name, [(path, path.name)])
    if not path.is_dir():
        return None
    inside = [file for file in sorted(path.rglob("*")) if file.is_file() and not file.is_symlink()]
    inside = [file for file in inside if not _left_out(file.relative_to(path).parts)]
    if not inside or len(inside) > MAX_FILES_OF_A_FOLDER:
        return None
    return _bundled(path.name, [(file, f"{path.name}/{file.relative_to(path).as_posix()}") for file in inside])


def _left_out(parts: Sequence[str]) -> bool:
    return any(part in _LEFT_OUT or part.startswith(".") for part in parts)


def _bundled(name: str, files: Sequence[tuple[Path, str]]) -> tuple[str, list[BundledFile]] | None:
    if sum(path.stat().st_size for path, _ in files) > MAX_FILE_BYTES:
        return None
    digest = hashlib.sha256()
    for path, inner in files:
        digest.update(inner.encode() + b"\0" + _content(path))
    folder = digest.hexdigest()[:12]
    return f"{folder}/{name}", [BundledFile(path, f"{folder}/{inner}", os.path.getsize(path)) for path, inner in files]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PreflightError(f"{path} cannot be read ({error.strerror}); change its permissions") from error


def _size(count: int) -> str:
    return f"{count:,} bytes" if count < 10_000 else f"{count / 1e6:.2f} MB"


def _told(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def command_of(kind: str, spec_file: str, *options: str) -> list[str]:
    """The bds command that runs a spec of that kind; its own name is the kind's."""
    return ["bds", kind, spec_file, *options]


def as_mapping(bundle: Bundle) -> dict[str, Any]:
    """For `--json`."""
    return {
        "run_dir": bundle.run_dir,
        "files": {file.name: file.bytes for file in bundle.files},
        "bytes": bundle.bytes,
        "taken_as_they_are": dict(bundle.taken),
    }
