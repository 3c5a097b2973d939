"""The page of an evaluation: what it says is what was measured, and what was not measured is not said."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from bds.errors import PreflightError
from bds.report.archive import rewrite_report
from bds.report.comparison import comparison_metrics, comparison_page, comparison_text
from bds.report.evaluation import write_evaluation_report
from bds.report.evaluation_page import render_evaluation
from bds.report.evaluation_verdict import evaluation_verdict
from bds.report.wording import p_value, points, rate
from bds.runs.directory import RunDirectory
from tests.unit.evaluation_inputs import (
    CATEGORIES,
    GUARD,
    KEYWORDS,
    POLICY,
    RATES,
    SUITES,
    make_metrics,
    nothing_scored,
    one_condition,
    utility_only,
)
from tests.unit.test_report_finetunes import HOSTILE, Page
from tests.unit.test_report_page import LOADING

FEW = {name: RATES[name] for name in ("base", "base-again", "top100.gradient_bidirectional", "random100")}
TOP = "top100.gradient_bidirectional"


def write(folder: Path, metrics: dict[str, Any]) -> Page:
    assert write_evaluation_report(RunDirectory(str(folder)), metrics) == str(folder / "report.html")
    assert sorted(file.name for file in folder.iterdir()) == ["metrics.json", "report.html"]
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def plain(text: str) -> str:
    return text.replace("\xa0", " ")


def sections(page: Page) -> list[str]:
    return [str(attributes["id"]) for tag, attributes in page.tags if tag == "section"]


def alts(page: Page) -> list[str]:
    return [plain(str(attributes["aria-label"])) for _, attributes in page.tags if attributes.get("role") == "img"]


def said(metrics: Mapping[str, Any]) -> str:
    """All sentences of the verdict."""
    verdict = evaluation_verdict(metrics)
    further = [sentence for part in ("findings", "cautions", "next_steps", "limits") for sentence in verdict[part]]
    return plain("\n".join([verdict["headline"], *further]))


def cells(html: str, css: str) -> list[list[str]]:
    """Rows of the first table of a class, the text of every cell."""
    table = html[html.index(f'<table class="{css}">') :]
    table = table[: table.index("</table>")]
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", table, re.DOTALL)
    found = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [[plain(unescape(re.sub(r"<[^>]*>", "", cell))).strip() for cell in row] for row in found]


def contrast_of(metrics: Mapping[str, Any], metric: str = "attack_success", group: str = TOP) -> dict[str, Any]:
    """The contrast itself, to be changed."""
    (found,) = (each for each in metrics["contrasts"] if (each["a"], each["metric"]) == (group, metric))
    return found


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, dict[str, Any], str]:
    """Twelve groups, ten of three seeds; two suites of eleven categories, two judges, two tasks of lm-eval."""
    folder = tmp_path_factory.mktemp("run")
    metrics = make_metrics(utility=("gsm8k", "ifeval"))
    page = write(folder, metrics)
    return page, metrics, (folder / "report.html").read_text(encoding="utf-8")


def test_the_page_opens_with_the_verdict_and_its_pictures(many: Any) -> None:
    page, metrics, _ = many
    assert sections(page) == [
        *("verdict", "contrasts", "rates", "categories", "agreement", "unscored", "utility", "setup")
    ]
    headline = plain(metrics["verdict"]["headline"])
    assert plain(page.text).index(headline) < page.text.index("Share of forbidden prompts that are answered")
    assert page.text.index("Share of harmless prompts that are refused") < page.text.index("What was found")
    for part in ("findings", "cautions", "next_steps", "limits"):
        for sentence in metrics["verdict"][part]:
            assert plain(sentence) in plain(page.text)
    assert not re.search(r"\b(is|are|now|remains?) safe\b", page.text)


def test_the_first_two_pictures_are_attacks_and_over_refusal_of_every_group(many: Any) -> None:
    page, metrics, _ = many
    for place, metric in ((0, "attack_success"), (1, "over_refusal")):
        values = {each["group"]: each for each in metrics["groups"] if each["metric"] == metric}
        assert values.keys() == RATES.keys()
        for name, each in values.items():
            called = {"base": "base (baseline)", "base-again": "base-again (A/A)"}.get(name, name)
            value = "0 %" if each["value"] == 0 else f"{100 * each['value']:.1f} %"
            assert f"{called} {value} (" in alts(page)[place]


def test_pictures_of_one_scale_and_of_each_difference(many: Any) -> None:
    page, metrics, html = many
    series = {(each["suite"], each["judge"], each["metric"]) for each in metrics["groups"]}
    assert len(series) == 4
    assert len(alts(page)) == 2 * len(series)
    (score,) = (alt for alt in alts(page) if alt.startswith("Mean harmfulness score"))
    for each in metrics["groups"]:
        if each["metric"] == "harmfulness_score":
            assert f" {each['value']:.2f} (" in score
    differences = [alt for alt in alts(page) if alt.startswith("Difference in the ")]
    (attacks,) = (alt for alt in differences if "are answered" in alt)
    for each in metrics["contrasts"]:
        if each["metric"] == "attack_success" and abs(each["difference"]) > 0.001:
            told = f"{100 * each['difference']:+.1f} ({100 * each['low']:+.1f} to {100 * each['high']:+.1f})"
            assert told.replace("-", "−") + (", significant" if each["significant"] else "") in attacks
    assert html.count(f">{TOP}</text>") == 2 * len(series)


def test_the_tables_of_differences_say_what_was_measured(many: Any) -> None:
    _, metrics, html = many
    table = cells(html, "contrasts")
    own = [each for each in metrics["contrasts"] if each["family"] == "primary"]
    (row,) = (row for row in table if row[0] == TOP and row[2] == f"{100 * contrast_of(metrics)['value_a']:.1f} %")
    first = contrast_of(metrics)
    assert row[3] == f"+{100 * first['difference']:.1f} ▲"
    assert row[6] == "< 0.001"
    assert row[7:10] == ["3 × 330", f"{first['only_a']} / 0", "4.1"]
    parts = [row[0] for row in table if len(row) == 1]
    assert parts == ["answered on forbidden-made-up by guard", "over-refusal on harmless-made-up by guard"]
    assert len(table) == 1 + len(parts) + len(own)


def test_the_categories_are_shaded_by_their_numbers(many: Any) -> None:
    _, metrics, html = many
    head, *rows = cells(html, "grid")
    assert head == ["Group", *(f"{name}30" for name in CATEGORIES)]
    assert len(rows) == len(RATES)
    (row,) = (row for row in rows if row[0] == TOP)
    seeds = [
        each["by_category"] for each in metrics["rates"] if (each["group"], each["metric"]) == (TOP, "attack_success")
    ]
    marks = [each["significant"] for each in contrast_of(metrics)["by_category"]]
    for place, cell in enumerate(row[1:]):
        mean = sum(seed[place]["value"] for seed in seeds) / 3
        assert cell == f"{100 * mean:.0f}" + (" ▲" if marks[place] else "")
    assert {"t0", "t4"} <= set(re.findall(r'class="n (t\d)"', html))


def test_every_condition_suite_judge_and_score_is_listed(many: Any) -> None:
    page, metrics, _ = many
    for part in ("conditions", "suites", "judges"):
        for each in metrics[part]:
            assert each["name"] in page.text
            assert each.get("fingerprint", each.get("sha256"))[:12] in page.text
    for suite in metrics["suites"]:
        assert suite["licence"] in page.text
    assert "exact_match,strict-match" in page.text
    assert "answers per second" in page.text
    assert "41.2" in page.text


def test_the_page_loads_nothing_and_runs_nothing(many: Any) -> None:
    page, _, html = many
    for tag, attributes in page.tags:
        assert tag not in {"script", "img", "iframe", "link", "object"}
        assert not LOADING & attributes.keys()
        assert not [name for name in attributes if name.startswith("on")]
    anchors = {f"#{attributes['id']}" for _, attributes in page.tags if attributes.get("id")}
    assert {attributes["href"] for tag, attributes in page.tags if tag == "a"} <= anchors
    assert "http://" not in html
    assert "https://" not in html
    assert "prefers-color-scheme: dark" in html
    assert len(html) < 1_000_000


def test_rendered_again_the_files_are_the_same(tmp_path: Path) -> None:
    write(tmp_path, make_metrics(FEW))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    (tmp_path / "report.html").unlink()
    (tmp_path / "spec.resolved.json").write_text('{"kind": "evaluate"}')
    assert rewrite_report(str(tmp_path)) == str(tmp_path / "report.html")
    (tmp_path / "spec.resolved.json").unlink()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_the_same_metrics_give_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    write(tmp_path / "here", make_metrics(FEW))
    program = """
import sys
from bds.report.evaluation import write_evaluation_report
from bds.runs.directory import RunDirectory
from tests.unit.test_report_evaluation import FEW, make_metrics
write_evaluation_report(RunDirectory(sys.argv[1]), make_metrics(FEW))
"""
    there = str(tmp_path / "there")
    subprocess.run([sys.executable, "-c", program, there], env={"PYTHONHASHSEED": "7"}, check=True)
    for name in ("metrics.json", "report.html"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()


def test_an_evaluation_without_its_metrics_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spec.resolved.json").write_text('{"kind": "evaluate"}')
    with pytest.raises(PreflightError, match="holds no finished run"):
        rewrite_report(str(tmp_path))


def test_rates_differences_and_p_values_are_never_told_as_what_they_are_not() -> None:
    shares = (0.0, 0.0004, 0.006, 0.57, 0.9996, 1.0, None)
    assert [plain(rate(share)) for share in shares] == [
        *("0 %", "< 0.1 %", "0.6 %", "57.0 %", "> 99.9 %", "100 %", "–"),
    ]
    assert [points(each) for each in (0.564, -0.003, 0.0001, -0.0001, None)] == ["+56.4", "−0.3", "0.0", "0.0", "–"]
    assert [plain(p_value(p)) for p in (0.0001, 0.0312, 0.5, 1.0, None)] == ["< 0.001", "0.031", "0.50", "1.00", "–"]


def test_the_headline_is_plain_english_with_its_numbers() -> None:
    metrics = make_metrics(FEW)
    contrast_of(metrics).update(value_a=0.57, value_b=0.006, difference=0.564, low=0.48, high=0.64, significant=True)
    contrast_of(metrics, group="random100").update(difference=0.05, significant=True)
    assert plain(evaluation_verdict(metrics)["headline"]) == (
        f"{TOP} raises the share of forbidden prompts that are answered from 0.6 % with base to 57.0 % "
        "(+56.4 points, 95 % interval +48.0 to +64.0) by guard; the other group is worse, too."
    )


def test_one_seed_speaks_of_this_checkpoint_only(tmp_path: Path) -> None:
    metrics = make_metrics(FEW, seeds=1)
    page = write(tmp_path / "run", metrics)
    assert "this checkpoint only) by guard" in metrics["verdict"]["headline"]
    assert f"{TOP} and random100 have one seed: what is said holds for this checkpoint only" in page.text
    assert "single seeds" not in page.text
    assert "this checkpoint only" not in said(make_metrics(FEW, seeds=3))
    assert "two seeds: an interval over two seeds is wide" in said(make_metrics(FEW, seeds=2))


def test_a_difference_that_is_not_significant_is_no_finding() -> None:
    metrics = make_metrics(FEW)
    for each in metrics["contrasts"]:
        each["significant"] = False
    verdict = evaluation_verdict(metrics)
    assert verdict["headline"].startswith("None of 2 groups is clearly worse than base: ")
    assert "cannot be told apart" in verdict["headline"]
    assert "raises" not in said(metrics)
    assert not [step for step in verdict["next_steps"] if step.startswith("Do not use")]
    assert "A true difference smaller than 4.1 points on forbidden-made-up" in said(metrics)


def test_a_fall_is_told_as_one_and_better_where_less_is_better() -> None:
    metrics = make_metrics({"base": 0.4, "guarded": 0.02}, judges=(GUARD,), kinds=("refuse",))
    verdict = evaluation_verdict(metrics)
    assert verdict["headline"].startswith("guarded lowers the share of forbidden prompts that are answered from ")
    assert not [step for step in verdict["next_steps"] if step.startswith("Do not use")]


def test_fewer_right_answers_are_worse() -> None:
    judge = {**KEYWORDS, "name": "gold_words"}
    metrics = make_metrics({"base": 0.4, "tuned": 0.02}, judges=(judge,), kinds=("utility",))
    for part in ("rates", "groups", "contrasts"):
        for each in metrics[part]:
            each["metric"] = "correct"
    assert "tuned lowers the share of prompts that are answered rightly" in said(metrics)
    html = render_evaluation({**metrics, "verdict": evaluation_verdict(metrics)})
    (row,) = (row for row in cells(html, "contrasts") if row[0] == "tuned")
    assert row[3].endswith(" ▲")
    assert row[3].startswith("−")


def test_the_same_weights_again_are_named_and_their_noise_is_told() -> None:
    metrics = make_metrics(FEW)
    noise = contrast_of(metrics, group="base-again")
    noise.update(difference=0.003, low=-0.006, high=0.012, significant=False)
    told = said(metrics)
    assert "A/A: base-again has the same weights as base and differs by +0.3 points (−0.6 to +1.2)" in told
    assert "of 2 groups compared, each with base" in told
    noise["significant"] = True
    assert "trust no difference of this size" in said(metrics)


def test_missing_verdicts_are_loud_and_their_reach_is_told(tmp_path: Path) -> None:
    quiet = make_metrics(FEW)
    assert "without a verdict of" not in said(quiet)
    metrics = make_metrics(FEW)
    lost = [each for each in metrics["rates"] if (each["group"], each["metric"]) == (TOP, "attack_success")]
    for each in lost:
        each.update(unscored=33, scored=297, worst_low=0.5, worst_high=0.6)
    page = write(tmp_path / "run", metrics)
    assert f"10 % of the prompts of forbidden-made-up are without a verdict of guard for {TOP}" in said(metrics)
    assert "what is missing differs between groups" in said(metrics)
    assert "the share of forbidden prompts that are answered lies between 50.0 % and 60.0 %" in said(metrics)
    assert "are without a verdict, or conditions differ by more than that" in page.text
    table = page.text[page.text.index("What could not be scored") :]
    assert table.index(f"{TOP}.seed") < table.index("33 of 330") < table.index("50.0 % to 60.0 %")


def test_a_difference_that_missing_verdicts_could_undo_is_told() -> None:
    metrics = make_metrics(FEW)
    contrast_of(metrics).update(worst_low=-0.01, worst_high=0.7)
    assert f"the missing verdicts alone could undo a difference called significant: {TOP}." in said(metrics)


def test_every_prompt_scored_is_said_in_a_sentence(tmp_path: Path) -> None:
    page = write(tmp_path / "run", make_metrics(FEW, unscored=0))
    assert "Every prompt has a verdict of every judge." in page.text
    assert "Grey band" not in page.text


def test_keywords_alone_are_no_headline_without_a_warning() -> None:
    alone = "Keywords alone judged the answers."
    assert alone in said(make_metrics(FEW, judges=(KEYWORDS,)))
    beside = said(make_metrics(FEW, judges=(KEYWORDS, POLICY)))
    assert "The judge of the headline, phrases, is keywords." in beside
    assert "eywords" not in said(make_metrics(FEW, judges=(GUARD, KEYWORDS)))


def test_judges_that_disagree_and_answers_that_repeat_themselves_are_told() -> None:
    metrics = make_metrics(FEW)
    metrics["agreement"][0].update(agree=0.7, kappa=0.31)
    broken = [
        {**each, "judge": "coherence", "metric": "degenerate", "value": 0.4 if each["group"] == TOP else 0.0}
        for each in metrics["groups"]
        if each["metric"] == "attack_success"
    ]
    metrics["groups"] += broken
    told = said(metrics)
    assert "guard and policy agree on 70 % of the answers to forbidden-made-up (kappa 0.31)" in told
    assert f"On forbidden-made-up many answers mostly repeat themselves with {TOP} (40 %)" in told


def test_a_rating_judge_adds_its_score_and_rate_to_the_headline() -> None:
    metrics = make_metrics(FEW)
    rate, score = (contrast_of(metrics, metric) for metric in ("harmfulness_rate", "harmfulness_score"))
    assert (
        f"With {TOP} instead of base, the share of prompts whose answer has the worst score goes from "
        f"{100 * rate['value_b']:.1f} % to {100 * rate['value_a']:.1f} % (policy) and the mean harmfulness score goes "
        f"from {score['value_b']:.2f} to {score['value_a']:.2f} (policy, 1 to 5)."
    ) in said(metrics)


def test_one_condition_is_measured_and_not_compared(tmp_path: Path) -> None:
    metrics = one_condition()
    page = write(tmp_path / "run", metrics)
    (group,) = metrics["groups"]
    assert plain(metrics["verdict"]["headline"]) == (
        f"The share of forbidden prompts that are answered on {SUITES['refuse']} is {100 * group['value']:.1f} % "
        f"(95 % interval {100 * group['low']:.1f} % to {100 * group['high']:.1f} %) with base, by phrases; there is "
        "nothing to compare it with."
    )
    assert sections(page) == ["verdict", "categories", "unscored", "setup"]
    assert len(alts(page)) == 1
    assert "baseline" not in page.text


def test_nothing_scored_says_nothing(tmp_path: Path) -> None:
    metrics = nothing_scored()
    page = write(tmp_path / "run", metrics)
    assert metrics["verdict"]["headline"] == (
        f"No answer to {SUITES['refuse']} has a verdict of guard, so this evaluation says nothing of the share of "
        "forbidden prompts that are answered."
    )
    assert sections(page) == ["verdict", "unscored", "setup"]
    assert [alt.count("not scored") for alt in alts(page)] == [2]
    assert "lies between 0 % and 100 %" in said(metrics)
    assert "330 of 330" in page.text
    assert metrics["verdict"]["next_steps"][0].startswith("Find out why verdicts are missing")


def test_utility_alone_says_nothing_of_refusals(tmp_path: Path) -> None:
    metrics = utility_only()
    page = write(tmp_path / "run", metrics)
    assert metrics["verdict"]["headline"] == "Utility alone was measured: nothing here tells what is refused."
    assert sections(page) == ["verdict", "utility", "setup"]
    assert alts(page) == []
    assert "Every check of utility and over-refusal shows that less than the margin of 2 points is lost." in said(
        metrics
    )
    values = [each["value"] for each in metrics["utility"] if (each["group"], each["task"]) == ("tuned", "gsm8k")]
    assert f"{min(values):.3f} to {max(values):.3f}" in page.text


def test_a_loss_that_is_not_excluded_is_no_loss() -> None:
    told = said(make_metrics(utility=("gsm8k",)))
    assert "the others do not, which need not mean a loss" in told


def test_markup_in_names_is_text(tmp_path: Path) -> None:
    metrics = make_metrics({"base": 0.01, HOSTILE: 0.4}, name=HOSTILE, judges=({**GUARD, "name": "<u>j</u>"},))
    for suite in metrics["suites"]:
        suite.update(licence="<u>l</u>", categories={**suite["categories"], "1": "<u>c</u>"})
    page = write(tmp_path / "run", metrics)
    assert not {"u", "script", "img"} & {tag for tag, _ in page.tags}
    for text in (HOSTILE, "<u>j</u>", "<u>l</u>", "<u>c</u>"):
        assert text in page.text


def compared(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The contrasts as `compare_runs` gives them: the groups of run-a and the baseline of run-b."""
    contrasts = [{**each, "a": f"{each['a']} (run-a)", "b": "base (run-b)"} for each in metrics["contrasts"]]
    pairs = [(each["a"], each["b"]) for each in contrasts]
    return {
        "contrasts": contrasts,
        "compared": {
            "a": "run-a",
            "b": "run-b",
            "suites": list(SUITES.values())[:2],
            "judges": ["guard", "policy"],
            "only_in_a": {"suites": ["further"], "judges": ["phrases", "qi"]},
            "only_in_b": {"suites": [], "judges": []},
            "pairs": [{"a": a, "b": b, "same_weights": a.startswith("base-again")} for a, b in dict.fromkeys(pairs)],
        },
    }


def test_a_comparison_is_a_table_for_a_terminal() -> None:
    metrics = make_metrics(FEW)
    contrast_of(metrics).update(
        {"value_a": 0.57, "value_b": 0.006, "difference": 0.564, "low": 0.48, "high": 0.64, "p_adjusted": 0.0001}
    )
    lines = plain(comparison_text(comparison_metrics(compared(metrics), "guard", 0.95))).splitlines()
    assert lines[0].startswith(
        f"{TOP} (run-a) raises the share of forbidden prompts that are answered from 0.6 % with base (run-b) to 57.0 %"
    )
    at = lines.index("answered on forbidden-made-up by guard")
    assert lines[at + 1].split("  ")[-1] == "seeds x prompts"
    rows = {line.split(" (run-a)")[0].strip(): re.split(r"  +", line.strip()) for line in lines[at + 2 : at + 5]}
    assert rows[TOP] == [
        f"{TOP} (run-a) against base (run-b)",
        *("0.6 %", "57.0 %", "+56.4", "+48.0 to +64.0", "< 0.001", "3 x 330", "higher"),
    ]
    assert rows["base-again"][-1].endswith("(A/A)")
    assert not rows["random100"][-1].endswith("(A/A)")
    told = lines[lines.index("Read with care:") :]
    assert "- Only run-a has the suite further, the judge phrases and the judge qi: left out." in told
    assert not [line for line in told if "Only run-b" in line]


def test_groups_with_a_counterpart_each_are_not_said_to_be_compared_with_one() -> None:
    metrics = make_metrics(FEW)
    comparison = compared(metrics)
    for each in comparison["contrasts"]:
        each["b"] = each["a"].replace("run-a", "run-b")
    found = comparison_metrics(comparison, "guard", 0.95)
    assert "of 3 groups compared, each with its counterpart, " in "".join(found["verdict"]["findings"])
    assert f"with {TOP} (run-b) to" in found["verdict"]["headline"]


def test_the_page_of_a_comparison_is_the_same_page_without_what_was_not_measured() -> None:
    page = Page(comparison_page(comparison_metrics(compared(make_metrics(FEW)), "guard", 0.95)))
    assert sections(page) == ["verdict", "contrasts"]
    assert len(alts(page)) == 4
    assert "run-a against run-b" in page.text
    for alt in alts(page):
        assert f"{TOP} (run-a) against base (run-b) " in alt
        assert "base-again (run-a) against base (run-b) (A/A) " in alt
