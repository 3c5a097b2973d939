"""The page of the fine-tunes: every name and number is there, nothing is loaded, nothing escapes its place."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from bds.errors import PreflightError
from bds.report.archive import rewrite_report
from bds.report.finetunes import POINTS_DRAWN, curve_lines, write_finetune_report
from bds.report.finetunes_figures import STYLES, arrange
from bds.report.finetunes_summary import finetunes_summary
from bds.runs.directory import RunDirectory
from tests.unit.finetune_results import (
    RECIPE,
    make_curve,
    make_failure,
    make_many,
    make_result,
    make_stage,
)
from tests.unit.test_report_page import LOADING
from tests.unit.test_report_page import Page as AuditPage

HOSTILE = "<script>alert('x')</script>\"><img src=x>"
ALL = ("none", "lisa", "ema", "filter", "lora", "low_lr", "safe_lora", "safety_mix", "loss_mask", "refresh", "x", "y")


class Page(AuditPage):
    """Names may break at `wbr`, which has no end."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "wbr":
            super().handle_starttag(tag, attrs)


def write(folder: Path, results: Sequence[dict[str, Any]], failures: Sequence[dict[str, Any]] = ()) -> Page:
    curves = {result["id"]: [asdict(point) for point in make_curve(result)] for result in results}
    path = write_finetune_report(RunDirectory(str(folder)), results, failures, curves)
    assert path == str(folder / "report.html")
    assert sorted(file.name for file in folder.iterdir()) == ["finetunes.json", "report.html", "summary.json"]
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def links(page: Page) -> list[str]:
    return [str(attributes["href"]) for tag, attributes in page.tags if tag == "a"]


def rows(folder: Path) -> list[list[str]]:
    """The table of fine-tunes, the text of every cell without its spaces."""
    html = (folder / "report.html").read_text(encoding="utf-8")
    table = html[html.index('<table class="runs">') : html.index("</table>")]
    return [
        [re.sub(r"<[^>]*>|\s+", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)]
        for row in re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
    ]


@pytest.fixture(scope="module")
def eighteen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Page, list[dict[str, Any]], dict[str, Any]]:
    """Three models on three datasets with two seeds, of which one failed."""
    folder = tmp_path_factory.mktemp("run")
    results = make_many(models=3, datasets=3, seeds=2)
    lost = results.pop(7)
    failure = make_failure(**{name: lost[name] for name in ("model", "dataset", "seed")})
    return folder, write(folder, results, [failure]), results, failure


def test_the_verdict_counts_and_claims_nothing_of_safety(eighteen: Any) -> None:
    folder, page, _, failure = eighteen
    headline = (
        "17 of 18 fine-tunes finished and 1 failed. Training measures no refusals: evaluate the models before any use."
    )
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["verdict"]["headline"] == headline
    assert headline in page.text
    assert page.text.index(headline) < page.text.index("Loss curves")
    assert (summary["finetunes"], summary["finished"], summary["failed"]) == (18, 17, 1)
    assert summary["refusals_measured"] is False
    assert f"1 fine-tune failed: {failure['id']}." in page.text
    assert "18 fine-tunes, of 3 models, 3 datasets and 2 seeds" in page.text
    assert not re.search(r"\b(is|are|now|remains?) safe\b", page.text)


def test_every_finetune_has_its_row_numbers_and_folder(eighteen: Any) -> None:
    folder, page, results, _ = eighteen
    table = rows(folder)
    assert len(table) == 1 + len(results)
    for row, result in zip(table[1:], results, strict=True):
        stage = result["stages"][0]
        assert row == [
            result["id"],
            *("model", "100", "5", "20", "25", "500", "2.12", f"{stage['last_loss']:.3g}"),
            f"{result['seconds']:.1f}s",
        ]
        assert f"models/{result['id']}/" in [unquote(link) for link in links(page)]
    assert sum(link.startswith("models/") for link in links(page)) == len(results)


def test_a_failure_is_told_with_its_reason(eighteen: Any) -> None:
    _, page, _, failure = eighteen
    told = page.text[page.text.index("Failures, and why") :]
    assert told.index(failure["id"]) < told.index("CUDA out of memory") < told.index("Loss curves")
    assert f"models/{failure['id']}/" not in links(page)


def test_one_panel_a_dataset_one_colour_a_model_and_every_line_is_drawn(eighteen: Any) -> None:
    folder, page, results, _ = eighteen
    alts = [str(attributes["aria-label"]) for tag, attributes in page.tags if attributes.get("role") == "img"]
    assert len(alts) == 3
    for result in results:
        (alt,) = [alt for alt in alts if result["id"] in alt]
        assert f"{result['id']} from 2.12 to {result['stages'][0]['last_loss']:.3g}" in alt
    html = (folder / "report.html").read_text(encoding="utf-8")
    for style in STYLES[:3]:
        assert html.count(f"stroke: {style.color}") == sum(
            result["model"] == f"organism-{STYLES.index(style)}" for result in results
        )
    assert "One panel for each dataset, with the same axes; one colour for each model; one line for each seed." in (
        page.text
    )


def test_the_summary_adds_up(eighteen: Any) -> None:
    folder, _, results, _ = eighteen
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["samples_seen"], summary["steps"]) == (17 * 500, 17 * 25)
    assert summary["seconds"] == pytest.approx(sum(result["seconds"] for result in results))
    for line, result in zip(summary["runs"], results, strict=True):
        assert line["id"] == result["id"]
        assert line["last_loss"] == result["stages"][0]["last_loss"]
        assert line["output"] == f"models/{result['id']}/model"


def test_the_page_loads_nothing_and_runs_nothing(eighteen: Any) -> None:
    _, page, _, _ = eighteen
    for tag, attributes in page.tags:
        assert tag not in {"script", "img", "iframe", "link", "object"}
        assert not LOADING & attributes.keys()
        assert not [name for name in attributes if name.startswith("on")]
    targets = [attributes["href"] for tag, attributes in page.tags if tag == "a" and attributes["href"]]
    anchors = {f"#{attributes['id']}" for _, attributes in page.tags if attributes.get("id")}
    assert all(target.startswith("models/") or target in anchors for target in targets)


def test_rendered_again_the_files_are_the_same(eighteen: Any) -> None:
    folder, *_ = eighteen
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    (folder / "report.html").unlink()
    (folder / "summary.json").unlink()
    assert rewrite_report(str(folder)) == str(folder / "report.html")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_folder_without_a_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match="holds no finished run"):
        rewrite_report(str(tmp_path))


def test_a_single_finetune_shows_its_curve_beside_the_verdict(tmp_path: Path) -> None:
    page = write(tmp_path / "run", [make_result()])
    assert "The fine-tune finished. Training measures no refusals: evaluate the model before any use." in page.text
    assert sum(attributes.get("role") == "img" for _, attributes in page.tags) == 1
    assert "Loss curves" not in page.text
    assert "went from 2.12 to 0.438 nats" in page.text


@pytest.mark.parametrize(
    ("failures", "headline"),
    [
        (0, "There is no fine-tune in this run."),
        (1, "The fine-tune failed."),
        (3, "None of the 3 fine-tunes finished: all failed."),
    ],
)
def test_without_a_finished_finetune_the_page_still_says_so(tmp_path: Path, failures: int, headline: str) -> None:
    page = write(tmp_path / "run", [], [make_failure(seed=seed) for seed in range(failures)])
    assert headline in page.text
    assert "evaluate" not in headline
    assert page.text.count("CUDA out of memory") == failures


def test_stages_have_rows_of_their_own_and_steps_on_refusals_are_marked(tmp_path: Path) -> None:
    stages = [
        make_stage("lisa", steps=24, samples_seen=480),
        make_stage("refresh", samples=30, batch=10, steps=3, samples_seen=30, first_loss=1.5, last_loss=0.75),
    ]
    page = write(tmp_path / "run", [make_result(stages=stages, resumed_from_steps=[8])])
    head, first, second = rows(tmp_path / "run")
    assert head[2:5] == ["stage", "samples", "epochs"]
    assert first[1:] == ["model", "lisa", "100", "5", "20", "24", "480", "2.12", "0.438", "3.2s"]
    assert second == ["refresh", "30", "5", "10", "3", "30", "1.5", "0.75"]
    assert "Crosses are steps on a mitigation's refusals; a dotted vertical line ends a stage." in page.text


def test_recipes_as_trained_mitigations_data_and_warnings_are_listed(tmp_path: Path) -> None:
    lora = RECIPE.model_dump(mode="json") | {"parameters": "lora", "learning_rate": 3e-4}
    data = make_result()["data"] | {
        "rows": 10_003,
        "samples": 10_000,
        "statuses": {"ok": 10_000, "no_answer": 3},
        "mix": {"share": 0.01, "samples": 100, "benign": 9_900, "into": "/data/benign.jsonl"},
    }
    results = [
        make_result(warnings=["the recipe trains in bf16; a CPU trains in float32"]),
        make_result(
            dataset="mixed",
            mitigation="small",
            data=data,
            recipe_settings=lora,
            mitigation_settings={"method": "safe_lora", "threshold": 0.35},
            mitigation_facts={"projected": ["q_proj"], "cosines": {str(layer): 0.5 for layer in range(99)}},
            kind="adapter",
            parameters=234_567,
            trainable_parameters=1_567,
            warnings=["the recipe trains in bf16; a CPU trains in float32", "recipe he2024 is published for 100"],
            stages=[make_stage(first_loss=0.5, last_loss=0.5)],
        ),
    ]
    page = write(tmp_path / "run", results)
    for said in (
        *("5e-05", "0.0003", "lora.rank", "published for", "Known of it: published gains on Llama-2"),
        *("0.35", '["q_proj"]', "99 entries, in result.json", "100 samples among 9,900 rows of /data/benign.jsonl"),
        *("10,000 ok, 3 no answer", "3 rows of the dataset mixed could not be trained on.", "Mitigations used: safe"),
        *("234,567", "1,567", "There is one seed", "Whether a mitigation worked: here it only ran."),
        f"The loss of the last step is no lower than that of the first in {results[1]['id']}.",
    ):
        assert said in page.text, said
    warned = page.text[page.text.index("Warnings of the training") :]
    assert warned.count("the recipe trains in bf16; a CPU trains in float32") == 1


def test_hostile_names_are_text(tmp_path: Path) -> None:
    result = make_result(
        *(HOSTILE, HOSTILE, HOSTILE, HOSTILE),
        warnings=[HOSTILE],
        device=HOSTILE,
        base_model=HOSTILE,
        base_revision=HOSTILE,
        stages=[make_stage(HOSTILE), make_stage(HOSTILE * 2)],
        mitigation_facts={HOSTILE: HOSTILE},
        versions={HOSTILE: HOSTILE},
    )
    page = write(tmp_path / "run", [result, make_result(model="m" * 300)], [make_failure(HOSTILE, model=HOSTILE * 2)])
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert HOSTILE in page.text
    assert "m" * 300 in page.text
    (link,) = [link for link in links(page) if "script" in link]
    assert unquote(link) == f"models/{result['id']}/"
    assert not set(link) & set("<>\"'")


def test_a_long_curve_is_drawn_as_means_that_leave_no_step_out() -> None:
    points = [asdict(point) for point in make_curve(make_result(stages=[make_stage(steps=1003, samples_seen=20_060)]))]
    (line,) = curve_lines(points)
    sizes = [1003 * (part + 1) // POINTS_DRAWN - 1003 * part // POINTS_DRAWN for part in range(POINTS_DRAWN)]
    assert len(line["loss"]) == POINTS_DRAWN
    assert line["samples_seen"][-1] == points[-1]["samples_seen"]
    assert sum(mean * size for mean, size in zip(line["loss"], sizes, strict=True)) == pytest.approx(
        sum(point["loss"] for point in points)
    )


def test_a_short_curve_is_drawn_point_by_point_apart_by_stage_and_kind() -> None:
    points = [asdict(point) for point in make_curve(make_result(stages=[make_stage("lisa"), make_stage("refresh")]))]
    lines = curve_lines(points)
    assert [(line["stage"], line["kind"]) for line in lines] == [
        ("lisa", "alignment"),
        ("lisa", "task"),
        ("refresh", "task"),
    ]
    assert lines[0]["loss"] == [point["loss"] for point in points if point["kind"] == "alignment"]
    assert sum(len(line["loss"]) for line in lines) == 50


@pytest.mark.parametrize(
    ("results", "panels", "coloured"),
    [
        (make_many(1, 1, 1), 1, None),
        (make_many(1, 1, 5), 1, None),
        (make_many(1, 5, 2), 5, None),
        (make_many(3, 3, 2), 3, "model"),
        (make_many(2, 5, 2, ("none", "lisa", "ema")), 10, "mitigation"),
        (make_many(1, 1, 2, ALL), 12, None),
        (make_many(2, 1, 1, ALL), 12, "model"),
    ],
)
def test_only_seeds_share_a_panel_and_a_colour(
    results: list[dict[str, Any]], panels: int, coloured: str | None
) -> None:
    arranged = arrange(
        results, {result["id"]: curve_lines([asdict(p) for p in make_curve(result)]) for result in results}
    )
    assert (len(arranged.panels), arranged.coloured) == (panels, coloured)
    assert sum(len(panel.lines) for panel in arranged.panels) == len(results)
    assert len({panel.title for panel in arranged.panels}) == panels
    for panel in arranged.panels:
        places = [(line.style, line.finetune["seed"]) for line in panel.lines]
        assert len(set(places)) == len(places)
        assert len({line.style for line in panel.lines}) <= len(STYLES)


def test_sixty_finetunes_fold_nothing_and_leave_no_id_out(tmp_path: Path) -> None:
    results = make_many(2, 5, 2, ("none", "lisa", "ema"))
    page = write(tmp_path / "run", results)
    assert len([link for link in links(page) if link.startswith("models/")]) == 60
    assert sum(attributes.get("role") == "img" for _, attributes in page.tags) == 10
    assert (tmp_path / "run" / "report.html").stat().st_size < 1_000_000


def test_a_finetune_without_a_curve_is_in_the_table_only(tmp_path: Path) -> None:
    result = make_result()
    write_finetune_report(RunDirectory(str(tmp_path)), [result], [], {})
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert f"models/{result['id']}/" in links(page)
    assert not [tag for tag, attributes in page.tags if attributes.get("role") == "img"]


def test_the_summary_is_json_of_the_results_alone() -> None:
    results = [make_result(), make_result(seed=1)]
    summary = finetunes_summary(results, [make_failure(seed=2)])
    assert json.loads(json.dumps(summary)) == summary
    assert summary["failures"][0]["reason"] == "CUDA out of memory"
    assert [run["seed"] for run in summary["runs"]] == [0, 1]
