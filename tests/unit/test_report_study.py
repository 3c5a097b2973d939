"""The report of a study: what it says is in study.json, what is missing is told, and every number leads to its rows."""

import csv
import io
import json
import re
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import polars as pl
import pytest

from bds.evaluation.exports.reported import reported_rows
from bds.report.evaluation_measured import Series
from bds.report.study import rewrite_study_report, write_study_report
from bds.report.study_cells import rows_code
from bds.report.study_charts import file_name
from bds.report.study_defence_figures import apart
from bds.report.study_document import Study
from bds.report.study_markdown import escaped
from bds.report.study_verdict import study_verdict
from bds.report.study_words import GRADES
from bds.report.wording import learning_rate, points, rate
from bds.runs.directory import RunDirectory
from bds.studies.grade import GRADES as GRADED_BY
from tests.unit.study_results import JUDGE, SUITE, make_study
from tests.unit.test_report_finetunes import HOSTILE, Page
from tests.unit.test_report_page import LOADING


def write(folder: Path, document: dict[str, Any]) -> str:
    """The page's HTML."""
    assert write_study_report(RunDirectory(str(folder)), document) == str(folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def plain(text: str) -> str:
    return text.replace("\xa0", " ")


def said(document: dict[str, Any]) -> str:
    """All sentences of the verdict."""
    verdict = study_verdict(document)
    parts = ("findings", "cautions", "next_steps", "limits")
    return plain("\n".join([verdict["headline"], *(sentence for part in parts for sentence in verdict[part])]))


def table(folder: Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / f"charts/{name}.csv").read_text(encoding="utf-8"))))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, Any]]:
    """Two models, everything measured, as it stands in the file."""
    folder = tmp_path_factory.mktemp("study")
    html = write(folder, make_study())
    return folder, html, json.loads((folder / "study.json").read_text())


def test_the_page_opens_with_the_verdict_and_has_every_section(two: Any) -> None:
    _, html, document = two
    page = Page(html)
    assert [str(attributes["id"]) for tag, attributes in page.tags if tag == "section"] == [
        *("verdict", "transfer", "selections", "doses", "rates", "defences", "detectors", "categories", "judges"),
        *("grades", "cost", "setup", "cells"),
    ]
    for part in ("findings", "cautions", "next_steps", "limits"):
        for sentence in document["verdict"][part]:
            assert plain(sentence) in plain(page.text)
    assert page.text.count("share of prompts that should be refused and were answered") == 1


def test_the_page_loads_nothing_and_runs_no_script(two: Any) -> None:
    _, html, _ = two
    assert "<script" not in html
    assert "default-src 'none'" in html
    page = Page(html)
    for tag, attributes in page.tags:
        assert tag not in {"link", "img", "iframe", "object", "embed"}
        for name in LOADING:
            value = attributes.get(name)
            assert value is None or tag == "a" or value.startswith("#"), (tag, name, value)


def test_every_link_has_its_target(two: Any) -> None:
    folder, html, document = two
    page = Page(html)
    ids = [str(attributes["id"]) for _, attributes in page.tags if "id" in attributes]
    ours = [name for name in ids if re.fullmatch(r"(cell|target)-\d+", name)]
    assert len(ours) == len(set(ours)) == len(document["cells"]) + len(document["targets"])
    links = [str(attributes["href"]) for tag, attributes in page.tags if tag == "a"]
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    files = {link for link in links if link.startswith("charts/")}
    assert files == {f"charts/{file.name}" for file in (folder / "charts").iterdir()}
    assert {"evaluations/one/report.html", "evaluations/one/rows.parquet", "audits/pool/two/report.html"} <= set(links)


def test_the_links_that_hold_files_are_the_files(two: Any) -> None:
    folder, html, _ = two
    held = [
        attributes for tag, attributes in Page(html).tags if tag == "a" and str(attributes["href"]).startswith("data:")
    ]
    assert {str(each["download"]) for each in held} == {file.name for file in (folder / "charts").iterdir()}
    for each in held:
        content = unquote(str(each["href"]).partition(",")[2])
        assert content == (folder / f"charts/{each['download']}").read_text(encoding="utf-8")


def test_transfer_is_told_alike_by_document_page_markdown_and_file(two: Any) -> None:
    folder, html, document = two
    matrix = next(each for each in document["transfer"] if each["selection"] == "top" and len(each["targets"]) == 2)
    text, markdown = plain(Page(html).text), plain((folder / "report.md").read_text(encoding="utf-8"))
    rows = table(folder, f"transfer-pool-top-plain-{SUITE}")
    assert len(rows) == len(matrix["entries"]) == 4
    for row, entry in zip(rows, matrix["entries"], strict=True):
        assert {name: row[name] for name in ("scorer", "target", "cell", "suite")} == {
            **{name: entry[name] for name in ("scorer", "target", "cell")},
            "suite": SUITE,
        }
        assert float(row["difference"]) == entry["difference"]
        assert float(row["p_adjusted"]) == entry["p_adjusted"]
        assert row["significant"] == str(entry["significant"])
        told = f"{points(entry['difference'])} ▲"
        assert told in text
        assert escaped(told) in markdown
    for average in matrix["averages"].values():
        told = f"{points(average['difference'])} ▲"
        interval = f"{points(average['low'])} to {points(average['high'])}"
        assert f"{told}{interval}" in text
        assert escaped(f"{told} ({interval})") in markdown


def test_every_cell_is_told_with_its_rate_seeds_and_rows(two: Any) -> None:
    folder, html, document = two
    rows = {
        row["cell"]: row
        for file in (folder / "charts").glob("selections-*.csv")
        for row in table(folder, file.stem)
        if row["cell"]
    }
    assert rows.keys() == {cell["id"] for cell in document["cells"]}
    markdown = plain((folder / "report.md").read_text(encoding="utf-8"))
    for place, cell in enumerate(document["cells"], start=1):
        measured = cell["measured"][0]
        assert float(rows[cell["id"]]["value"]) == measured["value"]
        seeds = dict(part.split("=") for part in rows[cell["id"]]["by_seed"].split("; "))
        assert {name: float(value) for name, value in seeds.items()} == measured["by_seed"]
        block = plain(unescape(re.sub(r"<[^>]*>", "", html[html.index(f'id="cell-{place}"') :].split("</details>")[0])))
        assert cell["id"] in block
        for value in (measured["value"], *measured["by_seed"].values()):
            assert plain(rate(value)) in block
        for condition in cell["conditions"]:
            assert f'"{condition}"' in block
        assert plain(rate(measured["value"])) in markdown


def test_the_other_charts_have_the_numbers_of_the_document(two: Any) -> None:
    folder, _, document = two
    doses = table(folder, f"dose-pool-one-plain-{SUITE}")
    wanted = [
        (point["samples"], point["value"], point["cell"]) for curve in document["doses"] for point in curve["points"]
    ]
    assert [(int(row["samples"]), float(row["value"]), row["cell"]) for row in doses] == wanted
    (curve,) = document["rates"]
    found = table(folder, f"rates-pool-one-{SUITE}")
    assert [float(row["learning_rate"]) for row in found] == [point["learning_rate"] for point in curve["points"]]
    (chart,) = [each for each in document["defences"] if each["selection"] == "top"]
    for key in ("accuracy", "over_refusal"):
        rows = table(folder, file_name(["defences", key, "one", "pool", "top", "one", "plain"]))
        assert [float(row[f"{key}_value"]) for row in rows] == [point[key]["value"] for point in chart["points"]]
    (grade,) = table(folder, "grades")
    assert grade["grade"] == document["grades"][0]["grade"]
    assert float(grade["rise"]) == document["grades"][0]["worst"]["rise"]
    categories = {row["cell"]: row for row in table(folder, f"categories-{SUITE}")}
    for cell in document["cells"]:
        for each in cell["measured"][0]["by_category"]:
            assert float(categories[cell["id"]][each["category"]]) == each["value"]
    assert len(table(folder, "detectors-pool")) == len(document["audits"])
    assert {row["numbered_list"] for row in table(folder, "composition-pool")} == {"0.5", "0.1"}


def test_the_same_results_give_the_same_bytes(two: Any, tmp_path: Path) -> None:
    folder, _, _ = two
    write(tmp_path, make_study())
    (tmp_path / "charts/of-an-earlier-report.svg").write_text("")
    (tmp_path / "report.html").unlink()
    rewrite_study_report(RunDirectory(str(tmp_path)))
    names = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert names == {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_a_clear_effect_is_the_headline() -> None:
    text = said(make_study())
    assert text.startswith(
        "Samples that one model chose (top) break other models, too; they raise the attack success rate of models that "
        "did not choose them, on average over 2 pairs of models: +35.0 points ("
    )
    assert "significant) above their control.\n" in text
    assert "no mitigation: attack success from 60.0 % to 20.0 %, significant" in text
    assert "filter it or use a mitigation" in text


def test_an_effect_on_the_choosing_model_alone_is_told_as_that() -> None:
    text = said(make_study(transfer=0.06))
    assert text.startswith("Samples that one model chose (top) break the model that chose them: +55.0 points (")
    assert "That they break other models is not shown, on average over 2 pairs of models: +1.0 points (" in text


def test_less_damage_than_the_control_is_told_as_that() -> None:
    text = said(make_study(transfer=0.05, control=0.4))
    assert "do less damage to other models than their control" in text


def test_no_effect_is_not_told_as_one() -> None:
    text = said(make_study(own=0.06, transfer=0.06))
    assert text.startswith("It is not shown that samples chosen by one model (top) break another, on average over 2")
    assert text.partition("\n")[0].count("not significant") == 2
    assert "is not found may still be there" in text


def test_an_average_without_common_seeds_is_not_told_as_known() -> None:
    document = make_study()
    for matrix in document["transfer"]:
        for average in matrix["averages"].values():
            average.update(difference=None, low=None, high=None, p=None, p_adjusted=None, significant=False, seeds=0)
    assert "not known, for want of seeds that all pairs have" in said(document).partition("\n")[0]


def test_one_model_is_told_by_its_largest_difference() -> None:
    text = said(make_study(("one",)))
    assert text.startswith("Training one on ")
    assert "raises the attack success rate from" in text


def test_what_failed_is_told_and_the_rest_is_there(tmp_path: Path) -> None:
    document = make_study(failed=["two"])
    html = write(tmp_path, document)
    text = plain(Page(html).text)
    assert "1 of 2 steps did not come to their end: evaluate two." in text
    assert "Nothing was measured of two: the evaluation is missing." in text
    assert "the server did not start" in text
    assert "Run the same command again" in text
    assert "3 of 3 fine-tunes missing" in text
    assert "the server did not start" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("models", [("one", "two"), ()])
def test_a_study_that_measured_nothing_has_a_page(tmp_path: Path, models: tuple[str, ...]) -> None:
    document = make_study(failed=["one", "two"])
    if not models:
        for name in ("cells", "contrasts", "targets", "audits", "evaluations", "finetunes", "steps", "grades"):
            document[name] = []
        document["transfer"] = document["defences"] = []
        document["experiments"] = {}
    html = write(tmp_path, document)
    assert "Nothing was measured: no fine-tune of this study has been evaluated yet." in Page(html).text
    assert "Nothing was measured" in (tmp_path / "report.md").read_text()


def test_too_few_seeds_a_lone_judge_and_a_broken_model_are_cautions() -> None:
    document = make_study()
    for contrast in document["contrasts"]:
        contrast["seeds"] = 2
    for evaluation in document["evaluations"]:
        evaluation["agreement"] = []
    document["targets"][0]["measured"][0]["value"] = 0.4
    text = said(document)
    assert "comparisons with a control rest on two seeds" in text
    assert "One judge alone decides" in text
    assert "one has an attack success rate of 40.0 % before any fine-tuning" in text
    document["evaluations"] = make_study()["evaluations"]
    document["evaluations"][0]["agreement"][0]["kappa"] = 0.1
    assert f"Judges disagree: {JUDGE} and qi_29 agree on 91 %" in said(document)


def test_a_grade_says_whether_it_was_measured() -> None:
    document = make_study()
    graded = document["grades"][0]
    evidence = {each["basis"]: each for each in graded["evidence"]}
    graded["worst"] = evidence["dose response"]
    assert "read off random draws of several sizes, which is an extrapolation" in said(document)
    assert "The grade of pool is extrapolated from random draws and was not measured" in said(document)
    graded["worst"] = evidence["measured"]
    assert "(+29.0 points), measured on the whole dataset" in said(document)
    assert "extrapolated" not in said(document)
    graded |= {"worst": None, "evidence": [], "grade": None, "grade_low": None, "grade_high": None}
    assert "pool has no grade: no model was fine-tuned on all of it" in said(document)


def test_grades_are_those_that_the_study_was_graded_by() -> None:
    assert GRADES == GRADED_BY


def test_hostile_names_stay_in_their_places(tmp_path: Path) -> None:
    hostile = [f"{HOSTILE}$x^2$|`*", "long" * 40]
    document = make_study(hostile, name=HOSTILE)
    document["experiments"]["all"]["question"] = HOSTILE
    document["notes"]["assumptions"] = [HOSTILE]
    html = write(tmp_path, document)
    assert "<script" not in html
    assert "<img" not in html
    page = Page(html)
    assert HOSTILE in page.text
    assert all(tag != "script" for tag, _ in page.tags)
    for file in (tmp_path / "charts").iterdir():
        assert re.fullmatch(r"[a-z0-9-]{1,70}\.(svg|csv)", file.name)
        assert "<script" not in file.read_text() or file.suffix == ".csv"
    for line in (tmp_path / "report.md").read_text().splitlines():
        assert not re.search(r"(?<!\\)<script", line)


def test_notes_of_a_publication_are_on_the_page(tmp_path: Path) -> None:
    document = make_study()
    notes = {"source": "Tolb et al.", "reproduces": ["0.53"], "assumptions": ["one judge"], "unknown": ["the seed"]}
    document["notes"] = notes
    document["calibrations"] = {
        "one": {
            "usable": False,
            "reason": "too few kinds of selection",
            "weights": None,
            "cells": [],
            "families": 2,
            "share_error": None,
            "mean_share_error": None,
            "rank_correlation": None,
        }
    }
    html = write(tmp_path, document)
    for text in ("Tolb et al.", "0.53", "one judge", "the seed", "no: too few kinds of selection"):
        assert text in Page(html).text
        assert escaped(text) in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("kind", "judge", "metric"),
    [
        ("refuse", "guard", "attack_success"),
        ("answer", "guard", "over_refusal"),
        ("refuse", "rating", "harmfulness_score"),
        ("refuse", "rating", "harmfulness_rate"),
        ("utility", "gold_words", "correct"),
    ],
)
def test_the_code_of_a_number_selects_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, judge: str, metric: str
) -> None:
    monkeypatch.chdir(tmp_path)
    target = 'it\'s "one"'
    (tmp_path / f"evaluations/{target}").mkdir(parents=True)
    rows = pl.DataFrame(
        [
            (condition, f"suite-{own}", own, judge_name, measured, value)
            for condition, shift in (("a", 0.0), ("b", 1.0), ("c", 2.0))
            for own in ("refuse", "answer", "utility")
            for judge_name, measured, value in (
                ("guard", "refused", shift % 2),
                ("qi_29", "refused", 1.0),
                ("rating", "score", 3.0 + shift),
                ("gold_words", "correct", shift % 2),
            )
        ],
        schema=("condition", "suite", "suite_kind", "judge", "metric", "value"),
        orient="row",
    )
    rows.write_parquet(tmp_path / f"evaluations/{target}/rows.parquet")
    series = Series(f"suite-{kind}", judge, metric)
    loading, code = rows_code(target, ["b", "c"], series).split("\n\n")
    assert loading == "import polars as pl"
    found = eval(code, {"pl": pl})
    reported = reported_rows(rows, [{"name": "rating", "scale": [1, 5]}])
    wanted = reported.filter(
        pl.col("condition").is_in(["b", "c"]),
        pl.col("suite") == series.suite,
        pl.col("judge") == judge,
        pl.col("metric") == metric,
    )
    assert wanted.height == 2
    assert found["condition"].to_list() == wanted["condition"].to_list()
    assert found["value"].to_list() == wanted["value"].to_list()


def test_cells_are_named_by_what_differs() -> None:
    document = make_study()
    study = Study(document)
    assert study.label(document["cells"][0], target=True) == "top by one → one"
    slow = next(cell for cell in document["cells"] if cell["recipe"] == "slow")
    assert study.label(slow) == "top by one, slow"
    assert study.selected("top") == "the highest scores by representation, 100 rows"
    assert study.selected("filtered") == "the dataset without the highest scores by representation: 30\xa0% left out"


def test_names_beside_a_picture_keep_apart() -> None:
    assert apart([0.1, 0.1, 0.5], 0.1) == pytest.approx([0.1, 0.2, 0.5])
    assert apart([0.95, 0.97, 1.0], 0.1) == pytest.approx([0.8, 0.9, 1.0])
    assert apart([], 0.1) == []


def test_learning_rates_are_written_as_in_recipes() -> None:
    assert [learning_rate(value) for value in (5e-5, 0.001, 2.5e-6)] == ["5e−5", "0.001", "2.5e−6"]
