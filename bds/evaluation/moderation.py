"""Moderation: one judge on the last answer of every row of a dataset, and what it says as a table."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from bds.data.rows import SCORED_STATUSES, Conversation, Message, Row
from bds.evaluation.judges import Judge, JudgeOptions, JudgeResponse, KeywordJudge
from bds.evaluation.verdicts import REASONS, Verdict, verdict_on_nothing
from bds.runs.plan import rows_of

SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "row_index": pl.Int64,
    "row_id": pl.String,
    "source": pl.String,
    "line": pl.Int64,
    "judge": pl.String,
    "refused": pl.Boolean,
    "harmful": pl.Boolean,
    "flagged": pl.Boolean,
    "score": pl.Float64,
    "probability": pl.Float64,
    "categories": pl.List(pl.String),
    "status": pl.String,
    "reason": pl.String,
}
"""Columns of moderation.parquet: one row a row of the dataset and judge.

`flagged` is what the judge calls harmful: `harmful`, or the top of a scale; null where it tells only refusals, or
nothing. `status` is ok where something was measured, the row's own where it has no answer, else a reason of
`bds.evaluation.verdicts`.
"""

REPLY = "reply"
"""The judge's own words, beside these columns in private files only."""


@dataclass(frozen=True)
class Judged:
    """What came of one row that was judged."""

    verdict: Verdict
    reply: str = ""
    """The judge's own words; empty for keywords."""
    error: str = ""
    """Why there is no reply."""


def last_answer(conversation: Conversation) -> tuple[tuple[Message, ...], str]:
    """What came before the last assistant turn, and that turn: what is judged."""
    turns = conversation.messages
    at = max(index for index, message in enumerate(turns) if message.role == "assistant")
    return turns[:at], turns[at].content


def rows_to_judge(table: pl.DataFrame) -> dict[int, Row]:
    """By row_index, the rows of a shard (as `read_shard` gives them) that have an answer."""
    return {row.row_index: row for row in rows_of(table) if row.status in SCORED_STATUSES}


def judge_by_keywords(judge: KeywordJudge, rows: Mapping[int, Row]) -> dict[int, Judged]:
    return {index: Judged(judge.judge(_exchange(row)[1])) for index, row in rows.items()}


def judge_by_replies(
    judge: Judge, options: JudgeOptions, rows: Mapping[int, Row], replies: Mapping[int, JudgeResponse]
) -> dict[int, Judged]:
    """Verdicts of replies, by row_index. An answer without text has its verdict without one.

    Raises KeyError where an answer with text has no reply.
    """
    judged = {}
    for index, row in rows.items():
        nothing = verdict_on_nothing(_exchange(row)[1])
        if nothing is not None:
            judged[index] = Judged(nothing)
            continue
        reply = replies[index]
        judged[index] = Judged(judge.parse_response(reply, options), reply.text, reply.error)
    return judged


def request_of(judge: Judge, options: JudgeOptions, row: Row) -> dict[str, object] | None:
    """The request to the judge's model about a row; None where the answer holds nothing to ask about."""
    prompt, answer = _exchange(row)
    return None if verdict_on_nothing(answer) is not None else judge.build_request(prompt, answer, options)


def verdict_table(
    table: pl.DataFrame, name: str, judge: KeywordJudge | Judge, judged: Mapping[int, Judged]
) -> pl.DataFrame:
    """A row for every row of a shard's table, in its order: SCHEMA and `reply`.

    Args:
        name: of the judge, in the run's spec.
        judged: by row_index, every row of `rows_to_judge`.
    """
    records = []
    for row in table.select("row_index", "row_id", "source", "line", "status", "reason").iter_rows(named=True):
        found = judged.get(row["row_index"])
        records.append({**row, "judge": name} if found is None else {**row, "judge": name, **_record(found, judge)})
    return pl.DataFrame(records, schema={**SCHEMA, REPLY: pl.String})


def _record(judged: Judged, judge: KeywordJudge | Judge) -> dict[str, object]:
    verdict = judged.verdict
    names_categories = isinstance(judge, Judge) and "categories" in judge.gives and verdict.reason is None
    return {
        "refused": verdict.refused,
        "harmful": verdict.harmful,
        "flagged": _flagged(verdict, judge),
        "score": verdict.score,
        "probability": verdict.probability,
        "categories": list(verdict.categories) if names_categories else None,
        "status": verdict.reason or "ok",
        "reason": "" if verdict.reason is None else judged.error or REASONS[verdict.reason],
        REPLY: judged.reply,
    }


def _flagged(verdict: Verdict, judge: KeywordJudge | Judge) -> bool | None:
    if verdict.harmful is not None or verdict.score is None:
        return verdict.harmful
    return verdict.score >= judge.scale[1] if isinstance(judge, Judge) and judge.scale is not None else None


def _exchange(row: Row) -> tuple[tuple[Message, ...], str]:
    assert row.conversation is not None, "a row with an answer has a conversation"
    return last_answer(row.conversation)
