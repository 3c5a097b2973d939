"""Stage two: every judge judges every answer. Keywords at once, models by one request an answer, one row a verdict."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bds.data.values import canonical_json
from bds.evaluation.answers import Question
from bds.evaluation.client import Client, Reply
from bds.evaluation.concurrency import limited
from bds.evaluation.judges import ENDPOINTS, Judge, JudgeResponse, KeywordJudge, read_response
from bds.evaluation.panel import PanelJudge
from bds.evaluation.private import RowLog
from bds.evaluation.verdicts import Verdict, verdict_on_nothing

FOLDER = "verdicts"


@dataclass(frozen=True)
class Case:
    """One verdict to get."""

    key: str
    """SHA-256 over the answer, the way of judging and the judge's weights."""
    judge: PanelJudge
    question: Question
    answer: Mapping[str, Any]
    """The row of stage one."""


def cases(
    judges: Iterable[PanelJudge], asked: Sequence[Question], answers: Mapping[str, Mapping[str, Any]]
) -> list[Case]:
    """Every answer before every judge. An answer that is not there, or whose request failed, has no case.

    The key holds the answer's text: an answer that a failed request left out and a later one brought is a new case.
    """
    found = []
    for judge in judges:
        fingerprint = judge.fingerprint
        for question in asked:
            answer = answers.get(question.key)
            if answer is None or answer["status"] == "failed":
                continue
            key = hashlib.sha256(canonical_json([question.key, answer["text"], fingerprint])).hexdigest()
            found.append(Case(key, judge, question, answer))
    return found


def verdict_at_once(case: Case) -> Verdict | None:
    """The verdict of keywords, and of every judge on an answer without text; None where a model is to be asked."""
    text = case.answer["text"]
    if isinstance(case.judge.judge, KeywordJudge):
        return case.judge.judge.judge(text)
    return verdict_on_nothing(text)


async def judge_all(
    open_cases: Sequence[Case], client: Client, log: RowLog, on_row: Callable[[Mapping[str, Any]], None]
) -> None:
    """Asks the judges' server about each case, and logs each verdict as soon as it is there.

    A reply without a verdict that can be read is asked for once more; then it is unscored.
    """

    async def one(case: Case) -> None:
        row = await _judged(case, client)
        log.add(row)
        on_row(row)

    await limited(open_cases, one, client.concurrent)


async def _judged(case: Case, client: Client) -> dict[str, Any]:
    judge = case.judge.judge
    assert isinstance(judge, Judge), "keywords judge at once"
    assert case.judge.model is not None
    request = judge.build_request(case.question.prompt.messages, case.answer["text"], case.judge.options)
    route = ENDPOINTS[judge.kind].removeprefix("/v1")
    for last in (False, True):
        reply = await client.post(route, {"model": case.judge.model.served_name, **request})
        response = response_of(reply)
        verdict = judge.parse_response(response, case.judge.options)
        if verdict.reason != "unparsed" or last:
            break
    return verdict_row(case, verdict, response.text, reply)


def response_of(reply: Reply) -> JudgeResponse:
    return JudgeResponse(error=reply.error) if reply.body is None else read_response(reply.body)


def verdict_row(case: Case, verdict: Verdict, said: str, reply: Reply | None) -> dict[str, Any]:
    """The private row of a verdict. `said` is the judge's own reply."""
    return {
        "key": case.key,
        "judge": case.judge.name,
        "generation": case.question.key,
        **asdict(verdict),
        "status": "failed" if verdict.reason == "failed" else "ok",
        "said": said,
        "error": "" if reply is None else reply.error,
        "faults": {} if reply is None else dict(reply.faults),
        "seconds": 0.0 if reply is None else round(reply.seconds, 4),
    }


def verdict_of(row: Mapping[str, Any]) -> Verdict:
    """The verdict of a logged row."""
    return Verdict(
        refused=row["refused"],
        harmful=row["harmful"],
        score=row["score"],
        probability=row["probability"],
        categories=tuple(row["categories"]),
        reason=row["reason"],
    )
