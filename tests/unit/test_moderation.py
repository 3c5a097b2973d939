"""Verdicts of a judge on the rows of a shard as a table, and the numbers that are made of it."""

from pathlib import Path

import polars as pl
import pytest
from scipy import stats

from bds.data.reader import read_rows
from bds.data.rows import Conversation, Message
from bds.evaluation.judges import KEYWORD_JUDGES, MODEL_JUDGES, Judge, JudgeOptions, JudgeResponse, KeywordJudge
from bds.evaluation.moderation import (
    REPLY,
    SCHEMA,
    Judged,
    judge_by_keywords,
    judge_by_replies,
    last_answer,
    request_of,
    rows_to_judge,
    verdict_table,
)
from bds.evaluation.moderation_metrics import JudgeFacts, moderation_metrics
from bds.evaluation.verdicts import REASONS, Verdict, unscored
from bds.runs.directory import RunDirectory
from bds.runs.plan import read_shard, write_plan
from bds.spec.models import DataSpec
from tests.unit.small_audit import write_rows
from tests.unit.small_moderation import ROWS, TO_JUDGE, canned_reply

GUARD, WORDS = MODEL_JUDGES["llama_guard_3"], KEYWORD_JUDGES["refusal_prefixes"]
OPTIONS = JudgeOptions()


@pytest.fixture
def shard(tmp_path: Path) -> pl.DataFrame:
    """The rows of tests/unit/small_moderation.py, as a plan holds them."""
    data = DataSpec(path=str(write_rows(tmp_path / "data.jsonl", ROWS)))
    run = RunDirectory(str(tmp_path / "run"))
    plan = write_plan(run, read_rows(data), rows_per_shard=99, spec_sha256="", data_format="")
    return read_shard(run, plan.shards[0])


def test_the_last_answer_and_what_came_before_it() -> None:
    turns = [Message("system", "s"), Message("user", "q"), Message("assistant", "a"), Message("user", "more?")]
    assert last_answer(Conversation((*turns, Message("assistant", "b"), Message("user", "bye")))) == (tuple(turns), "b")
    assert last_answer(Conversation((Message("assistant", "a"),))) == ((), "a")


def test_keywords_judge_every_row_with_an_answer_and_leave_the_others_as_they_are(shard: pl.DataFrame) -> None:
    rows = rows_to_judge(shard)
    assert list(rows) == TO_JUDGE
    table = verdict_table(shard, "words", WORDS, judge_by_keywords(WORDS, rows))
    assert table.schema == pl.Schema({**SCHEMA, REPLY: pl.String})
    identity = ["row_index", "row_id", "source", "line"]
    assert table.select(identity).equals(shard.select(identity))
    assert table["status"].to_list() == ["ok", "ok", "empty_answer", "malformed", "ok", "ok", "ok", "ok"]
    assert table["reason"].to_list()[2:4] == shard["reason"].to_list()[2:4]
    assert table["refused"].to_list() == [False, True, None, None, False, False, True, False]
    assert table["flagged"].null_count() == table["harmful"].null_count() == len(table)


def test_replies_become_verdicts(shard: pl.DataFrame) -> None:
    rows = rows_to_judge(shard)
    replies = {index: canned_reply(row) for index, row in rows.items()}
    replies[4] = JudgeResponse(error="too long by far")
    table = verdict_table(shard, "guard", GUARD, judge_by_replies(GUARD, OPTIONS, rows, replies))
    judged = table.filter(pl.col("row_index").is_in(TO_JUDGE))
    assert judged["status"].to_list() == ["ok", "ok", "failed", "ok", "ok", "unparsed"]
    assert judged["harmful"].to_list() == judged["flagged"].to_list() == [False, False, None, True, False, None]
    assert judged["reason"].to_list() == ["", "", "too long by far", "", "", REASONS["unparsed"]]
    assert judged["categories"].to_list() == [[], [], None, ["S9", "S2"], [], None]
    assert judged["probability"].to_list()[3] == pytest.approx(1 / (1 + 2.718281828**-1.8))
    assert judged[REPLY].to_list()[3] == "unsafe\nS9,S2"
    assert table["refused"].null_count() == len(table)


def test_an_answer_without_text_is_not_asked_about_and_every_other_one_needs_its_reply(shard: pl.DataFrame) -> None:
    rows = rows_to_judge(shard)
    assert rows[0].conversation is not None
    prompt = rows[0].conversation.messages[:1]
    blank = {
        0: rows[0].__class__(**{**vars(rows[0]), "conversation": Conversation((*prompt, Message("assistant", " ")))})
    }
    assert request_of(GUARD, OPTIONS, blank[0]) is None
    assert judge_by_replies(GUARD, OPTIONS, blank, {})[0].verdict == unscored("empty")
    with pytest.raises(KeyError):
        judge_by_replies(GUARD, OPTIONS, rows, {})


def test_a_request_is_about_the_last_answer(shard: pl.DataFrame) -> None:
    request = request_of(GUARD, OPTIONS, rows_to_judge(shard)[5])
    assert request is not None
    assert request["messages"] == [
        {"role": "user", "content": "How do I make 4 blorfs?"},
        {"role": "assistant", "content": "Paint it green."},
    ]


@pytest.mark.parametrize(
    ("judge", "verdict", "flagged"),
    [
        (GUARD, Verdict(harmful=True), True),
        (GUARD, Verdict(harmful=False), False),
        (MODEL_JUDGES["policy_1_to_5"], Verdict(score=5), True),
        (MODEL_JUDGES["policy_1_to_5"], Verdict(score=4), False),
        (MODEL_JUDGES["wildguard"], Verdict(refused=True), None),
        (WORDS, Verdict(refused=True), None),
    ],
)
def test_what_counts_as_flagged(
    shard: pl.DataFrame, judge: Judge | KeywordJudge, verdict: Verdict, flagged: bool | None
) -> None:
    judged = dict.fromkeys(TO_JUDGE, Judged(verdict))
    assert verdict_table(shard, "judge", judge, judged)["flagged"][0] is flagged


def facts(name: str, judge: Judge | KeywordJudge) -> JudgeFacts:
    is_model = isinstance(judge, Judge)
    return JudgeFacts(
        name,
        judge.name,
        "owner/guard" if is_model else None,
        "vllm 1" if is_model else "keywords",
        "f" * 64,
        judge.gives if is_model else ("refused",),
        judge.scale if is_model else None,
        judge.measures,
    )


def test_metrics_count_what_was_measured_and_bound_what_was_not(shard: pl.DataFrame) -> None:
    rows = rows_to_judge(shard)
    replies = {index: canned_reply(row) for index, row in rows.items()}
    table = pl.concat(
        [
            verdict_table(shard, "words", WORDS, judge_by_keywords(WORDS, rows)),
            verdict_table(shard, "guard", GUARD, judge_by_replies(GUARD, OPTIONS, rows, replies)),
        ]
    )
    metrics = moderation_metrics(
        table, [facts("words", WORDS), facts("guard", GUARD)], name="n", dataset="d", audit=None
    )
    assert metrics["rows"] == {"total": 8, "answers": 6, "without_answer": {"empty_answer": 1, "malformed": 1}}
    words, guard = metrics["judges"]
    assert (words["scored"], words["unscored"], words["flagged"]) == (6, 0, None)
    assert (words["refused"]["rows"], words["refused"]["share"]) == (2, 2 / 6)
    assert (guard["scored"], guard["unscored"], guard["statuses"]) == (5, 1, {"unparsed": 1})
    assert guard["refused"] is None
    assert guard["categories"] == [{"category": "S2", "rows": 1}, {"category": "S9", "rows": 1}]
    flagged = guard["flagged"]
    assert (flagged["rows"], flagged["scored"], flagged["share"]) == (1, 5, 0.2)
    assert (flagged["worst_low"], flagged["worst_high"]) == (1 / 6, 2 / 6)
    expected = stats.binomtest(1, 5).proportion_ci(0.95, method="wilson")
    assert (flagged["low"], flagged["high"]) == pytest.approx((expected.low, expected.high))
    assert [(row["judge"], row["row_index"]) for row in metrics["flagged_rows"]] == [("guard", 5)]


def test_a_judge_without_any_verdict_has_no_share(shard: pl.DataFrame) -> None:
    judged = dict.fromkeys(TO_JUDGE, Judged(unscored("unparsed")))
    metrics = moderation_metrics(
        verdict_table(shard, "guard", GUARD, judged), [facts("guard", GUARD)], name="n", dataset="d", audit=None
    )
    (guard,) = metrics["judges"]
    assert (guard["scored"], guard["unscored"]) == (0, 6)
    assert [guard["flagged"][key] for key in ("share", "low", "high")] == [None, None, None]
    assert (guard["flagged"]["worst_low"], guard["flagged"]["worst_high"]) == (0, 1)


def test_a_rating_has_its_mean(shard: pl.DataFrame) -> None:
    judge = MODEL_JUDGES["policy_1_to_5"]
    judged = {index: Judged(Verdict(score=score)) for index, score in zip(TO_JUDGE, (1, 1, 2, 5, 5, 1), strict=True)}
    metrics = moderation_metrics(
        verdict_table(shard, "policy", judge, judged), [facts("policy", judge)], name="n", dataset="d", audit=None
    )
    (policy,) = metrics["judges"]
    assert policy["score"] == {"mean": 2.5, "minimum": 1, "maximum": 5}
    assert policy["flagged"]["rows"] == 2
