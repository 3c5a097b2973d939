"""Receipts: what a shard's scoring left behind. The receipt is the commit; a part file without one does not count."""

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from bds.errors import PreflightError
from bds.runs.directory import RunDirectory, parquet_table
from bds.runs.plan import Plan, Shard

if TYPE_CHECKING:
    import polars as pl

STAGE = "stages/score"
COMPONENTS = "components"
_READERS = 16
"""Receipts are small and an object store answers slowly: read this many at a time."""
_SHARDS_A_BLOCK = 64
"""Of a table that is read piece by piece: some ten thousand rows, of which a formula costs little more than of one."""


@dataclass(frozen=True)
class PartFile:
    """One table of one shard."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Worker:
    """Where a shard was scored."""

    host: str
    pid: int
    device: str


@dataclass(frozen=True)
class Receipt:
    shard: int
    shard_sha256: str
    """Of the rows that were scored."""
    attempt: int
    rows_ok: int
    rows_not_ok: int
    tokens: int
    seconds: float
    files: dict[str, PartFile]
    """By table name."""
    worker: Worker
    versions: dict[str, str]
    failure: str = ""
    """Why the whole shard was given up; its rows then have the status `failed`. Empty where it was scored."""


def part_path(table: str, shard: int) -> str:
    return f"{STAGE}/{table}/part-{shard:05d}.parquet"


def receipt_path(shard: int) -> str:
    return f"{STAGE}/receipts/{shard:05d}.json"


def write_receipt(run: RunDirectory, receipt: Receipt) -> None:
    run.write_json(receipt_path(receipt.shard), asdict(receipt))


def read_receipt(run: RunDirectory, shard: int) -> Receipt | None:
    """None where there is none, or none that this version of bds can read: the shard is then scored again."""
    try:
        fields = run.read_json(receipt_path(shard))
        files = {table: PartFile(**file) for table, file in fields["files"].items()}
        return Receipt(**{**fields, "files": files, "worker": Worker(**fields["worker"])})
    except (FileNotFoundError, PreflightError, KeyError, TypeError, AttributeError):
        return None


def valid_receipts(plan: Plan, run: RunDirectory) -> dict[int, Receipt]:
    """By shard: the receipts of these very rows whose part files are all there with their sizes."""
    on_storage = run.list(STAGE)
    shards = [shard for shard in plan.shards if receipt_path(shard.index) in on_storage]
    with ThreadPoolExecutor(_READERS) as readers:
        receipts = list(readers.map(lambda shard: read_receipt(run, shard.index), shards))
    return {
        shard.index: receipt
        for shard, receipt in zip(shards, receipts, strict=True)
        if receipt is not None and is_valid(receipt, shard, on_storage)
    }


def is_valid(receipt: Receipt, shard: Shard, on_storage: dict[str, int]) -> bool:
    return receipt.shard_sha256 == shard.sha256 and all(
        on_storage.get(file.path) == file.bytes for file in receipt.files.values()
    )


def remaining(plan: Plan, run: RunDirectory) -> list[Shard]:
    """What a run still has to score: the plan minus the receipts that are valid to the last byte of their parts.

    Shards given up earlier are tried again.
    """
    scored = {shard: receipt for shard, receipt in valid_receipts(plan, run).items() if not receipt.failure}
    with ThreadPoolExecutor(_READERS) as readers:
        whole = dict(zip(scored, readers.map(lambda receipt: _is_whole(run, receipt), scored.values()), strict=True))
    return [shard for shard in plan.shards if not whole.get(shard.index, False)]


def _is_whole(run: RunDirectory, receipt: Receipt) -> bool:
    """Whether the part files hold what was committed: their sizes do not tell."""
    return all(run.sha256(file.path) == file.sha256 for file in receipt.files.values())


def read_part(run: RunDirectory, receipt: Receipt, table: str) -> "pl.DataFrame":
    """One table of a shard. Raises PreflightError where the file is not the one the receipt speaks of."""
    file = receipt.files[table]
    try:
        content = run.read_bytes(file.path)
    except FileNotFoundError as error:
        raise PreflightError(f"{run.url_of(file.path)} is gone: run the same command again to score it anew") from error
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise PreflightError(f"{run.url_of(file.path)} is damaged: run the same command again to score it anew")
    return parquet_table(content, run.url_of(file.path))


def read_parts(run: RunDirectory, receipts: Iterable[Receipt], table: str) -> "pl.DataFrame":
    """A table of the whole dataset in row order, whatever order the shards were scored in; see `read_blocks`."""
    import polars as pl

    return pl.concat(list(read_blocks(run, receipts, table)), rechunk=True)


def read_blocks(run: RunDirectory, receipts: Iterable[Receipt], table: str) -> "Iterator[pl.DataFrame]":
    """A table of the whole dataset in row order, in blocks of several shards, each with the same columns.

    The rows of a shard that was given up have only their identity columns, the rest is null.
    """
    import polars as pl

    in_order = sorted((each for each in receipts if table in each.files), key=lambda receipt: receipt.shard)
    if not in_order:
        raise ValueError(f"no shard has a table named {table}")
    # A scored part names every column in the scorer's order, also where the first shard was given up.
    first = next((receipt for receipt in in_order if not receipt.failure), in_order[0])
    columns = read_part(run, first, table).clear()
    with ThreadPoolExecutor(_READERS) as readers:
        for start in range(0, len(in_order), _SHARDS_A_BLOCK):
            some = in_order[start : start + _SHARDS_A_BLOCK]
            parts = readers.map(lambda receipt: read_part(run, receipt, table), some)
            yield pl.concat([columns, *parts], how="diagonal", rechunk=True)
