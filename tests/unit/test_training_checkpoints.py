"""A checkpoint that is not what was saved is no checkpoint: training then begins anew, and never from less."""

from pathlib import Path

import pytest

from bds.runs.directory import RunDirectory
from bds.training.checkpoints import LATEST, Checkpoints


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(str(tmp_path / "run"))


@pytest.fixture
def checkpoints(run: RunDirectory, tmp_path: Path) -> Checkpoints:
    """One of them, of two files."""
    local = tmp_path / "local"
    local.mkdir()
    (local / "model.safetensors").write_bytes(bytes(range(200)))
    (local / "optimizer.pt").write_bytes(bytes(100))
    saved = Checkpoints(run, "models/tiny", "key")
    saved.save(local, 0, 12)
    return saved


def test_what_was_saved_is_found(checkpoints: Checkpoints) -> None:
    found = checkpoints.latest()
    assert found is not None
    assert (found.stage, found.step) == (0, 12)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt"])
def test_changed_bytes_of_the_same_number_are_noticed(run: RunDirectory, checkpoints: Checkpoints, name: str) -> None:
    path = f"models/tiny/checkpoints/stage-0-step-000012/{name}"
    content = bytearray(run.read_bytes(path))
    content[50] ^= 0xFF
    run.write_bytes(path, bytes(content))
    assert checkpoints.latest() is None


def test_a_missing_file_and_a_damaged_commit_are_noticed(run: RunDirectory, checkpoints: Checkpoints) -> None:
    latest = f"models/tiny/checkpoints/{LATEST}"
    committed = run.read_bytes(latest)
    run.write_bytes(latest, committed[: len(committed) // 2])
    assert checkpoints.latest() is None
    run.write_bytes(latest, committed)
    run.delete("models/tiny/checkpoints/stage-0-step-000012/optimizer.pt")
    assert checkpoints.latest() is None


def test_a_checkpoint_of_another_fine_tune_is_not_taken(run: RunDirectory, checkpoints: Checkpoints) -> None:
    assert Checkpoints(run, "models/tiny", "other").latest() is None
