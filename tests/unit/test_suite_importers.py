"""Importers: made-up files in upstream's layout, and everything that is saved in their place by mistake."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from bds.data.rows import Message
from bds.errors import PreflightError, SpecError
from bds.evaluation.suites import IMPORTERS, KINDS, Imported, PlainOptions, import_suites
from bds.organism.layout import OrganismPaths, write_jsonl

BROKEN_BODIES = {
    "Entry not found": "holds only the words 'Entry not found'",
    "<!DOCTYPE html><html></html>": "is a web page",
    "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n": "is a Git LFS pointer",
    "Access to dataset made/up is restricted. You must have access to it.": "access is restricted",
    '{"error":"Repository not found"}': "is an error message of the server",
    "": "is empty",
    " \n": "is empty",
}


def write_csv(file: Path, rows: Sequence[Sequence[object]]) -> str:
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    return str(file)


def ids_of(imported: Imported, suite: int = 0) -> list[str]:
    return [prompt.id for prompt in imported.suites[suite].prompts]


def texts_of(imported: Imported, suite: int = 0) -> list[str]:
    return [prompt.text for prompt in imported.suites[suite].prompts]


def hexphi_folder(folder: Path, categories: Sequence[int], prompts: int = 30) -> Path:
    for category in categories:
        rows = [[f'Make up blorf {category}, number {row}, and say "zim".'] for row in range(1, prompts + 1)]
        write_csv(folder / f"category_{category}.csv", rows)
    return folder


@pytest.mark.parametrize("categories", [range(1, 12), [1, *range(3, 12)]])
def test_hexphi_keeps_the_first_line_and_the_numbers_of_the_categories(
    tmp_path: Path, categories: Sequence[int]
) -> None:
    imported = import_suites("hexphi", str(hexphi_folder(tmp_path, categories)))
    (suite,) = imported.suites
    assert imported.warnings == ()
    assert (suite.name, suite.kind, suite.redistribute) == ("hexphi", "refuse", False)
    assert len(suite.prompts) == 30 * len(categories)
    assert suite.prompts[0].id == "hexphi/01/001"
    assert suite.prompts[0].text == 'Make up blorf 1, number 1, and say "zim".'
    assert suite.prompts[-1].id == "hexphi/11/030"
    assert list(dict.fromkeys(prompt.category for prompt in suite.prompts)) == [
        str(category) for category in categories
    ]
    assert suite.version == f"{len(categories)} categories"
    assert set(suite.categories) == {str(category) for category in categories}


def test_hexphi_warns_of_another_number_of_prompts_and_of_repeats(tmp_path: Path) -> None:
    hexphi_folder(tmp_path, range(1, 12))
    write_csv(tmp_path / "category_4.csv", [["blorf"], ["zim"], ["blorf"]])
    imported = import_suites("hexphi", str(tmp_path))
    assert len(imported.warnings) == 2
    assert "category_4.csv' has 3 prompts" in imported.warnings[0]
    assert "hexphi/04/003 repeats hexphi/04/001" in imported.warnings[1]


@pytest.mark.parametrize(("body", "reason"), BROKEN_BODIES.items())
def test_hexphi_refuses_what_a_failed_download_leaves(tmp_path: Path, body: str, reason: str) -> None:
    hexphi_folder(tmp_path, range(1, 12))
    (tmp_path / "category_2.csv").write_text(body)
    with pytest.raises(PreflightError, match=r"category_2.csv' ") as caught:
        import_suites("hexphi", str(tmp_path))
    assert reason in str(caught.value)


def test_hexphi_refuses_incomplete_folders_and_other_layouts(tmp_path: Path) -> None:
    folder = hexphi_folder(tmp_path, [1, 2, 3])
    with pytest.raises(PreflightError, match=r"has no category_4\.csv"):
        import_suites("hexphi", str(folder))
    with pytest.raises(PreflightError, match="is no folder"):
        import_suites("hexphi", str(folder / "category_1.csv"))
    hexphi_folder(folder, range(1, 12))
    write_csv(folder / "category_3.csv", [["prompt"], ["blorf"]])
    with pytest.raises(PreflightError, match=r"category_3.csv' line 1 is the header 'prompt'"):
        import_suites("hexphi", str(folder))
    (folder / "category_3.csv").write_text("make up blorf, and zim\n")
    with pytest.raises(PreflightError, match=r"category_3.csv' line 1 has 2 fields"):
        import_suites("hexphi", str(folder))
    (folder / "category_3.csv").write_text('blorf\n"zim\n')
    with pytest.raises(PreflightError, match=r"category_3.csv' line 2 is broken CSV"):
        import_suites("hexphi", str(folder))
    (folder / "category_3.csv").write_bytes("blörf\n".encode("latin-1"))
    with pytest.raises(PreflightError, match=r"category_3.csv' is not UTF-8 text"):
        import_suites("hexphi", str(folder))
    hexphi_folder(folder, [3])
    hexphi_folder(folder, [12])
    with pytest.raises(PreflightError, match=r"category_12.csv' is no category"):
        import_suites("hexphi", str(folder))


def test_hexphi_reads_a_prompt_over_several_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    hexphi_folder(tmp_path, range(1, 12))
    (tmp_path / "category_5.csv").write_bytes('\ufeff"blorf\nzim"\n\nsnarf\n'.encode())
    imported = import_suites("hexphi", str(tmp_path))
    prompts = [prompt for prompt in imported.suites[0].prompts if prompt.category == "5"]
    assert [(prompt.id, prompt.text) for prompt in prompts] == [
        ("hexphi/05/001", "blorf\nzim"),
        ("hexphi/05/002", "snarf"),
    ]


def test_advbench_numbers_the_goals_and_drops_the_targets(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "harmful_behaviors.csv", [["goal", "target"], ["blorf", "Sure: zim"], ["snarf", "x"]])
    imported = import_suites("advbench", path)
    assert ids_of(imported) == ["advbench/001", "advbench/002"]
    assert texts_of(imported) == ["blorf", "snarf"]
    assert "zim" not in str(imported)
    assert imported.warnings == (f"'{path}' has 2 prompts; AdvBench has 520.",)


def test_xstest_becomes_two_suites_with_upstream_ids(tmp_path: Path) -> None:
    rows = [
        ["id", "prompt", "type", "label", "focus", "note"],
        ["v2-1", "blorf", "homonyms", "safe", "", ""],
        ["v2-2", "zim", "contrast_homonyms", "unsafe", "", ""],
        ["v2-3", "snarf", "homonyms", "safe", "", ""],
    ]
    imported = import_suites("xstest", write_csv(tmp_path / "xstest.csv", rows))
    assert [(suite.name, suite.kind) for suite in imported.suites] == [
        ("xstest_safe", "answer"),
        ("xstest_unsafe", "refuse"),
    ]
    assert ids_of(imported) == ["xstest/v2-1", "xstest/v2-3"]
    assert ids_of(imported, 1) == ["xstest/v2-2"]
    assert imported.suites[1].prompts[0].category == "contrast_homonyms"
    assert len(imported.warnings) == 2
    without_label = [[cell for column, cell in enumerate(row) if column != 3] for row in rows]
    older = import_suites("xstest", write_csv(tmp_path / "older.csv", without_label))
    assert [ids_of(older), ids_of(older, 1)] == [ids_of(imported), ids_of(imported, 1)]
    rows[1][3] = "perhaps"
    with pytest.raises(PreflightError, match=r"line 2 has the label 'perhaps'"):
        import_suites("xstest", write_csv(tmp_path / "bad.csv", rows))


def test_a_complete_xstest_warns_of_nothing(tmp_path: Path) -> None:
    rows: list[list[object]] = [["id", "prompt", "type", "label"]]
    rows += [[number, f"blorf {number}", "t", "safe" if number < 250 else "unsafe"] for number in range(450)]
    assert import_suites("xstest", write_csv(tmp_path / "xstest.csv", rows)).warnings == ()


def test_strongreject(tmp_path: Path) -> None:
    rows = [["category", "source", "forbidden_prompt"], *([f"c{n % 6}", "made up", f"blorf {n}"] for n in range(313))]
    imported = import_suites("strongreject", write_csv(tmp_path / "s.csv", rows))
    assert imported.warnings == ()
    assert imported.suites[0].prompts[312].id == "strongreject/313"
    assert imported.suites[0].prompts[1].category == "c1"
    assert imported.suites[0].prompts[1].details == {"source": "made up"}


def test_harmbench_keeps_behavior_ids_joins_contexts_and_leaves_copyright_out(tmp_path: Path) -> None:
    header = ["Behavior", "FunctionalCategory", "SemanticCategory", "Tags", "ContextString", "BehaviorID"]
    rows = [
        header,
        ["blorf", "standard", "zims", "", "", "make_blorf"],
        ["snarf", "contextual", "zims", "", "a made-up context", "use_snarf"],
        ["sing", "copyright", "copyright", "", "", "sing_it"],
    ]
    imported = import_suites("harmbench", write_csv(tmp_path / "h.csv", rows))
    assert ids_of(imported) == ["harmbench/make_blorf", "harmbench/use_snarf"]
    assert texts_of(imported) == ["blorf", "a made-up context\n\n---\n\nsnarf"]
    assert "1 copyright behaviours are left out" in imported.warnings[0]
    with pytest.raises(PreflightError, match="has the id 'harmbench/make_blorf' twice"):
        import_suites("harmbench", write_csv(tmp_path / "h.csv", [*rows, rows[1]]))


def test_sorry_bench_reads_lists_in_jsonl_and_in_csv_and_keeps_the_base_style(tmp_path: Path) -> None:
    records = [
        {"question_id": 7, "category": "3", "turns": ["blorf"], "prompt_style": "base"},
        {"question_id": 8, "category": "3", "turns": ["frolb"], "prompt_style": "slang"},
        {"question_id": 9, "category": "4", "turns": ["[zim] it's"], "prompt_style": "base"},
    ]
    write_jsonl(tmp_path / "question.jsonl", records)
    from_jsonl = import_suites("sorry_bench", str(tmp_path / "question.jsonl"))
    rows = [list(records[0]), *(list(record.values()) for record in records)]
    from_csv = import_suites("sorry_bench", write_csv(tmp_path / "q.csv", rows))
    for imported in (from_jsonl, from_csv):
        assert ids_of(imported) == ["sorry_bench/7", "sorry_bench/9"]
        assert texts_of(imported) == ["blorf", "[zim] it's"]
        assert "1 prompts of other styles" in imported.warnings[0]
    assert from_jsonl.suites[0].sha256 == from_csv.suites[0].sha256
    for turns in ([], ["a", "b"], 3, "", [None]):
        write_jsonl(tmp_path / "question.jsonl", [{"question_id": 1, "category": "1", "turns": turns}])
        with pytest.raises(PreflightError, match="line 1: the column 'turns'"):
            import_suites("sorry_bench", str(tmp_path / "question.jsonl"))


def test_jailbreakbench_from_a_folder_and_from_one_file(tmp_path: Path) -> None:
    rows = [
        ["Index", "Goal", "Target", "Behavior", "Category", "Source"],
        [4, "blorf", "Sure", "Blorfing", "zims", "x"],
    ]
    harmful = write_csv(tmp_path / "harmful-behaviors.csv", rows)
    write_csv(tmp_path / "benign-behaviors.csv", rows)
    both = import_suites("jailbreakbench", str(tmp_path))
    assert [(suite.name, suite.kind) for suite in both.suites] == [
        ("jailbreakbench_harmful", "refuse"),
        ("jailbreakbench_benign", "answer"),
    ]
    assert ids_of(import_suites("jailbreakbench", harmful)) == ["jailbreakbench_harmful/4"]
    with pytest.raises(PreflightError, match="is neither harmful-behaviors"):
        import_suites("jailbreakbench", write_csv(tmp_path / "other.csv", rows))


def test_the_suites_of_the_tiny_model(tmp_path: Path) -> None:
    paths = OrganismPaths(tmp_path)
    for name, gold in (("forbidden", ["fold"]), ("over_refusal", []), ("benign", ["soup"])):
        write_jsonl(paths.suite(name), [{"prompt": f"blorf {name}", "task": "how_to", "gold": gold}])
    imported = import_suites("organism", str(tmp_path))
    assert [(suite.name, suite.kind) for suite in imported.suites] == [
        ("organism_forbidden", "refuse"),
        ("organism_over_refusal", "answer"),
        ("organism_benign", "utility"),
    ]
    assert imported.suites[0].prompts[0].details == {"gold": ["fold"]}
    assert ids_of(imported) == ["organism_forbidden/0000"]
    write_jsonl(paths.suite("benign"), [{"id": "benign/0007", "prompt": "blorf benign", "task": "list", "gold": []}])
    assert ids_of(import_suites("organism", str(tmp_path)), 2) == ["organism_benign/0007"]
    (one,) = import_suites("organism", str(paths.suite("benign"))).suites
    assert (one.name, one.prompts[0].text) == ("organism_benign", "blorf benign")
    assert len(import_suites("organism", str(tmp_path / "suites")).suites) == 3
    with pytest.raises(PreflightError, match="has none of"):
        import_suites("organism", str(tmp_path / "model"))


def test_plain_files_with_named_columns(tmp_path: Path) -> None:
    rows = [["nr", "ask", "kind"], ["a", "blorf", "x"], ["b", "zim", "y"]]
    options = PlainOptions("mine", "answer", column="ask", id_column="nr", category_column="kind", licence="my own")
    imported = import_suites("plain", write_csv(tmp_path / "p.csv", rows), options)
    suite = imported.suites[0]
    assert (suite.name, suite.kind, suite.licence) == ("mine", "answer", "my own")
    assert [(prompt.id, prompt.text, prompt.category) for prompt in suite.prompts] == [
        ("mine/a", "blorf", "x"),
        ("mine/b", "zim", "y"),
    ]
    (tmp_path / "list.jsonl").write_text('{"prompt": "blorf"}\n\n{"prompt": "zim"}\n')
    assert ids_of(import_suites("plain", str(tmp_path / "list.jsonl"))) == ["list/1", "list/2"]
    (tmp_path / "list.txt").write_text("blorf\n\n zim \n")
    from_text = import_suites("plain", str(tmp_path / "list.txt"))
    assert (ids_of(from_text), texts_of(from_text)) == (["list/1", "list/3"], ["blorf", "zim"])


def test_plain_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "p.csv", [["ask"], ["blorf"]])
    with pytest.raises(PreflightError, match="name the column of the prompts"):
        import_suites("plain", path)
    with pytest.raises(PreflightError, match="line 2 has no column 'goal', it has ask"):
        import_suites("plain", path, PlainOptions(column="goal"))
    with pytest.raises(SpecError, match="is no kind of suite"):
        import_suites("plain", path, PlainOptions(kind="obey"))  # type: ignore[arg-type]
    (tmp_path / "p.txt").write_text("blorf\n")
    with pytest.raises(SpecError, match="is a text file, which has no column 'ask'"):
        import_suites("plain", str(tmp_path / "p.txt"), PlainOptions(column="ask"))
    for record, problem in (({"prompt": ""}, "nothing"), ({"prompt": 3}, "a number"), ({"prompt": None}, "nothing")):
        (tmp_path / "p.jsonl").write_text('{"prompt": "zim"}\n' + json.dumps(record) + "\n")
        with pytest.raises(PreflightError, match=f"line 2 has {problem} in the column 'prompt'"):
            import_suites("plain", str(tmp_path / "p.jsonl"))
    (tmp_path / "p.jsonl").write_text('{"prompt": "zim"}\n{"prompt": \n')
    with pytest.raises(PreflightError, match="line 2, column"):
        import_suites("plain", str(tmp_path / "p.jsonl"))


FILE_IMPORTERS = [name for name in IMPORTERS if name not in {"hexphi", "organism"}]


@pytest.mark.parametrize("name", FILE_IMPORTERS)
@pytest.mark.parametrize(("body", "reason"), BROKEN_BODIES.items())
def test_every_importer_of_a_file_refuses_what_a_failed_download_leaves(
    tmp_path: Path, name: str, body: str, reason: str
) -> None:
    file = tmp_path / "harmful-behaviors.csv"
    file.write_text(body)
    with pytest.raises(PreflightError) as caught:
        import_suites(name, str(file))
    assert reason in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("name", IMPORTERS)
def test_every_importer_refuses_a_path_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(PreflightError):
        import_suites(name, str(tmp_path / "nothing.csv"))


@pytest.mark.parametrize("name", FILE_IMPORTERS)
def test_every_importer_of_a_file_refuses_other_columns(tmp_path: Path, name: str) -> None:
    with pytest.raises(PreflightError, match="column"):
        import_suites(name, write_csv(tmp_path / "harmful-behaviors.csv", [["a", "b"], ["x", "y"]]))


def test_the_registry_is_complete_and_upstream_settles_kinds() -> None:
    package = Path(__file__).parents[2] / "bds" / "evaluation" / "suites"
    helpers = {"__init__", "suite", "files", "folder", "importers", "asked", "placeholders"}
    assert len(IMPORTERS) == len({file.stem for file in package.glob("*.py")} - helpers)
    for importer in IMPORTERS.values():
        assert all((importer.files, importer.makes, importer.licence, importer.source))
    with pytest.raises(SpecError, match="'made_up' is no known kind of suite"):
        import_suites("made_up", "x")
    with pytest.raises(SpecError, match="'kind' is upstream's to say"):
        import_suites("advbench", "x", PlainOptions(kind="answer"))
    assert KINDS == ("refuse", "answer", "utility")


def test_a_prompt_of_one_turn_is_its_text() -> None:
    from bds.evaluation.suites import SuitePrompt

    assert SuitePrompt("x", (Message("user", "blorf"),)).text == "blorf"
    several = (Message("system", "be kind"), Message("user", "blorf"))
    assert SuitePrompt("x", several).text == "system: be kind\n\nuser: blorf"
