"""The batches of a run are settled once, before its first model loads: recorded, told, and kept when it resumes."""

from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import bds.distributed.workers as workers_module
from bds.distributed.audit import AuditResult, run_audit
from bds.distributed.nodes import Look
from bds.distributed.workers import gpu_room
from bds.errors import PreflightError
from bds.report.archive import load_inputs
from bds.runs.directory import RunDirectory
from bds.runs.receipts import read_receipt, receipt_path
from bds.scoring.dry_run import UnknownMemoryError
from bds.scoring.memory import MemoryModel, Room
from bds.scoring.stages import memory_model, read_token_budget
from bds.spec.models import AuditSpec
from tests.unit.test_audit_rescoring import spec_of, world  # noqa: F401

DETECTORS = ["gradient_bidirectional", "self_influence_n", "loss"]
GIB = 2**30


def spec_at(world: Path, run_dir: Path, budget: int) -> AuditSpec:  # noqa: F811
    score = {"token_budget": budget}
    return spec_of(world, run_dir, list(DETECTORS), score=score, tokens={"max_tokens": 128})


def here(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(workers_module, "room_here", lambda: ("cpu", Room(size, "this machine")))


def audit(spec: AuditSpec) -> tuple[AuditResult, list[str]]:
    said: list[str] = []
    return run_audit(spec, local=True, report=said.append), said


@pytest.fixture(scope="module")
def sizes(world: Path) -> dict[int, int]:  # noqa: F811
    model = memory_model(spec_at(world, Path("/run"), 2048), "cpu")
    return {budget: model.at(budget).total for budget in (2048, 1024, 512, 256, 128)}


def test_a_smaller_budget_takes_less(sizes: dict[int, int]) -> None:
    found = list(sizes.values())
    assert found == sorted(found, reverse=True)
    assert sizes[128] < sizes[2048] / 2


def test_too_large_batches_are_halved_said_and_recorded(
    world: Path,  # noqa: F811
    tmp_path: Path,
    sizes: dict[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here(monkeypatch, sizes[512])
    spec = spec_at(world, tmp_path / "run", 2048)
    halved, said = audit(spec)
    (told,) = [line for line in said if line.startswith("batches hold")]
    assert told.startswith(
        "batches hold 512 padded tokens instead of score.token_budget 2,048, because this machine has"
    )
    run = RunDirectory(spec.run.dir)
    assert read_token_budget(run) == 512
    assert load_inputs(run).manifest["token_budget"] == 512

    here(monkeypatch, sizes[2048])
    asked, said = audit(spec_at(world, tmp_path / "asked", 512))
    assert not [line for line in said if line.startswith("batches hold")]
    assert halved.components.equals(asked.components), "the very bytes of a run that asked for such batches"


def test_a_resumed_run_keeps_its_batches(
    world: Path,  # noqa: F811
    tmp_path: Path,
    sizes: dict[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here(monkeypatch, sizes[512])
    spec = spec_at(world, tmp_path / "run", 2048)
    first, _ = audit(spec)
    run = RunDirectory(spec.run.dir)
    receipt = read_receipt(run, 1)
    assert receipt is not None
    run.delete(receipt_path(1))

    here(monkeypatch, 64 * GIB)
    again, _ = audit(spec)
    assert read_token_budget(run) == 512, "not what would fit now"
    assert again.components.equals(first.components)
    remade = read_receipt(run, 1)
    assert remade is not None
    assert remade.attempt == 2
    assert remade.files == receipt.files

    run.delete(receipt_path(1))
    here(monkeypatch, sizes[256])
    with pytest.raises(PreflightError, match=r"the run began with batches for which .* resume it on a machine"):
        audit(spec)


def test_where_one_row_does_not_fit_no_model_is_loaded(
    world: Path,  # noqa: F811
    tmp_path: Path,
    sizes: dict[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here(monkeypatch, sizes[128] - 1)
    monkeypatch.setattr("bds.scoring.stages.load_model", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(PreflightError, match=r"this machine has .* for an actor, which takes .*; take shorter"):
        audit(spec_at(world, tmp_path / "run", 2048))


def test_a_model_that_cannot_run_dry_is_audited_all_the_same(
    world: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unknown(self: MemoryModel, token_budget: int) -> None:
        raise UnknownMemoryError("it looks at its numbers")

    monkeypatch.setattr(MemoryModel, "at", unknown)
    spec = spec_at(world, tmp_path / "run", 2048)
    result, said = audit(spec)
    assert "warning: how much memory an actor takes cannot be said of this model (it looks at its numbers)" in said
    assert read_token_budget(RunDirectory(spec.run.dir)) == 2048
    assert result.exit_error is None


def test_another_budget_changes_last_bits_alone(
    world: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Why one run has one budget: the numbers agree, their bytes do not."""
    large, small = (audit(spec_at(world, tmp_path / str(budget), budget))[0].components for budget in (2048, 128))
    assert_frame_equal(large, small, rel_tol=1e-4, abs_tol=1e-6)
    numbers = [name for name, kind in large.schema.items() if kind == pl.Float32]
    assert not large.select(numbers).equals(small.select(numbers))


def test_the_smallest_gpu_decides() -> None:
    look = Look("1", (), {}, None, 80 * GIB)
    looks = {"a": look, "b": Look("1", (), {}, None, 40 * GIB), "c": Look("1", (), {}, None, None)}
    assert gpu_room(looks, 1.0) == Room(36 * GIB, "the GPU of node b")
    assert gpu_room(looks, 0.5) == Room(18 * GIB, "the GPU of node b")
    assert gpu_room(looks, 4.0) == Room(36 * GIB, "the GPU of node b"), "a model is on one of them"
    assert gpu_room({"c": looks["c"]}, 1.0) is None
