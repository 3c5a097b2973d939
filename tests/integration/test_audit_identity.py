"""scores.parquet is the same file for any number of actors, any order of shards, and after any process was killed."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from bds.distributed import audit as audit_module
from bds.distributed.audit import run_audit
from bds.runs.directory import RunDirectory
from bds.runs.plan import Plan, Shard, read_plan
from bds.runs.receipts import Receipt, remaining, valid_receipts
from tests.long_audit import spec_in, tables, write_long_audit

ROWS, ROWS_PER_SHARD = 40, 5
SHARDS = ROWS // ROWS_PER_SHARD


@pytest.fixture(scope="module")
def spec_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_long_audit(tmp_path_factory.mktemp("audit"), rows=ROWS, rows_per_shard=ROWS_PER_SHARD, steps=40)


@pytest.fixture(scope="module")
def uninterrupted(spec_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The tables of a run in one process."""
    run_dir = tmp_path_factory.mktemp("local") / "run"
    result = run_audit(spec_in(spec_file, run_dir), local=True)
    assert result.components["status"].unique().to_list() == ["ok"]
    return tables(run_dir)


def test_shards_in_the_opposite_order_give_the_same_bytes(
    spec_file: Path, tmp_path: Path, uninterrupted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[int] = []

    def backwards(plan: Plan, run: RunDirectory) -> list[Shard]:
        shards = remaining(plan, run)[::-1]
        scored.extend(shard.index for shard in shards)
        return shards

    monkeypatch.setattr(audit_module, "remaining", backwards)
    run_audit(spec_in(spec_file, tmp_path / "run"), local=True)
    assert scored == list(range(SHARDS))[::-1]
    assert tables(tmp_path / "run") == uninterrupted


@pytest.mark.parametrize("actors", [*(pytest.param(actors, marks=pytest.mark.slow) for actors in (1, 2)), 3])
def test_any_number_of_actors_gives_the_same_bytes(
    ray_session: None, spec_file: Path, tmp_path: Path, uninterrupted: dict[str, bytes], actors: int
) -> None:
    run_audit(spec_in(spec_file, tmp_path / "run", f"resources.actors={actors}"))
    assert tables(tmp_path / "run") == uninterrupted


def test_a_killed_actor_and_a_killed_driver_lose_nothing(
    spec_file: Path, tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    """Kills one scoring process, then, two shards later, the driver; the same command then finishes the run."""
    run_dir = tmp_path / "run"
    run = RunDirectory(str(run_dir))
    command = [sys.executable, "-m", "bds", "audit", str(spec_file), "--run-dir", str(run_dir)]
    driver = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    family = [psutil.Process(driver.pid)]
    try:
        wait_until(lambda: finished(run) >= 1, driver)
        family += psutil.Process(driver.pid).children(recursive=True)
        scorers = [process for process in family if "ray::MapWorker" in " ".join(process.cmdline())]
        assert scorers
        scorers[0].kill()
        before = finished(run)
        wait_until(lambda: finished(run) >= min(before + 2, SHARDS - 2), driver)
        family += psutil.Process(driver.pid).children(recursive=True)
        driver.send_signal(signal.SIGKILL)
        driver.wait(timeout=60)
    finally:
        end(family)
    kept = receipts(run)
    assert 1 <= len(kept) < SHARDS
    assert not (run_dir / "scores.parquet").exists()

    again = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert again.returncode == 0, again.stderr
    assert f"resuming: {len(kept)} of {SHARDS} shards are done" in again.stderr
    now = receipts(run)
    assert {index: now[index] for index in kept} == kept, "a finished shard was scored again"
    assert {receipt.attempt for index, receipt in now.items() if index not in kept} == {2}
    assert tables(run_dir) == uninterrupted


def receipts(run: RunDirectory) -> dict[int, Receipt]:
    plan = read_plan(run)
    return {} if plan is None else valid_receipts(plan, run)


def finished(run: RunDirectory) -> int:
    return len(receipts(run))


def wait_until(condition: Callable[[], bool], driver: subprocess.Popen[str], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert driver.poll() is None, driver.stderr.read() if driver.stderr else ""
        assert time.monotonic() < deadline, "the run did not get there in time"
        time.sleep(0.02)


def end(processes: list[psutil.Process]) -> None:
    """A private Ray ends with its driver; what has not ended after a while is killed, by its own id."""
    _, alive = psutil.wait_procs(processes, timeout=5)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=20)
