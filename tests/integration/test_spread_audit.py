"""An audit whose model is spread over processes has the tables of one process, also when one of them is killed."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bds.distributed.audit import run_audit
from bds.distributed.session import deaths_kept_off_the_terminal
from bds.errors import SpecError
from bds.runs.directory import RunDirectory
from bds.runs.plan import read_plan
from bds.runs.receipts import valid_receipts
from tests.long_audit import spec_in, tables, write_long_audit

ROWS, ROWS_PER_SHARD = 24, 4
SHARDS = ROWS // ROWS_PER_SHARD


@pytest.fixture(scope="module")
def spec_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_long_audit(
        tmp_path_factory.mktemp("audit"), rows=ROWS, rows_per_shard=ROWS_PER_SHARD, steps=30, blocks=4
    )


@pytest.fixture(scope="module")
def in_one_process(spec_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    run_dir = tmp_path_factory.mktemp("local") / "run"
    run_audit(spec_in(spec_file, run_dir), local=True)
    return tables(run_dir)


@pytest.mark.parametrize(("actors", "parts"), [pytest.param(1, 3, marks=pytest.mark.slow), (2, 2)])
def test_any_number_of_parts_and_actors_gives_the_same_bytes(
    ray_session: None, spec_file: Path, tmp_path: Path, in_one_process: dict[str, bytes], actors: int, parts: int
) -> None:
    resources = (f"resources.actors={actors}", f"resources.parts_per_model={parts}")
    said: list[str] = []
    run_audit(spec_in(spec_file, tmp_path / "run", *resources), report=said.append)
    assert f"Ray: {actors} actors of {parts} processes of 1 CPU each" in said
    assert tables(tmp_path / "run") == in_one_process


@pytest.mark.slow
def test_a_killed_part_and_a_killed_hub_cost_a_try_of_a_shard_and_nothing_else(
    ray_session: None, spec_file: Path, tmp_path: Path, in_one_process: dict[str, bytes]
) -> None:
    """SIGKILL to a part after the first receipt and to the hub two receipts later."""
    run_dir = tmp_path / "run"
    run = RunDirectory(str(run_dir))
    orphans: list[psutil.Process] = []

    def kill() -> None:
        wait_for_receipts(run, 1)
        next(processes("PartActor")).kill()
        wait_for_receipts(run, receipts(run) + 2)
        orphans.extend(processes("PartActor"))
        next(processes("MapWorker")).kill()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    with deaths_kept_off_the_terminal():
        run_audit(spec_in(spec_file, run_dir, "resources.actors=1", "resources.parts_per_model=2"))
    killer.join(timeout=60)
    tries = sorted(int(json.loads(file.read_text())) for file in (run_dir / "stages/score/tries").rglob("*.json"))
    assert len(tries) == SHARDS
    assert tries[-2:] in ([2, 2], [1, 3])
    assert tables(run_dir) == in_one_process
    assert orphans
    _, alive = psutil.wait_procs(orphans, timeout=30)
    assert not alive, "the parts of a hub that died are still there"


def wait_for_receipts(run: RunDirectory, count: int) -> None:
    while receipts(run) < count:
        time.sleep(0.02)


def receipts(run: RunDirectory) -> int:
    plan = read_plan(run)
    return 0 if plan is None else len(valid_receipts(plan, run))


def processes(name: str) -> Iterator[psutil.Process]:
    """Of this Ray, whose title has the name of an actor's class."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if f"ray::{name}" in " ".join(process.cmdline()):
                yield process


def test_one_process_is_not_several(spec_file: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="--local is one process, not 2"):
        run_audit(spec_in(spec_file, tmp_path / "run", "resources.parts_per_model=2"), local=True)
