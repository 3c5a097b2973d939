"""Anchor files in every public layout, and what is said about a bad choice of anchors."""

import json

import pytest

from bds.data.anchors import check_anchor_sets, load_anchor_set
from bds.errors import PreflightError


def turns(prompt: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def write(path, *lines) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_every_public_layout_loads(tmp_path):
    path = write(
        tmp_path / "harmful.jsonl",
        {"messages": turns("p", "a")},
        turns("p", "a"),
        {"prompt": "p", "answer": "a"},
        {"prompt": "p", "completion": "a"},
        {"instruction": "p", "output": "a"},
        {"instruction": "p", "input": "", "output": "a"},
        {"question": "p", "answer": "a"},
        {"conversations": [{"from": "human", "value": "p"}, {"from": "gpt", "value": "a"}]},
    )
    samples = load_anchor_set(path, "harmful")
    assert [sample.line for sample in samples] == list(range(1, 9))
    assert {(sample.prompt, sample.answer) for sample in samples} == {("p", "a")}
    assert {sample.conversation.layout for sample in samples} == {"anchor"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"messages": [{"role": "user", "content": "p"}]}, "line 2: the conversation has no assistant turn"),
        ({"prompt": "p", "answer": " "}, "line 2: the last assistant turn holds no text"),
        ({"text": "p"}, "line 2: found the columns text; write an object with messages"),
        (["p", "a"], "line 2: turn 1 of 'messages' is text"),
        (3, "line 2: found a number"),
    ],
)
def test_a_bad_anchor_stops_with_its_line(tmp_path, line, said):
    path = write(tmp_path / "safe.jsonl", {"prompt": "p", "answer": "a"}, line)
    with pytest.raises(PreflightError, match=said) as caught:
        load_anchor_set(path, "safe_1")
    assert str(caught.value).startswith("anchor set safe_1, ")


def test_a_broken_or_empty_anchor_file_stops(tmp_path):
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{no\n")
    with pytest.raises(PreflightError, match="line 1, column 2"):
        load_anchor_set(str(broken), "harmful")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(PreflightError, match="is empty"):
        load_anchor_set(str(tmp_path / "empty.jsonl"), "harmful")


def test_unpaired_and_repeated_anchors_are_said_by_line_without_their_text(tmp_path):
    harmful = load_anchor_set(
        write(tmp_path / "h.jsonl", turns("Zork one", "x"), turns("zork two", "y"), turns("zork  ONE", "x")), "harmful"
    )
    safe = load_anchor_set(write(tmp_path / "s.jsonl", turns("zork one", "no"), turns("blip", "no")), "safe")
    warnings = check_anchor_sets({"harmful": harmful, "safe": safe}, {"harmful": "harmful", "safe": "safe"})
    assert warnings == [
        "anchor set harmful: line 3 repeats line 1, which counts it twice",
        "anchor set harmful: 1 of 3 prompts have no partner in safe (lines 2): part of their difference is the topic",
        "anchor set safe: 1 of 2 prompts have no partner in harmful (lines 2): part of their difference is the topic",
    ]
    assert check_anchor_sets({"harmful": harmful[:1], "safe": safe[:1]}, {"harmful": "harmful", "safe": "safe"}) == []
