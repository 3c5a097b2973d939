"""Tables that are written in blocks."""

from pathlib import Path

import polars as pl
import pyarrow.parquet
import pytest

from bds.runs import table_stream as module
from bds.runs.directory import RunDirectory
from bds.runs.table_stream import table_stream

ROWS = pl.DataFrame(
    {
        "row_index": range(100),
        "row_id": [f"{row}-0" for row in range(100)],
        "ok": [row % 3 == 0 for row in range(100)],
        "loss": pl.Series([None if row % 7 == 0 else row / 3 for row in range(100)], dtype=pl.Float32),
        "dots": pl.Series([[row / 2, 0.5] if row % 5 else None for row in range(100)], dtype=pl.List(pl.Float32)),
    }
)


def written(folder: Path, blocks: list[pl.DataFrame]) -> bytes:
    run = RunDirectory(str(folder))
    with table_stream(run, "table.parquet") as write:
        for block in blocks:
            write(block)
    assert run.list() == {"table.parquet": (folder / "table.parquet").stat().st_size}
    return (folder / "table.parquet").read_bytes()


def test_the_rows_come_back_and_the_blocks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROW_GROUP", 16)
    at_once = written(tmp_path / "once", [ROWS])
    for size in (1, 7, 16, 33, 100):
        blocks = [ROWS[start : start + size] for start in range(0, 100, size)]
        assert written(tmp_path / str(size), blocks) == at_once, size
    assert pl.read_parquet(tmp_path / "once" / "table.parquet").equals(ROWS)
    groups = pyarrow.parquet.ParquetFile(tmp_path / "once" / "table.parquet").metadata
    assert [groups.row_group(number).num_rows for number in range(groups.num_row_groups)] == [16] * 6 + [4]


def test_a_table_without_rows_has_its_columns(tmp_path: Path) -> None:
    written(tmp_path, [ROWS.clear(), ROWS.clear()])
    assert pl.read_parquet(tmp_path / "table.parquet").schema == ROWS.schema


def test_of_a_table_that_was_cut_off_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROW_GROUP", 16)
    another_table = ROWS.rename({"loss": "mean_loss"})
    with pytest.raises(pl.exceptions.PolarsError):
        written(tmp_path, [ROWS, another_table])
    assert list(tmp_path.iterdir()) == []


def test_on_an_object_store_it_is_put_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object store is told from a disk by its having no path."""
    monkeypatch.setattr(RunDirectory, "local_path", lambda *_: None)
    with table_stream(RunDirectory(str(tmp_path)), "table.parquet") as write:
        write(ROWS)
        assert list(tmp_path.iterdir()) == [], "it goes there when it is whole"
    assert pl.read_parquet(tmp_path / "table.parquet").equals(ROWS)
