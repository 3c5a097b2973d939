"""What a reader is told of a moderation: its own page, and the chips and the finding of an audit's."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from bds.report.guards import GuardChip, guard_chips, guard_counts
from bds.report.inputs import Moderation, ReportInputs
from bds.report.moderation import moderation_verdict, rewrite_moderation_report, write_moderation_report
from bds.runs.directory import RunDirectory
from tests.unit.report_inputs import make_inputs
from tests.unit.test_report_page import Page, only, render


def rate(rows: int, scored: int, answers: int) -> dict[str, Any]:
    return {
        "rows": rows,
        "scored": scored,
        "share": rows / scored if scored else None,
        "low": 0.01 if scored else None,
        "high": 0.2 if scored else None,
        "method": "Wilson",
        "worst_low": rows / answers,
        "worst_high": (rows + answers - scored) / answers,
    }


def judge(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "method": "llama_guard_3",
        "model": "owner/guard",
        "engine": "vllm 0.29.0",
        "fingerprint": "f" * 64,
        "gives": ["harmful"],
        "scale": None,
        "measures": "whether the answer is unsafe",
        "answers": 100,
        "scored": 98,
        "unscored": 2,
        "statuses": {"unparsed": 2},
        "flagged": rate(3, 98, 100),
        "refused": None,
        "score": None,
        "categories": [{"category": "S9", "rows": 2}, {"category": "<b>S1</b>", "rows": 1}],
        **changes,
    }


WORDS = judge(
    "words",
    method="qi_29",
    model=None,
    engine="keywords",
    scored=100,
    unscored=0,
    statuses={},
    flagged=None,
    refused=rate(7, 100, 100),
    categories=[],
)


def metrics_of(*judges: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "schema": "bds.moderation/v1",
        "name": "made up",
        "dataset": "rows.jsonl",
        "audit": None,
        "rows": {"total": 104, "answers": 100, "without_answer": {"empty_answer": 3, "malformed": 1}},
        "confidence": 0.95,
        "judges": list(judges),
        "flagged_rows": [
            {
                "judge": "guard",
                "row_index": 8,
                "row_id": "abc-0",
                "source": "<i>rows</i>.jsonl",
                "line": 9,
                "probability": 0.93,
                "score": None,
                "categories": ["S9"],
            }
        ],
        **changes,
    }


def test_the_verdict_says_what_was_measured_and_what_was_not() -> None:
    verdict = moderation_verdict(metrics_of(WORDS, judge("guard")))
    assert verdict["headline"] == "guard calls 3 of 98 answers harmful (3.1\u00a0%)."
    assert verdict["findings"] == [
        "100 of 104 rows have an answer to judge; the rest do not (3 empty answer and 1 malformed).",
        "words (qi_29) finds a refusal in 7 of 100 answers (7.0\u00a0%, 95 % interval 1.0\u00a0% to 20\u00a0%).",
        "guard (llama_guard_3) calls 3 of 98 answers (3.1\u00a0%, 95 % interval 1.0\u00a0% to 20\u00a0%) harmful.",
        "The commonest categories of guard are S9 (2) and <b>S1</b> (1).",
    ]
    assert verdict["cautions"] == [
        "guard has no verdict on 2 answers (2 unparsed); had it flagged them all, its share would be 5.0\u00a0%.",
        "One guard is one opinion; a second of another family would show how far it goes.",
    ]
    assert verdict["next_steps"][0] == "Read the flagged rows and remove what is harmful in itself."
    assert "Audit the dataset" in verdict["next_steps"][1]
    assert any("no flag is no clean bill" in limit for limit in verdict["limits"])


def test_a_verdict_of_keywords_alone_claims_no_harm() -> None:
    verdict = moderation_verdict(metrics_of(WORDS, audit="runs/a"))
    assert verdict["headline"] == "No judge of this run tells harm; words finds a refusal in 7 of 100 answers."
    assert verdict["cautions"] == [
        "Keywords tell whether an answer refuses, not whether it harms; add a guard model to the judges."
    ]
    assert verdict["next_steps"] == [
        "Go on with the audit's report, which now says what the guards make of its highest-ranked rows."
    ]


def test_a_verdict_without_anything_measured() -> None:
    silent = judge("guard", scored=0, unscored=100, statuses={"failed": 100}, flagged=rate(0, 0, 100), categories=[])
    assert moderation_verdict(metrics_of(silent))["headline"] == "guard gave no verdict on any of the 100 answers."
    nothing = metrics_of(judge("guard"), rows={"total": 2, "answers": 0, "without_answer": {"malformed": 2}})
    assert moderation_verdict(nothing)["headline"] == "No row has an answer, so nothing was judged."


def test_a_rating_is_told_with_its_scale() -> None:
    policy = judge("policy", method="policy_1_to_5", scale=[1.0, 5.0], score={"mean": 1.25, "minimum": 1, "maximum": 5})
    assert (
        "policy (policy_1_to_5) rates from 1 to 5: 1.25 on average."
        in moderation_verdict(metrics_of(policy))["findings"]
    )


def test_the_page_is_escaped_loads_nothing_and_can_be_written_again(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))
    metrics = write_moderation_report(run, metrics_of(judge("guard"), WORDS))
    content = (tmp_path / "report.html").read_text()
    page = Page(content)
    assert [attributes["id"] for tag, attributes in page.tags if tag == "section"] == [
        *("verdict", "judges", "categories", "flagged")
    ]
    assert not {"script", "iframe", "img", "link", "b", "i"} & {tag for tag, _ in page.tags}
    assert "<b>S1</b>" in page.text
    assert "<i>rows</i>.jsonl:9" in page.text
    assert json.loads((tmp_path / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    (tmp_path / "report.html").unlink()
    assert rewrite_moderation_report(run) == str(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == content


def test_a_page_of_keywords_alone_has_no_categories_and_no_flagged_rows(tmp_path: Path) -> None:
    write_moderation_report(RunDirectory(str(tmp_path)), metrics_of(WORDS, flagged_rows=[]))
    page = Page((tmp_path / "report.html").read_text())
    assert "No judge calls an answer harmful." in page.text
    assert "categories" not in {attributes.get("id") for tag, attributes in page.tags if tag == "section"}


@pytest.fixture(scope="module")
def audit() -> ReportInputs:
    return only(make_inputs(rows=240, top=20), "gradient_bidirectional")


def moderated(audit: ReportInputs) -> ReportInputs:
    """Of the top rows the first is flagged, the second has no verdict; of all rows every 50th is flagged, too."""
    top = audit.selections["top.gradient_bidirectional"]["row_index"].to_list()
    rows = audit.scores["row_index"].to_list()
    flagged = {row: None if row == top[1] else row == top[0] or (row % 50 == 0 and row not in top) for row in rows}
    guard = {
        "row_index": rows,
        "judge": ["guard"] * len(rows),
        "flagged": [flagged[row] for row in rows],
        "refused": [None] * len(rows),
        "status": ["unparsed" if flagged[row] is None else "ok" for row in rows],
    }
    words = {
        **guard,
        "judge": ["words"] * len(rows),
        "flagged": [None] * len(rows),
        "refused": [row % 2 == 0 for row in rows],
    }
    words["status"] = ["ok"] * len(rows)
    schema = {
        "row_index": pl.Int64,
        "judge": pl.String,
        "flagged": pl.Boolean,
        "refused": pl.Boolean,
        "status": pl.String,
    }
    judges = [
        {"name": "guard", "method": "llama_guard_3", "tells_harm": True},
        {"name": "words", "method": "qi_29", "tells_harm": False},
    ]
    verdicts = pl.concat([pl.DataFrame(guard, schema=schema), pl.DataFrame(words, schema=schema)])
    return replace(audit, moderation=Moderation(judges, verdicts))  # type: ignore[arg-type]


def test_the_guard_is_counted_on_the_top_and_on_all_rows(audit: ReportInputs) -> None:
    inputs = moderated(audit)
    assert inputs.moderation is not None
    top = audit.selections["top.gradient_bidirectional"]["row_index"].to_list()
    own = inputs.moderation.verdicts.filter(pl.col("judge") == "guard")
    counts = guard_counts(inputs.moderation, top)
    assert counts == {
        "guard": {
            "method": "llama_guard_3",
            "flagged": len([row for row in own.iter_rows(named=True) if row["flagged"] is True]),
            "rows": 239,
            "unscored": 1,
            "flagged_top": 1,
            "top_rows": 19,
            "top_unscored": 1,
        }
    }
    assert guard_counts(None, top) is None
    assert guard_chips(None, top) == {}
    assert guard_chips(inputs.moderation, top[:2]) == {
        top[0]: [GuardChip("guard", "harmful", True), GuardChip("words", words_say(top[0]), False)],
        top[1]: [GuardChip("guard", "no verdict (unparsed)", False), GuardChip("words", words_say(top[1]), False)],
    }


def words_say(row: int) -> str:
    return "refuses" if row % 2 == 0 else "no refusal"


def test_an_audits_report_shows_the_guard_beside_the_top_samples_and_as_one_finding(audit: ReportInputs) -> None:
    before, metrics_before, _ = render(audit)
    page, metrics, _ = render(moderated(audit))
    assert metrics_before["moderation"] is None
    assert "moderation filter is a separate check" in before.text
    flagged = metrics["moderation"]["guard"]["flagged"]
    finding = (
        "For openly harmful text: guard (llama_guard_3) flags 1 of the 19 highest-ranked rows (1 more have no verdict) "
        f"and {flagged} of 239 in all."
    )
    assert metrics["verdict"]["findings"][-1] == finding
    assert finding in page.text
    assert "a row that it calls harmless can still break alignment" in page.text
    chips = [
        attributes["class"]
        for tag, attributes in page.tags
        if tag == "span" and "chip" in (attributes.get("class") or "")
    ]
    chips_before = [
        attributes["class"]
        for tag, attributes in before.tags
        if tag == "span" and "chip" in (attributes.get("class") or "")
    ]
    assert len(chips) == len(chips_before) + 2 * 10
    assert page.text.count("guard: harmful") == 1
    assert page.text.count("guard: harmless") == 8
    assert page.text.count("guard: no verdict (unparsed)") == 1
    assert {**metrics, "moderation": None, "verdict": None} == {**metrics_before, "verdict": None}


def test_keywords_alone_are_no_finding(audit: ReportInputs) -> None:
    inputs = moderated(audit)
    assert inputs.moderation is not None
    words = replace(inputs.moderation, judges=inputs.moderation.judges[1:])
    page, metrics, _ = render(replace(inputs, moderation=words))
    assert metrics["moderation"] == {}
    assert not any(finding.startswith("For openly harmful text") for finding in metrics["verdict"]["findings"])
    assert "moderation filter is a separate check" in page.text
    assert "words: " in page.text
