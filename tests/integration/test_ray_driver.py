"""The driver ends in the middle, by kill -9 and by SIGTERM; running again resumes."""

import functools
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bds.distributed.scoring import WorkerPool, score_shards
from bds.runs.lease import hold_lease, read_lease
from bds.runs.local import score_shards_locally
from bds.runs.receipts import receipt_path, remaining
from tests.integration.ray_scorers import Accidents, first_rows_called, load, pids_called
from tests.unit.runs_example import load_score, part_bytes, planned_run

SHARDS = 16


def exists(pid: int) -> bool:
    """A zombie, which nobody has waited for yet, no longer runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_driver_that_ends_is_resumed_without_scoring_a_finished_shard_again(
    ray_session: None, tmp_path: Path, number: signal.Signals
) -> None:
    import ray

    run, plan = planned_run(tmp_path / "run", count=SHARDS * 5)
    calls = str(tmp_path / "calls")
    driver = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.driver", run.uri, calls, ray.get_runtime_context().gcs_address],
        cwd=Path(__file__).parents[2],
    )
    deadline = time.monotonic() + 120
    while sum(run.exists(receipt_path(index)) for index in range(SHARDS)) < 3 and time.monotonic() < deadline:
        assert driver.poll() is None, "the driver ended too early"
        time.sleep(0.05)
    driver.send_signal(number)
    driver.wait(timeout=60)
    while any(exists(pid) for pid in pids_called(calls)) and time.monotonic() < deadline:
        time.sleep(0.1)

    left = remaining(plan, run)
    finished = [shard.first_row for shard in plan.shards if shard not in left]
    assert 3 <= len(finished) < SHARDS
    lease = read_lease(run)
    assert lease is not None
    if number is signal.SIGTERM:
        assert driver.returncode == 143
        assert lease.expires == 0, "the lease was given back"
    else:
        assert lease.expires > time.time(), "nobody could give the lease back"
        assert lease.pid == driver.pid

    with hold_lease(run) as second:
        assert second.record.attempt == 2
        score_shards(
            run,
            left,
            functools.partial(load, calls, Accidents()),
            WorkerPool(2, cpus=1, gpus=0.0, memory=None),
            attempt=second.record.attempt,
            on_receipt=lambda receipt: None,
            on_failure=lambda failure: None,
        )
    called = first_rows_called(calls)
    assert all(called.count(first_row) == 1 for first_row in finished)
    assert remaining(plan, run) == []

    uninterrupted, _ = planned_run(tmp_path / "uninterrupted", count=SHARDS * 5)
    score_shards_locally(
        uninterrupted,
        plan.shards,
        load_score,
        threads=1,
        attempt=1,
        on_receipt=lambda receipt: None,
        on_failure=lambda failure: None,
    )
    assert part_bytes(run) == part_bytes(uninterrupted)
