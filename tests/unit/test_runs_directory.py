"""The run directory: whole files, one spelling of a table, and storage errors as one sentence."""

import errno
import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from bds.errors import PreflightError
from bds.runs.directory import RunDirectory, parquet_bytes, readable_json

TABLE = pl.DataFrame({"row_index": list(range(200_000)), "text": [f"row {i % 97}" for i in range(200_000)]})


@pytest.fixture(params=["path", "file URI", "object store"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> RunDirectory:
    uris = {
        "path": str(tmp_path / "run"),
        "file URI": (tmp_path / "run").as_uri(),
        "object store": "mock:///bucket/run",
    }
    return RunDirectory(uris[request.param])


def test_what_is_written_is_read_back(run: RunDirectory) -> None:
    run.write_bytes("a/deep/file.bin", b"\x00\x01")
    run.write_json("plan.json", {"b": [1, 2], "a": "é"})
    sha256, size = run.write_table("a/table.parquet", TABLE)

    assert run.read_bytes("a/deep/file.bin") == b"\x00\x01"
    assert run.read_json("plan.json") == {"a": "é", "b": [1, 2]}
    assert run.read_table("a/table.parquet").equals(TABLE)
    assert sha256 == hashlib.sha256(run.read_bytes("a/table.parquet")).hexdigest()
    assert run.list() == {"a/deep/file.bin": 2, "a/table.parquet": size, "plan.json": len(run.read_bytes("plan.json"))}
    assert list(run.list("a")) == ["a/deep/file.bin", "a/table.parquet"]
    assert run.list("nowhere") == {}


def test_writing_again_replaces_and_deleting_twice_is_fine(run: RunDirectory) -> None:
    run.write_bytes("x", b"long content")
    run.write_bytes("x", b"short")
    assert run.read_bytes("x") == b"short"
    assert run.exists("x")
    run.delete("x")
    run.delete("x")
    assert not run.exists("x")
    with pytest.raises(FileNotFoundError):
        run.read_bytes("x")


def test_it_pickles_as_its_uri_and_a_relative_path_is_fixed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunDirectory("runs/one")
    run.write_bytes("x", b"1")
    monkeypatch.chdir("/")
    assert pickle.loads(pickle.dumps(run)).read_bytes("x") == b"1"
    assert run.url_of("x") == str(tmp_path / "runs/one/x")


def test_readable_json_does_not_depend_on_the_order_of_keys() -> None:
    assert readable_json({"b": 1, "a": 2}) == readable_json({"a": 2, "b": 1}) == b'{\n  "a": 2,\n  "b": 1\n}\n'


def test_parquet_bytes_do_not_depend_on_chunks_or_threads(tmp_path: Path) -> None:
    in_chunks = pl.concat([TABLE[:10], TABLE[10:70_001], TABLE[70_001:]], rechunk=False)
    assert in_chunks.n_chunks() == 3
    assert parquet_bytes(in_chunks) == parquet_bytes(TABLE)

    TABLE.write_ipc(tmp_path / "table.arrow")
    program = (
        "import sys, hashlib, polars as pl; from bds.runs.directory import parquet_bytes;"
        "print(pl.thread_pool_size(), hashlib.sha256(parquet_bytes(pl.read_ipc(sys.argv[1]))).hexdigest())"
    )
    for threads in ("1", "3"):
        printed = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "table.arrow")],
            env={**os.environ, "POLARS_MAX_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        assert printed == [threads, hashlib.sha256(parquet_bytes(TABLE)).hexdigest()]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "has no room: free space and run the same command again; finished shards are kept"),
        (errno.EDQUOT, "has no room"),
        (errno.EACCES, "no permission to write"),
        (errno.EROFS, "no permission to write"),
        (errno.EIO, "check it and run the same command again"),
    ],
)
def test_a_failing_disk_is_one_sentence_and_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    run = RunDirectory(str(tmp_path))
    run.write_bytes("x", b"before")

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(PreflightError, match=said) as caught:
        run.write_bytes("x", b"after")
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["x"]
    assert run.read_bytes("x") == b"before"


def test_a_real_full_device_is_a_preflight_error(tmp_path: Path) -> None:
    if not Path("/dev/full").is_char_device():
        pytest.skip("no /dev/full on this system")
    (tmp_path / "events.jsonl").symlink_to("/dev/full")
    with pytest.raises(PreflightError, match="has no room"):
        RunDirectory(str(tmp_path)).append_line("events.jsonl", "{}")


def test_places_that_cannot_be_a_run_directory(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match=r"cannot be opened.*s3://bucket/folder"):
        RunDirectory("s5://bucket/run").read_bytes("x")
    (tmp_path / "file").write_text("")
    with pytest.raises(PreflightError, match="something else is in its place"):
        RunDirectory(str(tmp_path / "file")).write_bytes("x", b"")


def test_a_damaged_file_is_named(run: RunDirectory) -> None:
    run.write_bytes("plan.json", b"{")
    run.write_bytes("part.parquet", b"not parquet")
    with pytest.raises(PreflightError, match=r"plan\.json is damaged"):
        run.read_json("plan.json")
    with pytest.raises(PreflightError, match=r"part\.parquet is damaged"):
        run.read_table("part.parquet")
