"""Selected records in the input's own container, read back the same."""

import datetime
import io
import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bds.data import write
from bds.data.files import read_records
from bds.data.reader import extension_of, read_rows
from bds.data.write import table_schema, write_records
from bds.spec.models import DataSpec


def encoded(records, extension, schema=None):
    file = io.BytesIO()
    write_records(file, records, extension, schema)
    return file.getvalue()


def written_like(records, source, stem):
    """The file that a selection becomes."""
    path = stem.with_name(stem.name + extension_of(str(source)))
    path.write_bytes(encoded(records, extension_of(str(source)), table_schema(str(source))))
    return str(path)


EXTENSIONS = [f"{c}{z}" for c in (".json", ".jsonl", ".ndjson", ".csv", ".parquet") for z in ("", ".gz", ".zst")]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
RECORDS = st.lists(st.fixed_dictionaries({"question": TEXT, "answer": TEXT, "id": TEXT}), min_size=1, max_size=5)


@settings(max_examples=150, deadline=None)
@given(records=RECORDS, extension=st.sampled_from(EXTENSIONS))
def test_written_records_read_back_equal(tmp_path_factory, records, extension):
    path = tmp_path_factory.mktemp("records") / f"records{extension}"
    path.write_bytes(encoded(records, extension))
    assert [record.value for record in read_records(str(path))] == records
    assert encoded(records, extension) == path.read_bytes()


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_a_selection_has_the_inputs_container_and_rows(tmp_path, extension):
    records = [{"question": f"q{i}", "answer": 'a\r\n😀,"', "id": str(i)} for i in range(5)]
    source = tmp_path / f"source{extension}"
    source.write_bytes(encoded(records, extension))
    rows = list(read_rows(DataSpec(path=str(source))))
    chosen = [rows[3], rows[1]]
    written = written_like([row.record for row in chosen], source, tmp_path / "top")
    assert written == str(tmp_path / f"top{extension}")
    again = list(read_rows(DataSpec(path=written)))
    assert [(row.conversation, row.record) for row in again] == [(row.conversation, row.record) for row in chosen]
    assert written_like([], source, tmp_path / "none") == str(tmp_path / f"none{extension}")


def test_parquet_keeps_its_column_types(tmp_path):
    schema = pyarrow.schema(
        [
            ("question", pyarrow.large_string()),
            ("answer", pyarrow.string()),
            ("n", pyarrow.int16()),
            ("day", pyarrow.date32()),
        ]
    )
    records = [
        {"question": "q", "answer": "a", "n": 3, "day": datetime.date(2024, 7, 26)},
        {"question": "r", "answer": "b"},
    ]
    source = tmp_path / "source.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records, schema), source)
    rows = list(read_rows(DataSpec(path=str(source))))
    written = written_like([row.record for row in rows], source, tmp_path / "out")
    assert pyarrow.parquet.read_schema(written) == schema
    assert pyarrow.parquet.read_table(written).equals(pyarrow.parquet.read_table(source))


def test_a_hugging_face_dataset_is_written_as_parquet(tmp_path):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    datasets.Dataset.from_list([{"messages": turns}]).save_to_disk(tmp_path / "saved")
    rows = list(read_rows(DataSpec(path=str(tmp_path / "saved"))))
    written = written_like([row.record for row in rows], tmp_path / "saved", tmp_path / "out")
    assert written.endswith("out.parquet")
    assert [row.conversation for row in read_rows(DataSpec(path=written))] == [rows[0].conversation]


def test_json_is_readable_by_people_and_keeps_what_utf8_cannot_hold():
    assert encoded([{"a": "é"}], ".json").decode() == '[\n  {\n    "a": "é"\n  }\n]\n'
    assert json.loads(encoded([{"a": "\ud83d"}], ".jsonl")) == {"a": "\ud83d"}


@given(st.lists(st.dictionaries(TEXT, st.one_of(TEXT, st.integers(), st.lists(st.integers())), max_size=3), max_size=4))
def test_a_json_array_is_the_bytes_of_the_whole_list(records):
    assert encoded(records, ".json").decode() == json.dumps(records, ensure_ascii=False, indent=2) + "\n"


def test_columns_and_types_are_those_of_all_records_however_many_are_taken_at_once(monkeypatch):
    """A later block has a column, a type and a field that the first one lacks."""
    records = [
        {"a": None, "n": 1},
        {"a": "x", "n": 2},
        {"a": "y", "n": 2.5, "more": {"k": 1}},
        {"more": {"k": 2, "j": "z"}},
    ]
    whole = encoded(records, ".parquet")
    monkeypatch.setattr(write, "_RECORDS_AT_ONCE", 1)
    read = [pyarrow.parquet.read_table(io.BytesIO(content)) for content in (whole, encoded(records, ".parquet"))]
    assert read[0].schema == read[1].schema
    assert read[0].to_pylist() == read[1].to_pylist()
    assert read[0]["more"].to_pylist() == [None, None, {"k": 1, "j": None}, {"k": 2, "j": "z"}]
    assert encoded(records[:3], ".csv").splitlines()[0] == b"a,n,more"
