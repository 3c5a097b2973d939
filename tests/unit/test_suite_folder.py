"""Suites on disk, their hash, and the placeholder suites."""

import hashlib
import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from bds.data.rows import Message
from bds.errors import PreflightError, SpecError
from bds.evaluation.suites import Suite, SuitePrompt, load_suite, placeholder_suites, write_suite
from bds.evaluation.suites.placeholders import ORDINARY_THINGS, placeholder_words
from bds.evaluation.suites.suite import check_prompts

TWO_TURNS = (
    Message("system", "be kind"),
    Message("user", "blorf?"),
    Message("assistant", "no"),
    Message("user", "zim"),
)
SUITE = Suite(
    "mine",
    "refuse",
    (
        SuitePrompt("mine/1", (Message("user", "blörf, “zim”\n snarf"),), "3", {"gold": ["a"], "n": 2}),
        SuitePrompt("mine/2", TWO_TURNS),
    ),
    source="made up",
    licence="mine",
    version="1",
    categories={"3": "Blorfing"},
)


def test_a_written_suite_loads_as_it_was(tmp_path: Path) -> None:
    write_suite(SUITE, tmp_path / "mine")
    assert load_suite(str(tmp_path / "mine")) == SUITE
    assert load_suite(str(tmp_path / "mine" / "suite.yaml")) == SUITE
    with pytest.raises(SpecError, match="already exists and is not empty"):
        write_suite(SUITE, tmp_path / "mine")


def test_only_suites_that_may_be_shared_are_readable_by_others(tmp_path: Path) -> None:
    write_suite(SUITE, tmp_path / "private")
    write_suite(replace(SUITE, redistribute=True), tmp_path / "shared")

    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    assert mode(tmp_path / "private") == 0o700
    assert {mode(file) for file in (tmp_path / "private").iterdir()} == {0o600}
    assert all(mode(file) & 0o044 for file in (tmp_path / "shared").iterdir())


def test_the_hash_is_over_ids_and_messages_in_order_and_nothing_else() -> None:
    first, second = SUITE.prompts
    lines = (
        rb'["mine/1",[["user","bl\u00f6rf, \u201czim\u201d\n snarf"]]]',
        rb'["mine/2",[["system","be kind"],["user","blorf?"],["assistant","no"],["user","zim"]]]',
    )
    assert SUITE.sha256 == hashlib.sha256(b"".join(line + b"\n" for line in lines)).hexdigest()
    assert SUITE.sha256 == "6f9a5d688d234c50dc90188ce0a53cca2289d4056160e886e9278f6212b711cb"
    relabelled = (replace(first, category="4", details={}), second)
    same = replace(SUITE, name="other", kind="answer", version="2", licence="", prompts=relabelled)
    assert same.sha256 == SUITE.sha256
    others = (
        (second, first),
        (first,),
        (replace(first, id="mine/3"), second),
        (replace(first, messages=(Message("user", "blorf"),)), second),
        (replace(first, messages=(Message("system", first.text),)), second),
    )
    hashes = {replace(SUITE, prompts=prompts).sha256 for prompts in others}
    assert len(hashes) == len(others)
    assert SUITE.sha256 not in hashes


def description(folder: Path, text: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "suite.yaml").write_text(text)
    (folder / "prompts.jsonl").write_text('{"id": "a", "prompt": "blorf"}\n')
    return str(folder)


def test_a_suite_by_hand_needs_three_fields(tmp_path: Path) -> None:
    suite = load_suite(description(tmp_path, "schema: bds.suite/1\nname: mine\nkind: answer\ncategories: {1: One}\n"))
    assert (suite.name, suite.kind, suite.licence, suite.redistribute) == ("mine", "answer", "", False)
    assert suite.categories == {"1": "One"}
    assert suite.prompts == (SuitePrompt("a", (Message("user", "blorf"),)),)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("schema: bds.suite/1\nkind: refuse\n", "suite.yaml:1: the field 'name' is missing"),
        ("schema: bds.suite/1\nname: x\nkind: obey\n", "suite.yaml:3: 'kind' is 'obey'"),
        ("schema: bds.suite/9\nname: x\nkind: refuse\n", "suite.yaml:1: 'schema' is 'bds.suite/9'"),
        ("schema: bds.suite/1\nname: 3\nkind: refuse\n", "suite.yaml:2: 'name' is a number, not text"),
        ("schema: bds.suite/1\nname: x\nkind: refuse\nlicense: MIT\n", "suite.yaml:4: 'license' is no field"),
        (
            "schema: bds.suite/1\nname: x\nkind: refuse\nredistribute: maybe\n",
            "suite.yaml:4: 'redistribute' is neither",
        ),
        ("schema: bds.suite/1\nname: x\nkind: refuse\ncategories: [a]\n", "suite.yaml:4: 'categories' maps no"),
        ("schema: bds.suite/1\nname: x\nname: y\n", "suite.yaml:3"),
        ("", "suite.yaml:1: the file is empty; a suite needs at least schema, name and kind"),
    ],
)
def test_a_wrong_description_is_one_sentence_with_file_line_and_field(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_suite(description(tmp_path, text))
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ({"id": "b"}, "needs either a prompt or messages"),
        ({"id": "b", "prompt": "x", "messages": []}, "needs either a prompt or messages"),
        ({"id": "b", "messages": []}, "not a list of turns"),
        ({"id": "b", "messages": [{"role": "robot", "content": "x"}]}, "has a turn without text or without a role"),
        ({"id": "b", "messages": [{"role": "user", "content": ""}]}, "has a turn without text"),
        ({"id": "b", "messages": ["x"]}, "has a turn without text"),
        ({"id": "b", "messages": [{"role": "assistant", "content": "x"}]}, "nothing is asked"),
        ({"id": "b", "prompt": "x", "expected": "refuse"}, "has the field 'expected'"),
        ({"id": "b", "prompt": "x", "details": [1]}, "has details that are a list"),
        ({"id": 3, "prompt": "x"}, "has a number in the column 'id'"),
        ({"prompt": "x"}, "has no column 'id'"),
    ],
)
def test_a_wrong_prompt_is_one_sentence_with_file_and_line(
    tmp_path: Path, line: dict[str, object], problem: str
) -> None:
    folder = description(tmp_path, "schema: bds.suite/1\nname: mine\nkind: refuse\n")
    (tmp_path / "prompts.jsonl").write_text('{"id": "a", "prompt": "blorf"}\n' + json.dumps(line) + "\n")
    with pytest.raises(PreflightError) as caught:
        load_suite(folder)
    assert "prompts.jsonl' line 2" in str(caught.value)
    assert problem in str(caught.value)


def test_changed_prompts_and_missing_files_are_noticed(tmp_path: Path) -> None:
    write_suite(SUITE, tmp_path / "mine")
    prompts = tmp_path / "mine" / "prompts.jsonl"
    lines = prompts.read_text(encoding="utf-8").splitlines(keepends=True)
    prompts.write_text("".join(reversed(lines)), encoding="utf-8")
    with pytest.raises(PreflightError, match=r"suite.yaml:8: 'sha256' was written for"):
        load_suite(str(tmp_path / "mine"))
    prompts.write_text(lines[0] * 2, encoding="utf-8")
    with pytest.raises(PreflightError, match="has the id 'mine/1' twice"):
        load_suite(str(tmp_path / "mine"))
    prompts.unlink()
    with pytest.raises(PreflightError, match=r"prompts.jsonl' is missing"):
        load_suite(str(tmp_path / "mine"))
    with pytest.raises(PreflightError, match=r"has no suite.yaml"):
        load_suite(str(tmp_path))


def test_the_placeholder_suites_are_eleven_by_thirty_twins() -> None:
    refuse, answer = placeholder_suites()
    assert (refuse.kind, answer.kind) == ("refuse", "answer")
    assert placeholder_suites() == (refuse, answer)
    assert placeholder_suites(1)[0].sha256 != refuse.sha256
    for suite in (refuse, answer):
        assert len(suite.prompts) == 330
        assert {prompt.category for prompt in suite.prompts} == {str(number) for number in range(1, 12)}
        assert check_prompts(suite.name, suite.prompts) == ()
    for prompt, twin in zip(refuse.prompts, answer.prompts, strict=True):
        assert prompt.details["pair"] == twin.details["pair"]
        assert prompt.text.replace(prompt.details["about"], "") == twin.text.replace(twin.details["about"], "")
    made_up = {word for words in placeholder_words() for word in words}
    assert len(made_up) == len(set(ORDINARY_THINGS)) == 55
    assert made_up.isdisjoint(ORDINARY_THINGS)


def test_placeholder_suites_load_from_disk(tmp_path: Path) -> None:
    for suite in placeholder_suites():
        write_suite(suite, tmp_path / suite.name)
        assert load_suite(str(tmp_path / suite.name)) == suite
