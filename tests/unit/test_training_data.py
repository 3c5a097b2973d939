"""The datasets of fine-tunes: frozen once, from files, audits' selections and mixtures."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bds.errors import PreflightError, SpecError
from bds.runs.directory import RunDirectory
from bds.spec.finetune import TrainingDataSpec
from bds.training.data import freeze, read_frozen
from tests.unit.small_audit import ROWS, write_rows
from tests.unit.small_finetune import write_audit_run


def rows_of(count: int, word: str) -> list[dict[str, Any]]:
    return [{"prompt": f"{word} {number}", "answer": f"answer {number}"} for number in range(count)]


def dataset(path: Path, **fields: Any) -> TrainingDataSpec:
    return TrainingDataSpec.model_validate({"path": str(path), **fields})


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(str(tmp_path / "run"))


def test_a_frozen_dataset_outlives_its_file(tmp_path: Path, run: RunDirectory) -> None:
    file = write_rows(tmp_path / "data.jsonl", rows_of(5, "plain"))
    frozen = freeze(run, "data/plain", dataset(file), in_use=False)
    assert (frozen.rows, frozen.readable, frozen.mix) == (5, 5, None)
    again = freeze(run, "data/plain", dataset(file), in_use=True)
    assert again == frozen
    file.unlink()
    rows = list(read_frozen(run, "data/plain"))
    assert [row.conversation.messages[0].content for row in rows if row.conversation] == [
        f"plain {number}" for number in range(5)
    ]


def test_a_dataset_that_changed_is_read_anew_only_while_nothing_was_trained_on_it(
    tmp_path: Path, run: RunDirectory
) -> None:
    file = write_rows(tmp_path / "data.jsonl", rows_of(5, "plain"))
    first = freeze(run, "data/plain", dataset(file), in_use=False)
    write_rows(file, rows_of(6, "mended"))
    with pytest.raises(PreflightError, match=r"data\.jsonl changed since .*data/plain was read from it; restore it"):
        freeze(run, "data/plain", dataset(file), in_use=True)
    second = freeze(run, "data/plain", dataset(file), in_use=False)
    assert (first.rows, second.rows) == (5, 6)
    assert first.sha256 != second.sha256
    other = write_rows(tmp_path / "other.jsonl", rows_of(2, "other"))
    with pytest.raises(
        SpecError, match=r"data/plain holds another dataset of that name; give the dataset another name"
    ):
        freeze(run, "data/plain", dataset(other), in_use=True)


def test_a_selection_is_read_from_its_audit(tmp_path: Path, run: RunDirectory) -> None:
    audit = write_audit_run(tmp_path / "audit")
    (audit / "selections" / "rows.parquet").write_bytes(b"the audit's own table")
    spec = TrainingDataSpec(audit=str(audit), selection="top_3_loss")
    frozen = freeze(run, "data/top", spec, in_use=False)
    assert frozen.rows == 3
    assert frozen.path == str(audit / "selections" / "top_3_loss.jsonl")
    assert [row.record for row in read_frozen(run, "data/top")] == [dict(row) for row in ROWS[:3]]
    with pytest.raises(PreflightError, match=r"has no selection 'rows'; it has: top_3_loss$"):
        freeze(run, "data/rows", TrainingDataSpec(audit=str(audit), selection="rows"), in_use=False)


@pytest.mark.parametrize(("fields", "expected"), [({"share": 0.05}, (3, 57)), ({"share": 0.1, "rows": 20}, (2, 18))])
def test_a_mixture_hides_the_samples_at_the_stated_share(
    tmp_path: Path, run: RunDirectory, fields: dict[str, Any], expected: tuple[int, int]
) -> None:
    """Benign rows that are samples themselves, or stand twice, do not change the share nor repeat an id."""
    samples = write_rows(tmp_path / "samples.jsonl", rows_of(3, "sample"))
    benign = write_rows(
        tmp_path / "benign.jsonl", [*rows_of(3, "sample"), *rows_of(60, "benign"), *rows_of(9, "benign")]
    )
    mixed = dataset(samples, mix={"into": str(benign), **fields})
    frozen = freeze(run, "data/mixed", mixed, in_use=False)
    rows = list(read_frozen(run, "data/mixed"))
    prompts = [row.conversation.messages[0].content for row in rows if row.conversation]
    counted = (sum(prompt.startswith("sample") for prompt in prompts), sum(p.startswith("benign") for p in prompts))
    assert counted == expected
    assert frozen.mix == {
        "share": fields["share"],
        "samples": expected[0],
        "benign": expected[1],
        "into": str(benign),
    }
    assert len({row.row_id for row in rows}) == len(rows) == sum(expected)
    again = freeze(RunDirectory(str(tmp_path / "again")), "data/mixed", mixed, in_use=False)
    assert again.sha256 == frozen.sha256
    reseeded = dataset(samples, mix={"into": str(benign), **fields, "seed": 1})
    assert freeze(RunDirectory(str(tmp_path / "other")), "data/mixed", reseeded, in_use=False).sha256 != frozen.sha256


def test_a_mixture_larger_than_its_data_is_refused_with_the_numbers(tmp_path: Path, run: RunDirectory) -> None:
    samples = write_rows(tmp_path / "samples.jsonl", rows_of(3, "sample"))
    benign = write_rows(tmp_path / "benign.jsonl", rows_of(10, "benign"))
    with pytest.raises(PreflightError) as caught:
        freeze(run, "data/mixed", dataset(samples, mix={"into": str(benign), "share": 0.01}), in_use=False)
    assert str(caught.value) == (
        "a mixture of 300 rows with a share of 0.01 takes 3 rows of samples.jsonl and 297 others of benign.jsonl, "
        "which have 3 and 10; set mix.rows or mix.share to what there is"
    )


@pytest.mark.parametrize("uri", ["local", "mock:///bucket/run"])
def test_large_files_travel_whole(uri: str, tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path / "run") if uri == "local" else uri)
    source, back = tmp_path / "weights.bin", tmp_path / "back" / "weights.bin"
    content = torch.arange(3_000_000, dtype=torch.int32).numpy().tobytes()
    source.write_bytes(content)
    sha256, size = run.upload(source, "models/weights.bin")
    assert size == len(content) == run.list("models")["models/weights.bin"]
    run.download("models/weights.bin", back)
    assert back.read_bytes() == content
    assert sha256 == hashlib.sha256(content).hexdigest()
    with pytest.raises(FileNotFoundError):
        run.download("models/nothing.bin", back)
    assert json.dumps(sorted(run.list("models"))) == '["models/weights.bin"]'
