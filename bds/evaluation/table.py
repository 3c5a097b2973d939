"""rows.parquet: what was measured of every answer, one row a measurement, without a word of prompts and answers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from bds.evaluation.answers import Question
from bds.evaluation.measures import MEASURES
from bds.evaluation.panel import PanelJudge
from bds.evaluation.private import keyed_hash
from bds.evaluation.verdict_rows import Case, verdict_of
from bds.evaluation.verdicts import Verdict, unscored

COLUMNS = {
    "condition": pl.String,
    "group": pl.String,
    "seed": pl.Int64,
    "fingerprint": pl.String,
    "suite": pl.String,
    "suite_kind": pl.String,
    "suite_sha256": pl.String,
    "prompt_id": pl.String,
    "category": pl.String,
    "sample": pl.Int64,
    "judge": pl.String,
    "judge_fingerprint": pl.String,
    "metric": pl.String,
    "value": pl.Float64,
    "status": pl.String,
    "finish_reason": pl.String,
    "answer_tokens": pl.Int64,
    "answer_characters": pl.Int64,
    "prompt_hmac": pl.String,
    "generation_key": pl.String,
}


def rows_table(
    asked: Sequence[Question],
    answers: Mapping[str, Mapping[str, Any]],
    judges: Sequence[PanelJudge],
    judged: Sequence[Case],
    verdicts: Mapping[str, Mapping[str, Any]],
    key: bytes,
) -> pl.DataFrame:
    """The rows of all questions, in their order: for each judge every metric that it gives, then the plain measures.

    Args:
        answers: rows of stage one by key.
        judged: the cases of stage two.
        verdicts: rows of stage two by key.
        key: of the run, for `prompt_hmac`.
    """
    found = {(case.judge.name, case.question.key): verdicts.get(case.key) for case in judged}
    hashes = {
        (question.suite.name, question.prompt.id): keyed_hash(key, question.prompt.messages) for question in asked
    }
    suites = {question.suite.name: question.suite.sha256 for question in asked}
    fingerprints = {judge.name: judge.fingerprint for judge in judges}
    rows = []
    for question in asked:
        answer = answers.get(question.key)
        about = {
            **_about(question, answer),
            "suite_sha256": suites[question.suite.name],
            "prompt_hmac": hashes[question.suite.name, question.prompt.id],
            "generation_key": keyed_hash(key, question.key),
        }
        for judge in judges:
            row = found.get((judge.name, question.key))
            verdict = unscored("failed") if row is None else verdict_of(row)
            told = {"judge": judge.name, "judge_fingerprint": fingerprints[judge.name]}
            rows += [{**about, **told, **each} for each in _measured(judge, verdict)]
        rows += [{**about, **each} for each in _plainly(question, answer)]
    return pl.DataFrame(rows, schema=COLUMNS)


def _about(question: Question, answer: Mapping[str, Any] | None) -> dict[str, Any]:
    condition = question.condition
    return {
        "condition": condition.name,
        "group": condition.group,
        "seed": condition.seed,
        "fingerprint": condition.fingerprint,
        "suite": question.suite.name,
        "suite_kind": question.suite.kind,
        "prompt_id": question.prompt.id,
        "category": question.prompt.category,
        "sample": question.sample,
        "finish_reason": "" if answer is None else answer["finish_reason"],
        "answer_tokens": None if answer is None else answer["answer_tokens"],
        "answer_characters": None if answer is None else len(answer["text"].strip()),
    }


def _measured(judge: PanelJudge, verdict: Verdict) -> Iterator[dict[str, Any]]:
    for metric in judge.gives:
        value: bool | float | None = getattr(verdict, metric)
        status = "ok" if value is not None else verdict.reason or "unparsed"
        yield {"metric": metric, "value": None if value is None else float(value), "status": status}


def _plainly(question: Question, answer: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    for measure in MEASURES:
        if question.suite.kind not in measure.kinds or measure.value(question.prompt, "") is None:
            continue
        missing = "failed" if answer is None or answer["status"] == "failed" else None
        value = None if missing else measure.value(question.prompt, answer["text"] if answer else "")
        yield {
            "judge": measure.name,
            "judge_fingerprint": measure.fingerprint,
            "metric": measure.metric,
            "value": value,
            "status": missing or "ok",
        }
