"""Checkpoints of one fine-tune in the run directory. `latest.json` is the commit; files without it do not count."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from bds.runs.directory import RunDirectory

LATEST = "latest.json"


@dataclass(frozen=True)
class Checkpoint:
    """Where a fine-tune stood."""

    key: str
    """Of the fine-tune: a checkpoint of another one is not taken."""
    stage: int
    """From 0."""
    step: int
    """Optimiser steps done in that stage."""
    folder: str
    files: dict[str, str]
    """SHA-256 by name within the folder."""


class Checkpoints:
    """Writes, finds and deletes the checkpoints of one fine-tune, the last of which is kept."""

    def __init__(self, run: RunDirectory, folder: str, key: str) -> None:
        self._run = run
        self._folder = f"{folder}/checkpoints"
        self._key = key

    def latest(self) -> Checkpoint | None:
        """The last committed one, where its files hold what was saved; None where there is none to go on from.

        Changed bytes would otherwise change the weights that are trained on, and nobody would know.
        """
        try:
            found = Checkpoint(**json.loads(self._run.read_bytes(f"{self._folder}/{LATEST}")))
        except (FileNotFoundError, TypeError, ValueError):
            return None
        if found.key != self._key:
            return None
        whole = all(self._run.sha256(f"{found.folder}/{name}") == sha256 for name, sha256 in found.files.items())
        return found if whole else None

    def save(self, local: Path, stage: int, step: int) -> None:
        """Copies a local folder, commits it, and deletes what was there before."""
        folder = f"{self._folder}/stage-{stage}-step-{step:06d}"
        files = {}
        for path in sorted(local.rglob("*")):
            if path.is_file():
                name = path.relative_to(local).as_posix()
                files[name], _ = self._run.upload(path, f"{folder}/{name}")
        self._run.write_json(f"{self._folder}/{LATEST}", asdict(Checkpoint(self._key, stage, step, folder, files)))
        for name in self._run.list(self._folder):
            if not name.startswith(f"{folder}/") and name != f"{self._folder}/{LATEST}":
                self._run.delete(name)

    def load(self, checkpoint: Checkpoint, local: Path) -> None:
        """Copies a checkpoint's files into a local folder."""
        for name in checkpoint.files:
            self._run.download(f"{checkpoint.folder}/{name}", local / name)

    def clear(self) -> None:
        """Deletes all of them, `latest.json` first."""
        names = self._run.list(self._folder)
        for name in sorted(names, key=lambda name: not name.endswith(f"/{LATEST}")):
            self._run.delete(name)
        root = self._run.local_path(self._folder)
        if root is not None:
            shutil.rmtree(root, ignore_errors=True)
