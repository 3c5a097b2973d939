"""The lease: one live attempt at a time, and a dead one never in the way."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from bds.errors import BdsError, PreflightError
from bds.runs import lease as lease_module
from bds.runs.directory import RunDirectory
from bds.runs.events import EventLog
from bds.runs.lease import LEASE, LeaseRecord, hold_lease, read_lease

HOLDER = """
import sys, time
from bds.runs.directory import RunDirectory
from bds.runs.lease import hold_lease
with hold_lease(RunDirectory(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(str(tmp_path))


def elsewhere(**fields: object) -> LeaseRecord:
    """A live lease of another machine."""
    record = LeaseRecord("someone", "gpu-node-7", 4242, 3, "2026-01-02T03:04:05+00:00", time.time() + 100)
    return replace(record, **fields)  # type: ignore[arg-type]


def test_attempts_count_up_and_a_released_lease_is_free(run: RunDirectory) -> None:
    for expected in (1, 2, 3):
        with hold_lease(run) as lease:
            assert lease.record.attempt == expected
    run.delete(LEASE)
    EventLog(run, 3)
    with hold_lease(run) as lease:
        assert lease.record.attempt == 4


def test_a_live_lease_of_another_machine_is_refused_by_name(run: RunDirectory) -> None:
    run.write_json(LEASE, asdict(elsewhere()))
    with pytest.raises(PreflightError) as caught, hold_lease(run):
        pass
    said = str(caught.value)
    for fact in ("process 4242 on gpu-node-7", "since 2026-01-02T03:04:05", "attempt 3", "run again after", LEASE):
        assert fact in said
    assert read_lease(run) == elsewhere(expires=read_lease(run).expires)  # type: ignore[union-attr]


def test_an_expired_lease_of_another_machine_is_taken_over(run: RunDirectory) -> None:
    run.write_json(LEASE, asdict(elsewhere(expires=time.time() - 1)))
    with hold_lease(run) as lease:
        assert lease.record.attempt == 4


def test_a_process_on_this_machine_blocks_while_it_lives_and_not_after(run: RunDirectory) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, run.uri], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(PreflightError, match=f"process {holder.pid}"), hold_lease(run):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with hold_lease(run) as lease:
        assert lease.record.attempt == 2


def test_the_same_process_cannot_hold_it_twice(run: RunDirectory) -> None:
    with hold_lease(run), pytest.raises(PreflightError, match=f"process {os.getpid()}"), hold_lease(run):
        pass


def test_a_lease_left_by_an_earlier_life_of_this_pid_is_free(run: RunDirectory) -> None:
    run.write_json(LEASE, asdict(elsewhere(host=lease_module.socket.gethostname(), pid=os.getpid())))
    with hold_lease(run) as lease:
        assert lease.record.attempt == 4


def test_it_is_renewed_while_held(run: RunDirectory) -> None:
    with hold_lease(run, lifetime=0.6) as lease:
        time.sleep(1.5)
        lease.check()
        record = read_lease(run)
        assert record is not None
        assert record.expires > time.time()


def test_a_holder_notices_that_it_was_replaced_and_does_not_release_the_other(run: RunDirectory) -> None:
    with hold_lease(run, lifetime=0.6) as lease:
        run.write_json(LEASE, asdict(elsewhere()))
        time.sleep(0.5)
        with pytest.raises(BdsError, match="another process took it"):
            lease.check()
    record = read_lease(run)
    assert record is not None
    assert (record.owner, record.expires > 0) == ("someone", True)


def test_of_two_that_claim_at_once_the_last_writer_wins(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module.time, "sleep", lambda seconds: run.write_json(LEASE, asdict(elsewhere())))
    with pytest.raises(PreflightError, match="gpu-node-7"), hold_lease(run):
        pass
