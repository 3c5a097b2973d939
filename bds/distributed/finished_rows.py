"""A finished run's rows, shard by shard: the dataset as it was planned, and what the model's pass said of it.

Neither is ever in memory as a whole.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl

from bds.runs.directory import RunDirectory
from bds.runs.plan import Plan, Shard, read_shard, record_of, rows_of
from bds.runs.receipts import COMPONENTS, Receipt, read_blocks, read_part
from bds.scoring.shard import last_exchange


class PlannedRows:
    """The dataset, read from the run directory when it is asked for."""

    def __init__(self, run: RunDirectory, plan: Plan) -> None:
        self._run, self._plan = run, plan
        self.count = plan.rows

    def table(self, wanted: Sequence[int]) -> pl.DataFrame:
        """The planned rows of these row indices, in the dataset's order."""
        parts = list(self._parts(pl.Series(wanted, dtype=pl.Int64)))
        return pl.concat(parts) if parts else read_shard(self._run, self._plan.shards[0]).clear()

    def texts(self, wanted: Sequence[int]) -> pl.DataFrame:
        """row_index, prompt and answer of the last exchange; a row without a conversation is not among them."""
        found = [
            (row.row_index, *last_exchange(row.conversation))
            for row in rows_of(self.table(wanted))
            if row.conversation is not None
        ]
        return pl.DataFrame(
            found, schema={"row_index": pl.Int64, "prompt": pl.String, "answer": pl.String}, orient="row"
        )

    def exchanges(self) -> Iterator[tuple[int, tuple[str, str] | None]]:
        """row_index, and prompt and answer of the last exchange, of every row in order."""
        for shard in self._plan.shards:
            for row in rows_of(read_shard(self._run, shard)):
                yield row.row_index, None if row.conversation is None else last_exchange(row.conversation)

    def records(self, wanted: pl.Series) -> "Iterable[dict[str, Any]]":
        """The input's records of these row indices, in their order; can be gone through again."""
        return _Records(self, wanted)

    def in_order_of(self, wanted: pl.Series) -> Iterator[pl.DataFrame]:
        """row_index and record of these row indices. In the dataset's order they come shard by shard; in any other one
        their text is in memory at once."""
        parts = (part.select("row_index", "record") for part in self._parts(wanted))
        if wanted.is_sorted():
            yield from parts
            return
        yield wanted.to_frame("row_index").join(pl.concat(parts), on="row_index", how="left", maintain_order="left")

    def _parts(self, wanted: pl.Series) -> Iterator[pl.DataFrame]:
        for shard, indices in _by_shard(self._plan.shards, wanted):
            yield read_shard(self._run, shard).filter(pl.col("row_index").is_in(indices))


class _Records:
    def __init__(self, rows: PlannedRows, wanted: pl.Series) -> None:
        self._rows, self._wanted = rows, wanted

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for table in self._rows.in_order_of(self._wanted):
            yield from map(record_of, table["record"])


class FinishedComponents:
    """The component table of a run whose shards all have receipts; see bds/scoring/columns.py.

    Args:
        receipts: by shard.
        without: columns that are left out.
    """

    def __init__(self, run: RunDirectory, plan: Plan, receipts: dict[int, Receipt], without: Iterable[str]) -> None:
        self._run, self._plan, self._receipts, self._without = run, plan, receipts, list(without)

    def blocks(self) -> Iterator[pl.DataFrame]:
        """The whole table in row order, some shards at a time."""
        for block in read_blocks(self._run, self._receipts.values(), COMPONENTS):
            yield block.drop(self._without, strict=False)

    def rows(self, wanted: Sequence[int]) -> Iterator[dict[str, Any]]:
        """The rows of these row indices by column, in the dataset's order."""
        for shard, indices in _by_shard(self._plan.shards, pl.Series(wanted, dtype=pl.Int64)):
            part = read_part(self._run, self._receipts[shard.index], COMPONENTS)
            rows = part.filter(pl.col("row_index").is_in(indices)).drop(self._without, strict=False)
            yield from rows.iter_rows(named=True)


def _by_shard(shards: Sequence[Shard], wanted: pl.Series) -> Iterator[tuple[Shard, list[int]]]:
    """Shards with any of the rows, in order, and which."""
    indices = np.unique(wanted.to_numpy())
    begins = np.searchsorted(indices, [shard.first_row for shard in shards])
    ends = np.searchsorted(indices, [shard.first_row + shard.rows for shard in shards])
    for shard, begin, end in zip(shards, begins, ends, strict=True):
        if begin < end:
            yield shard, indices[begin:end].tolist()
