"""Rows: identity, order, statuses, and that none is lost."""

import hashlib
import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bds.data.reader import open_dataset, read_rows
from bds.data.rows import STATUSES
from bds.errors import PreflightError, SpecError
from bds.spec.models import DataSpec


def write_lines(path, lines) -> str:
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return str(path)


def jsonl(path, values) -> str:
    return write_lines(path, [json.dumps(value) + "\n" for value in values])


def test_row_id_is_the_hash_of_the_content_and_its_occurrence(tmp_path):
    rows = list(read_rows(DataSpec(path=jsonl(tmp_path / "a.jsonl", [{"question": "q", "answer": "a"}] * 2))))
    expected = hashlib.sha256(b'[["user","q"],["assistant","a"]]').hexdigest()[:16]
    assert [row.row_id for row in rows] == [f"{expected}-0", f"{expected}-1"]
    assert [(row.row_index, row.line) for row in rows] == [(0, 1), (1, 2)]


def test_the_same_content_has_the_same_id_in_any_format(tmp_path):
    gsm8k = jsonl(tmp_path / "a.jsonl", [{"question": "q", "answer": "a"}])
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    messages = jsonl(tmp_path / "b.jsonl", [{"messages": turns, "source": "x"}])
    ids = [next(read_rows(DataSpec(path=path))).row_id for path in (gsm8k, messages)]
    assert ids[0] == ids[1]


def test_bad_rows_are_rows_with_a_status(tmp_path):
    path = write_lines(
        tmp_path / "a.jsonl",
        [
            '{"instruction": "a", "output": "b"}\n',
            "{broken\n",
            '{"question": "q", "answer": "a"}\n',
            '{"instruction": "a", "output": ""}\n',
            '{"instruction": "a", "output": null}\n',
            "{broken\n",
            '{"instruction": "a", "output": "b", "input": {"x": [null]}}\n',
        ],
    )
    rows = list(read_rows(DataSpec(path=path)))
    assert [row.status for row in rows] == [
        "ok",
        "malformed",
        "malformed",
        "empty_answer",
        "malformed",
        "malformed",
        "malformed",
    ]
    assert all(row.reason for row in rows[1:])
    assert rows[1].row_id.removesuffix("-0") == rows[5].row_id.removesuffix("-1")
    assert rows[1].row_id[:16] == hashlib.sha256(b"{broken").hexdigest()[:16]
    assert rows[2].record == {"question": "q", "answer": "a"}
    assert rows[2].reason == "column 'instruction' is missing; this row has question, answer"


def test_limit_reads_the_first_rows(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"question": str(i), "answer": "a"} for i in range(300)])
    whole = list(read_rows(DataSpec(path=path)))
    assert list(read_rows(DataSpec(path=path, limit=150))) == whole[:150]
    assert list(read_rows(DataSpec(path=path, limit=3))) == whole[:3]
    assert [row.row_index for row in whole] == list(range(300))


def test_the_dataset_says_what_it_found(tmp_path):
    path = jsonl(tmp_path / "a.jsonl.gz"[:-3], [{"question": "q", "answer": "a", "id": 1}])
    dataset = open_dataset(DataSpec(path=path))
    assert (dataset.format.name, dataset.detected, dataset.columns) == ("gsm8k", True, ("question", "answer", "id"))
    assert dataset.extension == ".jsonl"
    assert dataset.describe() == f"{path}: format gsm8k, detected from the columns question, answer, id"
    mapped = open_dataset(DataSpec(path=path, columns={"prompt": "answer", "answer": "question"}))
    assert (mapped.format.name, mapped.detected) == ("columns", False)
    with pytest.raises(SpecError, match="which the data does not have"):
        list(read_rows(DataSpec(path=path, columns={"prompt": "answer", "answer": "reply"})))


def test_a_file_that_is_something_else_is_one_sentence(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", ["a,b\n", "1,2\n"])
    with pytest.raises(PreflightError, match=r"None of the first 2 rows of .* line 1, column 1"):
        open_dataset(DataSpec(path=path))


TURNS = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "assistant", "system", "tool"]),
            "content": st.one_of(st.none(), st.text(max_size=5)),
        }
    ),
    max_size=4,
)
LINES = st.one_of(
    st.fixed_dictionaries({"messages": TURNS}).map(json.dumps),
    st.just('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'),
    st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
        lambda text: text.encode().strip()
    ),
)


@settings(max_examples=100, deadline=None)
@given(lines=st.lists(LINES, max_size=12))
def test_every_line_is_one_row_with_its_own_id(tmp_path_factory, lines):
    good = '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}'
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_bytes("".join(line + "\n" for line in [good, *lines]).encode())
    rows = list(read_rows(DataSpec(path=str(path))))
    assert len(rows) == len(lines) + 1
    assert len({row.row_id for row in rows}) == len(rows)
    assert all(row.status in STATUSES and (row.status == "ok") == (row.conversation is not None) for row in rows)
    assert all(bool(row.reason) == (row.status != "ok") for row in rows)


@settings(max_examples=50, deadline=None)
@given(lines=st.lists(LINES, max_size=8), data=st.data())
def test_ids_do_not_depend_on_the_order_of_the_rows(tmp_path_factory, lines, data):
    good = '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}'
    shuffled = data.draw(st.permutations(lines))
    folder = tmp_path_factory.mktemp("rows")
    ids = []
    for name, content in (("a", lines), ("b", shuffled)):
        path = folder / f"{name}.jsonl"
        path.write_bytes("".join(line + "\n" for line in [good, *content]).encode())
        ids.append(Counter(row.row_id for row in read_rows(DataSpec(path=str(path)))))
    assert ids[0] == ids[1]
