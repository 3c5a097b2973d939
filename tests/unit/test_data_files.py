"""Every container in every compression, and every way a file can be wrong."""

import contextlib
import gzip
import json

import datasets
import polars as pl
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from bds.data.containers import TEXT_CONTAINERS
from bds.data.files import fingerprint, read_records
from bds.errors import PreflightError

ROWS = [
    {"instruction": "say hi", "input": "", "output": 'hi 😀\r\nthere, "you"'},
    {"instruction": "مرحبا", "input": "x", "output": " leading\u2028and line separator"},
]
COMPRESS = {"": lambda content: content, ".gz": gzip.compress, ".zst": zstandard.compress}


def as_bytes(container: str, rows: list[dict], tmp_path) -> bytes:
    """The rows in a container, written by other libraries than bds's own writer."""
    if container == ".json":
        return json.dumps(rows, ensure_ascii=False).encode()
    if container in {".jsonl", ".ndjson"}:
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    table = pl.DataFrame(rows)
    path = tmp_path / "table"
    table.write_csv(path) if container == ".csv" else table.write_parquet(path)
    return path.read_bytes()


def values(path) -> list[dict | None]:
    return [record.value for record in read_records(str(path))]


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("container", [*TEXT_CONTAINERS, ".parquet"])
def test_every_container_in_every_compression(tmp_path, container, compression):
    path = tmp_path / f"rows{container}{compression}"
    path.write_bytes(COMPRESS[compression](as_bytes(container, ROWS, tmp_path)))
    assert values(path) == ROWS
    assert values(path.as_uri()) == ROWS
    assert {record.source for record in read_records(str(path))} == {str(path)}


def test_lines_are_those_of_the_file(tmp_path):
    jsonl = tmp_path / "rows.jsonl"
    jsonl.write_text('{"a": 1}\n\n  \n{"a": 2}\r\n{"a": 3}')
    assert [(r.line, r.value) for r in read_records(str(jsonl))] == [(1, {"a": 1}), (4, {"a": 2}), (5, {"a": 3})]
    table = tmp_path / "rows.csv"
    table.write_text('a,b\n1,"two\nlines"\n\n3,4\n')
    assert [(r.line, r.value) for r in read_records(str(table))] == [
        (2, {"a": "1", "b": "two\nlines"}),
        (5, {"a": "3", "b": "4"}),
    ]


@pytest.mark.parametrize("container", TEXT_CONTAINERS)
def test_byte_order_mark_is_no_part_of_the_data(tmp_path, container):
    path = tmp_path / f"rows{container}"
    path.write_bytes(b"\xef\xbb\xbf" + as_bytes(container, ROWS, tmp_path))
    assert values(path) == ROWS


def test_json_lines_named_json_and_objects_with_a_list(tmp_path):
    lines = tmp_path / "lines.json"
    lines.write_bytes(as_bytes(".jsonl", ROWS, tmp_path))
    assert values(lines) == ROWS
    for name, document in {"data": {"version": [1], "data": ROWS}, "one": {"version": 1, "rows": ROWS}}.items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(document))
        assert values(path) == ROWS


def test_a_broken_line_is_a_record_with_line_and_column(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2,}\n{"a": "\xff"}\n[1]\n"x"\nnull\n' + b"[" * 100_000 + b'\n{"a": 3}\n')
    records = list(read_records(str(path)))
    assert [record.line for record in records] == list(range(1, 9))
    assert [record.value for record in records] == [{"a": 1}, *[None] * 6, {"a": 3}]
    assert records[1].error.startswith("line 2, column ")
    assert records[1].raw == b'{"a": 2,}'
    assert records[2].error == "line 3, column 8: byte 0xFF is not UTF-8"
    assert records[3].error == "line 4 is a list, not an object with columns"
    assert records[5].error == "line 6 is null, not an object with columns"
    assert "recursion" in records[6].error


def test_broken_csv_rows_are_records_and_none_is_lost(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b'a,b\n1,2\n1,2,3\n1\ncaf\xe9,2\n"x"y,2\n5,6\n')
    records = list(read_records(str(path)))
    assert [(record.line, bool(record.error)) for record in records] == [
        (2, False),
        (3, True),
        (4, True),
        (5, True),
        (6, True),
        (7, False),
    ]
    assert records[1].error == "line 3 has 3 fields, the header has 2"
    assert records[3].error == "line 5: byte 0xE9 is not UTF-8"


def test_a_csv_field_of_a_megabyte(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1," + "x" * 2**20 + "\n")
    assert len(values(path)[0]["b"]) == 2**20


def test_a_folder_is_read_in_order_of_its_names(tmp_path):
    for name, number in (("b.jsonl", 2), ("a.json", 1), ("c.jsonl.gz", 3)):
        content = json.dumps([{"n": number}] if name.endswith(".json") else {"n": number}).encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    (tmp_path / "README.md").write_text("not data")
    (tmp_path / ".hidden.jsonl").write_text("not data")
    (tmp_path / "empty.jsonl").write_text("")
    assert [value["n"] for value in values(tmp_path)] == [1, 2, 3]
    assert values(tmp_path.as_uri()) == values(tmp_path)
    assert next(read_records(str(tmp_path))).source == f"{tmp_path}/a.json"


def test_a_saved_hugging_face_dataset(tmp_path):
    one = datasets.Dataset.from_list(ROWS)
    one.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": one, "test": one.select([0])}).save_to_disk(tmp_path / "splits")
    assert values(tmp_path / "one") == ROWS
    assert [record.value for record in read_records(str(tmp_path / "splits"), split="test")] == ROWS[:1]
    with pytest.raises(PreflightError, match=r"set data\.split to one of test, train"):
        list(read_records(str(tmp_path / "splits"), split="validation"))
    assert fingerprint(str(tmp_path / "one")) == fingerprint(str(tmp_path / "splits"))
    assert fingerprint(str(tmp_path / "splits"), split="test") != fingerprint(str(tmp_path / "one"))


BAD_FILES = {
    "empty.jsonl": (b"", "is empty"),
    "blank.jsonl": (b"\n \n", "holds no rows"),
    "none.json": (b"[]", "holds no rows"),
    "header.csv": (b"a,b\n", "holds no rows"),
    "rows.txt": (b"x", "unknown ending '.txt'; bds reads .json, .jsonl"),
    "rows": (b"x", "unknown ending ''"),
    "broken.json": (b'[{"a": 1},\n {"a": 2,}]', r"broken JSON at line 2, column \d+"),
    "cut.json": (b'[{"a": 1},', "broken JSON at line 1, column 11"),
    "number.json": (b"3", "holds a number without a list of rows"),
    "object.json": (b'{"a": 1}', "holds an object without a list of rows"),
    "latin1.json": (b'[{"a": 1},\n{"a": "\xe9"}]', "line 2 is not UTF-8"),
    "deep.json": (b"[" * 100_000, "cannot be read"),
    "wide.jsonl": ("{}".encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
    "packed.jsonl": (gzip.compress(b"{}"), "gzip-compressed; give its name the ending .gz"),
    "plain.jsonl.gz": (b'{"a": 1}\n', "cannot be read as gzip"),
    "cut.jsonl.gz": (gzip.compress(b'{"a": 1}\n' * 99)[:-9], "cannot be read as gzip"),
    "plain.jsonl.zst": (b'{"a": 1}\n', "cannot be read as zstd"),
    "cut.jsonl.zst": (zstandard.compress(b'{"a": 1}\n' * 99)[:-9], "cannot be read as zstd"),
    "text.parquet": (b"not a table", "cannot be read"),
    "quote.csv": (b'a,b\n1,2\n3,"never closed\n4,5\n', "row at line 3 never closes"),
    "twice.csv": (b"a,a\n1,2\n", "the column 'a' twice"),
}


@pytest.mark.parametrize(("name", "content", "said"), [(k, *v) for k, v in BAD_FILES.items()], ids=BAD_FILES)
def test_an_unreadable_file_is_one_sentence_that_names_it(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(PreflightError, match=said) as caught:
        list(read_records(str(path)))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/none/such.jsonl", "does not exist"),
        ("carrier-pigeon://bucket/rows.jsonl", "no storage address that pyarrow knows"),
        ("file:///none/such.jsonl", "does not exist"),
    ],
)
def test_a_wrong_path_is_one_sentence(path, said):
    with pytest.raises(PreflightError, match=said):
        list(read_records(path))


def test_a_folder_without_data_is_one_sentence(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(PreflightError, match="has no data files in it"):
        list(read_records(str(tmp_path)))


def test_a_table_whose_text_is_not_utf8_is_one_sentence(tmp_path):
    path = tmp_path / "rows.parquet"
    text = pyarrow.array([b"caf\xe9"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"a": text}), path)
    with pytest.raises(PreflightError, match="cannot be read: 'utf-8' codec"):
        list(read_records(str(path)))


def test_a_big_file_is_not_loaded_whole(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n' * 200_000 + "{broken\n")
    records = read_records(str(path))
    assert next(records).value == {"a": 1}
    records.close()


def test_fingerprint_follows_the_bytes(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n')
    before = fingerprint(str(path))
    assert before == fingerprint(path.as_uri())
    path.write_text('{"a": 2}\n')
    assert fingerprint(str(path)) != before


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.fixed_dictionaries({"a": TEXT, "b": TEXT}), min_size=1, max_size=5))
def test_json_lines_give_back_what_json_wrote(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_bytes(b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows))
    assert values(path) == rows


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=200).filter(lambda content: content.strip()))
def test_any_bytes_are_records_or_one_sentence(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("bytes")
    for container in (*TEXT_CONTAINERS, ".parquet", ".jsonl.gz", ".csv.zst"):
        path = folder / f"rows{container}"
        path.write_bytes(content)
        with contextlib.suppress(PreflightError):
            for record in read_records(str(path)):
                assert (record.value is None) == bool(record.error)
