"""A Parquet table of any size, written in blocks as they come."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from bds.runs.directory import ROW_GROUP, RunDirectory

if TYPE_CHECKING:
    import polars as pl
    import pyarrow.parquet


@contextlib.contextmanager
def table_stream(run: RunDirectory, name: str) -> "Iterator[Callable[[pl.DataFrame], None]]":
    """Yields what writes the next rows; the file appears whole at the end of the block, or not at all.

    Equal rows give equal bytes, in whatever blocks they come. All blocks have the same columns; there is at least one.
    """
    with run.writing(name) as file:
        groups = _RowGroups(file)
        try:
            yield groups.add
            groups.finish()
        finally:
            groups.close()


class _RowGroups:
    def __init__(self, file: object) -> None:
        self._file = file
        self._writer: pyarrow.parquet.ParquetWriter | None = None
        self._waiting: list[pl.DataFrame] = []
        self._rows = 0

    def add(self, rows: "pl.DataFrame") -> None:
        self._waiting.append(rows)
        self._rows += rows.height
        while self._rows >= ROW_GROUP:
            self._write(ROW_GROUP)

    def finish(self) -> None:
        """Writes what is left; where no group was written yet also no rows, for their columns."""
        if self._rows or self._writer is None:
            self._write(self._rows)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _write(self, rows: int) -> None:
        import polars as pl
        import pyarrow.parquet

        joined = pl.concat(self._waiting)
        self._waiting = [joined.slice(rows)]
        self._rows -= rows
        # Other programs read these types in every version.
        group = joined.head(rows).rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
        if self._writer is None:
            self._writer = pyarrow.parquet.ParquetWriter(
                self._file, group.schema, compression="zstd", compression_level=3
            )
        self._writer.write_table(group, row_group_size=max(1, rows))
