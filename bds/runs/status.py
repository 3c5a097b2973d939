"""What a run directory says of its run, whether or not anything of it is up: the attempt, its lease, how it ended."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from bds.errors import PreflightError
from bds.runs.directory import RunDirectory
from bds.runs.events import read_events
from bds.runs.kind import SPEC
from bds.runs.lease import LeaseRecord, heartbeat_age, is_alive, read_lease
from bds.runs.manifest import read_manifest

State = Literal["running", "finished", "interrupted", "failed", "died"]
"""died: the attempt neither ended nor is alive, as after kill -9 or a lost machine."""


@dataclass(frozen=True)
class RunState:
    """The last attempt at a run."""

    run: str
    kind: str
    name: str
    state: State
    reason: str
    """Why it failed; empty otherwise."""
    attempt: int
    """0 where nobody has begun."""
    started: str
    """UTC; empty where it is not known."""
    command: str
    """What the user typed."""
    host: str
    """Where the attempt runs or ran; empty where it is not known."""
    pid: int | None
    heartbeat_seconds: float | None
    """Since the lease was last renewed; None where it was given back or never taken."""
    failures: tuple[str, ...]
    """What failed in the last attempt and did not end it, the last ones last."""


def run_state(run: RunDirectory) -> tuple[RunState, dict[str, Any]]:
    """The state of the run in a directory, and its resolved spec.

    Raises:
        PreflightError: the directory holds no run, or a file of it is damaged.
    """
    spec = _spec(run)
    lease = read_lease(run)
    alive = lease is not None and is_alive(lease)
    number = max([lease.attempt if lease else 0, *attempts_logged(run)])
    entry = _entry(run, number)
    events = attempt_events(run, number)
    outcome = "" if alive else str(entry.get("outcome") or _outcome_logged(events))
    state, reason = _ended(outcome) if not alive else ("running", "")
    held = lease if lease is not None and lease.expires else None
    return (
        RunState(
            run=run.uri,
            kind=str(spec.get("kind", "audit")),
            name=str(spec.get("name", "")),
            state=state,
            reason=reason,
            attempt=number,
            started=_started(entry, events, lease),
            command=str(entry.get("command", "")),
            host=lease.host if lease else str((entry.get("host") or {}).get("host", "")),
            pid=lease.pid if lease else None,
            heartbeat_seconds=None if held is None else round(heartbeat_age(held), 1),
            failures=tuple(_failure(event) for event in events if event.get("event") == "failure"),
        ),
        spec,
    )


def attempts_logged(run: RunDirectory) -> list[int]:
    """The attempts that left an event log."""
    names = run.list("events")
    return sorted(int(match[1]) for name in names if (match := re.search(r"attempt-(\d+)\.jsonl$", name)))


def attempt_events(run: RunDirectory, attempt: int) -> list[dict[str, Any]]:
    """Empty where the attempt logged nothing."""
    try:
        return read_events(run, attempt)
    except FileNotFoundError:
        return []


def seconds_since(at: str) -> float:
    """Since a time that an event or a manifest names."""
    return (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()


def _spec(run: RunDirectory) -> dict[str, Any]:
    try:
        spec = run.read_json(SPEC)
    except FileNotFoundError as error:
        raise PreflightError(
            f"{run.uri} holds no run of bds; `bds ls runs FOLDER` lists those below a folder"
        ) from error
    if not isinstance(spec, dict):
        raise PreflightError(f"{run.url_of(SPEC)} is damaged (no mapping): restore it or start anew with --fresh")
    return spec


def _entry(run: RunDirectory, number: int) -> dict[str, Any]:
    manifest = read_manifest(run)
    entries = manifest.get("attempts", []) if isinstance(manifest, dict) else []
    return next((dict(entry) for entry in entries if entry.get("attempt") == number), {})


def _outcome_logged(events: list[dict[str, Any]]) -> str:
    """Of an attempt that ended before it was worth a line of the manifest."""
    return next((str(event.get("outcome", "")) for event in reversed(events) if event.get("event") == "ended"), "")


def _ended(outcome: str) -> tuple[State, str]:
    match outcome:
        case "finished" | "interrupted":
            return outcome, ""
        case "running" | "":
            return "died", ""
    return "failed", outcome


def _started(entry: dict[str, Any], events: list[dict[str, Any]], lease: LeaseRecord | None) -> str:
    if entry.get("started"):
        return str(entry["started"])
    return str(events[0]["at"]) if events and "at" in events[0] else (lease.since if lease else "")


def _failure(event: dict[str, Any]) -> str:
    what = event.get("id", f"shard {event.get('shard')}")
    why = event.get("reason") or next(iter(reversed(str(event.get("trace", "")).strip().splitlines())), "")
    return f"{what}: {why}" if why else str(what)
