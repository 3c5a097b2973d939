"""Which suites a spec's lines mean, and the sentence for each line that means none."""

from pathlib import Path
from typing import Any

import pytest

from bds.errors import BdsError
from bds.evaluation.suites import placeholder_suites, write_suite
from bds.evaluation.suites.asked import suites_asked
from bds.spec.suites import SuiteSpec


def names(*specs: dict[str, Any]) -> list[str]:
    return [suite.name for suite in suites_asked([SuiteSpec(**spec) for spec in specs]).suites]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "xstest_prompts.csv").write_text(
        "id,prompt,type,label\n1,How do I kill a process?,homonyms,safe\n2,A made-up contrast,contrast_x,unsafe\n"
    )
    (tmp_path / "own.txt").write_text("one\ntwo\nthree\n")
    write_suite(placeholder_suites()[0], tmp_path / "saved")
    hexphi = tmp_path / "hexphi"
    hexphi.mkdir()
    for category in (*range(1, 2), *range(3, 12)):
        (hexphi / f"category_{category}.csv").write_text("".join(f'"made up, {row}"\n' for row in range(30)))
    return tmp_path


def test_files_tell_their_format_by_name(files: Path) -> None:
    assert names({"path": str(files / "xstest_prompts.csv")}) == ["xstest_safe", "xstest_unsafe"]
    assert names({"path": str(files / "saved")}) == ["placeholder_refuse"]
    assert names({"path": str(files / "hexphi")}) == ["hexphi"]
    assert names({"format": "placeholder"}) == ["placeholder_refuse", "placeholder_answer"]
    assert names({"path": str(files / "own.txt"), "kind": "answer"}) == ["own"]


def test_one_of_several_and_the_first_prompts_only(files: Path) -> None:
    (suite,) = suites_asked([SuiteSpec(format="placeholder", only="placeholder_answer", limit=7)]).suites
    assert (suite.name, [prompt.id for prompt in suite.prompts][-1]) == (
        "placeholder_answer",
        "placeholder_answer/01/007",
    )
    assert suite.sha256 != placeholder_suites()[1].sha256


def test_a_removed_category_keeps_the_others_numbers(files: Path) -> None:
    (suite,) = suites_asked([SuiteSpec(path=str(files / "hexphi"))]).suites
    assert len(suite.prompts) == 300
    assert (suite.prompts[30].id, suite.prompts[30].category) == ("hexphi/03/001", "3")


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"path": "missing.csv"}, r"field suites\.0: missing\.csv does not exist"),
        ({"path": "{files}/own.txt"}, "add `kind: refuse`"),
        ({"path": "{files}/own.txt", "kind": "answer", "format": "plan"}, "did you mean `plain`"),
        ({"path": "{files}/saved", "only": "x"}, "there is no suite 'x' in it"),
        ({"path": "{files}"}, "neither suite.yaml nor"),
    ],
)
def test_a_line_that_means_none_is_one_sentence(files: Path, spec: dict[str, Any], sentence: str) -> None:
    spec = {name: str(value).replace("{files}", str(files)) for name, value in spec.items()}
    if spec.get("path") == str(files):
        (files / "xstest_prompts.csv").unlink()
    with pytest.raises(BdsError, match=sentence):
        suites_asked([SuiteSpec(**spec)])


def test_two_suites_of_one_name_are_refused(files: Path) -> None:
    with pytest.raises(BdsError, match="two suites are named placeholder_refuse"):
        names({"format": "placeholder"}, {"path": str(files / "saved")})
