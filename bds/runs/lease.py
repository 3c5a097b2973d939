"""The lease: one live attempt at a time. A retry that overlaps its predecessor stops instead of mixing with it."""

import contextlib
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from bds.errors import BdsError, PreflightError
from bds.runs.directory import RunDirectory

LEASE = "lease.json"

LIFETIME = 120.0
"""Seconds after which an attempt that stopped renewing its lease counts as dead, as bds holds leases."""

_SETTLE_SECONDS = 0.2
"""Two that claim at once both write; after this time both see who wrote last."""

_held: set[str] = set()
"""Owners in this very process: its own pid is no sign of life, for pids repeat after a container restarts."""


@dataclass(frozen=True)
class LeaseRecord:
    """What lease.json says."""

    owner: str
    host: str
    pid: int
    attempt: int
    since: str
    expires: float
    """Unix time; 0 once the lease was given back."""


class Lease:
    """A held lease. `record` is what lease.json says; its attempt number counts up over the life of the directory."""

    def __init__(self, run: RunDirectory, record: LeaseRecord, lifetime: float) -> None:
        self._run = run
        self.record = record
        self._lifetime = lifetime
        self._lost = ""
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="bds-lease", daemon=True)
        self._heart.start()

    def check(self) -> None:
        """Raises BdsError where another attempt has taken the run over, or the lease could not be renewed in time."""
        if self._lost:
            raise BdsError(f"this attempt lost its lease on {self._run.uri} ({self._lost}): finished shards are kept")

    def release(self) -> None:
        self._stop.set()
        self._heart.join()
        _held.discard(self.record.owner)
        if self._lost:
            return
        with contextlib.suppress(PreflightError):
            _write(self._run, replace(self.record, expires=0.0))

    def _beat(self) -> None:
        while not self._stop.wait(self._lifetime / 6):
            try:
                current = read_lease(self._run)
                if current is None or current.owner != self.record.owner:
                    self._lost = "another process took it" if current else f"{LEASE} was deleted"
                    return
                renewed = replace(self.record, expires=time.time() + self._lifetime)
                _write(self._run, renewed)
                self.record = renewed
            except PreflightError as error:
                if time.time() > self.record.expires:
                    self._lost = str(error)
                    return


@contextlib.contextmanager
def hold_lease(run: RunDirectory, *, lifetime: float = LIFETIME) -> Iterator[Lease]:
    """Holds the run directory for one attempt.

    Args:
        lifetime: seconds after which an attempt that stopped renewing counts as dead. A dead process on this host is
            noticed at once.

    Raises:
        PreflightError: another attempt is alive, or the storage cannot be written.
    """
    before = read_lease(run)
    if before is not None and is_alive(before):
        raise PreflightError(_in_use(run, before))
    record = LeaseRecord(
        owner=uuid.uuid4().hex,
        host=socket.gethostname(),
        pid=os.getpid(),
        attempt=_last_attempt(run, before) + 1,
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        expires=time.time() + lifetime,
    )
    _write(run, record)
    time.sleep(_SETTLE_SECONDS)
    winner = read_lease(run)
    if winner is not None and winner.owner != record.owner:
        raise PreflightError(_in_use(run, winner))
    _held.add(record.owner)
    lease = Lease(run, record, lifetime)
    try:
        yield lease
    finally:
        lease.release()


def delete_run(run: RunDirectory) -> None:
    """Deletes every file of an earlier run but the lease that guards the deletion; the plans first, without which what
    a crash leaves of it is no run."""
    names = run.list()
    for name in sorted(names, key=lambda name: (not name.endswith("plan.json"), name)):
        if name != LEASE:
            run.delete(name)


def read_lease(run: RunDirectory) -> LeaseRecord | None:
    try:
        return LeaseRecord(**run.read_json(LEASE))
    except FileNotFoundError:
        return None
    except TypeError as error:
        raise PreflightError(f"{run.url_of(LEASE)} was written by another version of bds: delete it") from error


def _write(run: RunDirectory, record: LeaseRecord) -> None:
    run.write_json(LEASE, asdict(record))


def heartbeat_age(record: LeaseRecord) -> float:
    """Seconds since a lease that was not given back was last renewed, by its own clock and this one's."""
    return max(0.0, time.time() - (record.expires - LIFETIME))


def is_alive(record: LeaseRecord) -> bool:
    """Whether the attempt that wrote the lease holds it still, as far as can be known from here."""
    if time.time() > record.expires:
        return False
    if record.host != socket.gethostname():
        return True
    if record.pid == os.getpid():
        return record.owner in _held
    return _process_exists(record.pid)


def _process_exists(pid: int) -> bool:
    if os.name == "nt":
        # Signal 0 means Ctrl-C there: asking would kill. The lease's end is waited for instead.
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _last_attempt(run: RunDirectory, before: LeaseRecord | None) -> int:
    """Also from the event logs: a lease may have been deleted by hand."""
    logged = [int(match[1]) for name in run.list("events") if (match := re.search(r"attempt-(\d+)\.jsonl$", name))]
    return max([before.attempt if before else 0, *logged])


def _in_use(run: RunDirectory, record: LeaseRecord) -> str:
    until = datetime.fromtimestamp(record.expires, UTC).strftime("%H:%M:%S UTC")
    return (
        f"the run directory {run.uri} is in use since {record.since} by process {record.pid} on {record.host} "
        f"(attempt {record.attempt}): wait for it to end, or if it is gone, run again after {until} "
        f"or delete {run.url_of(LEASE)}"
    )
