"""The dataset of a spec: its format, and its rows in order with an identity that stays when the order changes."""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from bds.data.files import Record, list_files, read_records
from bds.data.formats import Format, choose_format, columns_of
from bds.data.huggingface import is_huggingface
from bds.data.occurrences import Occurrences
from bds.data.rows import BadRow, Conversation, Row
from bds.data.values import canonical_json
from bds.errors import PreflightError
from bds.spec.models import DataSpec

DETECTION_RECORDS = 100
_ID_HEX_DIGITS = 16


@dataclass(frozen=True)
class Dataset:
    """What was found at `data.path`."""

    path: str
    format: Format
    detected: bool
    """True where the format was found from the columns, not given in the spec."""
    columns: tuple[str, ...]
    """The columns of the first records."""
    extension: str
    """Ending that a dataset written in the same container has, for example .jsonl.gz; .parquet for Hugging Face."""

    def describe(self) -> str:
        """One line that says the format, for the run's log and report."""
        how = "detected from" if self.detected else "as the spec says, of"
        return f"{self.path}: format {self.format.name}, {how} the columns {', '.join(self.columns)}"


def open_dataset(data: DataSpec) -> Dataset:
    """The dataset's format and container, from its first records.

    Raises SpecError or PreflightError, one sentence each, where the data cannot be read or no format fits.
    """
    return _open(data, list(itertools.islice(_records(data), DETECTION_RECORDS)))


def read_rows(data: DataSpec) -> Iterator[Row]:
    """Every row of the dataset in order, the first `data.limit` of them where a limit is set; bad rows with a status.

    A row's id is the first 16 hex digits of the SHA-256 of its canonical content (its messages; the raw record or line
    where there is no conversation), a dash, and how often that content came before. Raises what `open_dataset` raises.
    """
    records = _records(data)
    first = list(itertools.islice(records, DETECTION_RECORDS))
    form = _open(data, first).format
    occurrences = Occurrences()
    for index, record in enumerate(itertools.islice(itertools.chain(first, records), data.limit)):
        status, reason, conversation = _convert(record, form)
        content = content_hash(record, conversation)
        row_id = f"{content}-{occurrences.before(int(content, 16))}"
        yield Row(index, row_id, record.source, record.line, status, reason, conversation, record.value or {})


def content_hash(record: Record, conversation: Conversation | None) -> str:
    """First 16 hex digits of the SHA-256 over the messages, or over the raw record where there is no conversation."""
    if conversation is not None:
        content = canonical_json([[message.role, message.content] for message in conversation.messages])
    elif record.value is not None:
        content = canonical_json(record.value)
    else:
        content = record.raw
    return hashlib.sha256(content).hexdigest()[:_ID_HEX_DIGITS]


def extension_of(path: str) -> str:
    """Ending of a file in the same container as the dataset, for example .jsonl.gz; of a folder's first file."""
    if is_huggingface(path):
        return ".parquet"
    first = list_files(path)[0]
    return first.container + first.compression


def _records(data: DataSpec) -> Iterator[Record]:
    return read_records(data.path, split=data.split, subset=data.subset)


def _open(data: DataSpec, first: list[Record]) -> Dataset:
    values = [record.value for record in first if record.value is not None]
    if not values:
        raise PreflightError(
            f"None of the first {len(first)} rows of '{data.path}' can be read ({first[0].source}, {first[0].error}); "
            "check that its ending says what it is."
        )
    form = choose_format(data.format, data.columns, values)
    detected = data.format == "auto" and data.columns is None
    return Dataset(data.path, form, detected, columns_of(values), extension_of(data.path))


def _convert(record: Record, form: Format) -> tuple[str, str, Conversation | None]:
    if record.value is None:
        return "malformed", record.error, None
    try:
        return "ok", "", form.to_conversation(record.value)
    except BadRow as bad:
        return bad.status, bad.reason, None
