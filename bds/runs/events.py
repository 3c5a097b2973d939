"""The event log: one JSON line an event, one file an attempt, for whoever asks later what happened when."""

import json
import threading
import time
from datetime import UTC, datetime
from typing import Any

from bds.runs.directory import RunDirectory

_UPLOAD_SECONDS = 10.0


def events_path(attempt: int) -> str:
    return f"events/attempt-{attempt:04d}.jsonl"


class EventLog:
    """Appends on a local disk. An object store cannot append: there the file is put anew every ten seconds at most."""

    def __init__(self, run: RunDirectory, attempt: int) -> None:
        self._run = run
        self._name = events_path(attempt)
        self._lines: list[str] = []
        self._uploaded = 0.0
        self._lock = threading.Lock()
        self.add("attempt_started", {"attempt": attempt})

    def add(self, kind: str, fields: dict[str, Any]) -> None:
        """Fields are plain JSON values; `at` (UTC) and `event` are added."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"at": at, "event": kind, **fields})
        with self._lock:
            if self._run.is_local:
                self._run.append_line(self._name, line)
                return
            self._lines.append(line)
            if time.monotonic() - self._uploaded >= _UPLOAD_SECONDS:
                self._upload()

    def close(self) -> None:
        with self._lock:
            if self._lines:
                self._upload()

    def _upload(self) -> None:
        self._run.write_bytes(self._name, ("\n".join(self._lines) + "\n").encode())
        self._uploaded = time.monotonic()


def read_events(run: RunDirectory, attempt: int) -> list[dict[str, Any]]:
    """A line that a crash cut off is left out."""
    events = []
    for line in run.read_bytes(events_path(attempt)).decode("utf-8", "replace").splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    return events
