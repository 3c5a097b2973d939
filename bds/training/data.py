"""The datasets of a run, read once and frozen in the run directory: every fine-tune of any attempt sees these rows."""

import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from bds.data.files import fingerprint
from bds.data.reader import read_rows
from bds.data.rows import Row
from bds.errors import PreflightError, SpecError
from bds.runs.directory import RunDirectory
from bds.runs.kind import SPEC
from bds.runs.plan import PLAN, read_plan, read_shard, rows_of, write_plan
from bds.spec.finetune import MixSpec, TrainingDataSpec
from bds.spec.models import DataSpec

SOURCE = "source.json"
ROWS_PER_PART = 4096

_ROWS_OF_SELECTIONS = "selections/rows.parquet"
"""The audit's table of which rows each selection has; the other files there are datasets."""


@dataclass(frozen=True)
class FrozenData:
    """One dataset of the run."""

    folder: str
    """Within the run directory."""
    path: str
    """Where it was read from."""
    sha256: str
    """Of the row ids in order."""
    rows: int
    statuses: dict[str, int]
    """Rows by status as read, before tokenising."""
    mix: dict[str, Any] | None
    """Where it is a mixture: the share asked for, the rows of each part, and what it was mixed into."""

    @property
    def readable(self) -> int:
        """Rows that have a prompt and an answer."""
        return self.statuses.get("ok", 0)


def data_source(data: TrainingDataSpec) -> DataSpec:
    """The dataset as the reader takes it; an audit's selection is read in the format of the audited dataset.

    Raises:
        PreflightError: there is no such audit run or selection.
    """
    if data.path is not None:
        fields = data.model_dump(exclude={"audit", "selection", "mix"})
        return DataSpec(**fields)
    assert data.audit is not None
    assert data.selection is not None
    audited = _audited_data(data.audit)
    file = selection_file(data.audit, data.selection)
    return DataSpec(path=file, format=audited["format"], columns=audited["columns"], limit=data.limit)


def _audited_data(audit: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = RunDirectory(audit).read_json(SPEC)["data"]
    except (FileNotFoundError, KeyError) as error:
        raise PreflightError(f"{audit} is not the run directory of an audit; run `bds audit` first") from error
    return found


def selection_file(audit: str, selection: str) -> str:
    """Where an audit wrote a selection. Raises PreflightError, naming those that exist, where there is none."""
    run = RunDirectory(audit)
    names = {PurePosixPath(name).name: name for name in run.list("selections") if name != _ROWS_OF_SELECTIONS}
    for file, name in names.items():
        if file == selection or (file.startswith(f"{selection}.") and _stem(file) == selection):
            return run.url_of(name)
    known = ", ".join(_stem(file) for file in names) or "none"
    raise PreflightError(f"the audit {audit} has no selection '{selection}'; it has: {known}")


def _stem(file: str) -> str:
    for ending in (".gz", ".zst", ".jsonl", ".ndjson", ".json", ".csv", ".parquet"):
        file = file.removesuffix(ending)
    return file


def freeze(run: RunDirectory, folder: str, data: TrainingDataSpec, *, in_use: bool) -> FrozenData:
    """Reads a dataset into the run directory, or finds it there.

    Args:
        in_use: whether a finished fine-tune was trained on what the folder holds; if not, a dataset that changed since
            is read anew.

    Raises:
        SpecError: the folder holds another dataset, which is in use.
        PreflightError: it cannot be read, has too few rows for its mixture, or changed while it was in use.
    """
    source = data_source(data)
    place = RunDirectory(f"{run.uri}/{folder}")
    asked = {"spec": data.model_dump(mode="json"), "files": _fingerprints(source, data.mix)}
    before = _frozen_before(place)
    if before is not None and before["asked"] != asked and not in_use:
        place.delete(PLAN)
        before = None
    if before is not None:
        if before["asked"]["spec"] != asked["spec"]:
            raise SpecError(
                f"{place.uri} holds another dataset of that name; give the dataset another name, or --fresh to delete "
                "the run"
            )
        if before["asked"]["files"] != asked["files"]:
            raise PreflightError(
                f"{source.path} changed since {place.uri} was read from it; restore it, or give --fresh to start anew"
            )
        return FrozenData(**before["frozen"])
    statuses: Counter[str] = Counter()
    mix: dict[str, Any] = {}
    rows = read_rows(source) if data.mix is None else iter(_mixed(source, data.mix, mix))

    def counted() -> Iterator[Row]:
        for row in rows:
            statuses[row.status] += 1
            yield row

    plan = write_plan(place, counted(), rows_per_shard=ROWS_PER_PART, spec_sha256="", data_format=source.format)
    frozen = FrozenData(folder, source.path, plan.data_sha256, plan.rows, dict(statuses), mix or None)
    place.write_json(SOURCE, {"asked": asked, "frozen": asdict(frozen)})
    return frozen


def _frozen_before(place: RunDirectory) -> dict[str, Any] | None:
    """What a dataset was frozen from; None where nothing was, or not to its end."""
    try:
        before: dict[str, Any] = place.read_json(SOURCE)
    except FileNotFoundError:
        return None
    return before if read_plan(place) is not None else None


def read_frozen(run: RunDirectory, folder: str) -> Iterator[Row]:
    """The rows of a frozen dataset in order."""
    place = RunDirectory(f"{run.uri}/{folder}")
    plan = read_plan(place)
    if plan is None:
        raise PreflightError(f"{place.uri} is gone; start a new run with --fresh")
    for shard in plan.shards:
        yield from rows_of(read_shard(place, shard))


def _fingerprints(source: DataSpec, mix: MixSpec | None) -> list[str]:
    sources = [source] if mix is None else [source, mix.into]
    return [fingerprint(entry.path, split=entry.split, subset=entry.subset) for entry in sources]


def _mixed(source: DataSpec, mix: MixSpec, facts: dict[str, Any]) -> Sequence[Row]:
    """The samples, then benign rows drawn by the seed, with ids that are unique in the mixture."""
    samples = [row for row in read_rows(source) if row.conversation is not None]
    own = {_content(row) for row in samples}
    benign = [row for row in read_rows(mix.into) if row.conversation is not None and _content(row) not in own]
    wanted, others = mix.parts(len(samples))
    if wanted > len(samples) or others > len(benign):
        raise PreflightError(
            f"a mixture of {wanted + others:,} rows with a share of {mix.share:g} takes {wanted:,} rows of "
            f"{os.path.basename(source.path)} and {others:,} others of {os.path.basename(mix.into.path)}, which have "
            f"{len(samples):,} and {len(benign):,}; set mix.rows or mix.share to what there is"
        )
    drawn = sorted(random.Random(f"mix {mix.seed}").sample(range(len(benign)), others))
    facts |= {"share": mix.share, "samples": wanted, "benign": others, "into": mix.into.path}
    occurrences: Counter[str] = Counter()
    mixed = []
    for index, row in enumerate([*samples[:wanted], *(benign[place] for place in drawn)]):
        content = _content(row)
        mixed.append(replace(row, row_index=index, row_id=f"{content}-{occurrences[content]}"))
        occurrences[content] += 1
    return mixed


def _content(row: Row) -> str:
    return row.row_id.rpartition("-")[0]
