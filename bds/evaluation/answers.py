"""Stage one: every condition answers every prompt. One request an answer, one row an answer, whatever comes of it."""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bds.data.values import canonical_json
from bds.evaluation.client import Client, Reply
from bds.evaluation.concurrency import limited
from bds.evaluation.conditions import Condition
from bds.evaluation.judges.responses import read_response
from bds.evaluation.private import RowLog
from bds.evaluation.prompting import CHAT, COMPLETIONS, Renderer, conversation, sampling_fields
from bds.evaluation.suites.suite import Suite, SuitePrompt
from bds.spec.evaluate import SamplingSpec

FOLDER = "generations"
Status = Literal["ok", "empty", "failed"]


@dataclass(frozen=True)
class Question:
    """One answer to get."""

    key: str
    """SHA-256 over everything that decides the answer; neither a path nor a served name is part of it."""
    condition: Condition
    suite: Suite
    prompt: SuitePrompt
    sample: int


@dataclass(frozen=True)
class Request:
    """How a question is put to a server."""

    route: str
    body: Mapping[str, Any]
    impossible: str = ""
    """Why it cannot be asked at all; empty where it can."""


def questions(
    conditions: Iterable[Condition], suites: Sequence[Suite], sampling: SamplingSpec, engine: Callable[[Condition], str]
) -> list[Question]:
    """Every sample of every prompt of every suite for every condition, in that order.

    Args:
        engine: name and version of what computes a condition's answers.
    """
    settings = sampling.model_dump(mode="json", exclude={"samples"})
    found = []
    seen: Counter[str] = Counter()
    for condition in conditions:
        # A condition served again under another name (A/A) answers for itself: its noise is what is asked for.
        repetition = seen[condition.fingerprint]
        seen[condition.fingerprint] += 1
        for suite in suites:
            for prompt in suite.prompts:
                for sample in range(sampling.samples):
                    turns = [[message.role, message.content] for message in prompt.messages]
                    content = [condition.fingerprint, repetition, engine(condition), settings, prompt.id, turns, sample]
                    key = hashlib.sha256(canonical_json(content)).hexdigest()
                    found.append(Question(key, condition, suite, prompt, sample))
    return found


def request_of(question: Question, sampling: SamplingSpec, renderer: Renderer | None) -> Request:
    """The request of a question: rendered where bds serves the condition, as messages for an endpoint."""
    turns = conversation(question.prompt.messages, sampling.system_prompt)
    fields = sampling_fields(sampling, question.prompt.id, question.sample)
    name = question.condition.served_name
    if renderer is None:
        return Request(CHAT, {"model": name, "messages": turns, **fields})
    tokens = renderer(turns)
    if renderer.context is not None:
        fields["max_tokens"] = min(sampling.max_tokens, renderer.context - len(tokens))
        if fields["max_tokens"] < 1:
            why = f"the prompt has {len(tokens)} tokens and the model takes {renderer.context} with the answer"
            return Request(COMPLETIONS, {}, impossible=why)
    return Request(COMPLETIONS, {"model": name, "prompt": tokens, "stop_token_ids": renderer.stop_ids, **fields})


async def ask_all(
    asked: Sequence[Question],
    client: Client,
    request: Callable[[Question], Request],
    log: RowLog,
    on_row: Callable[[Mapping[str, Any]], None],
) -> None:
    """Asks them, as many at a time as the client allows, and logs each row as soon as it is there."""

    async def one(question: Question) -> None:
        put = request(question)
        reply = Reply(None, put.impossible) if put.impossible else await client.post(put.route, put.body)
        row = row_of(question, reply)
        log.add(row)
        on_row(row)

    await limited(asked, one, client.concurrent)


def row_of(question: Question, reply: Reply) -> dict[str, Any]:
    """The private row of an answer. A reply without text is empty; one without a body has failed."""
    response = read_response(reply.body) if reply.body is not None else None
    usage = reply.body.get("usage") if isinstance(reply.body, dict) else None
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    status: Status = "failed" if response is None else "ok" if response.text.strip() else "empty"
    return {
        "key": question.key,
        "condition": question.condition.name,
        "suite": question.suite.name,
        "prompt_id": question.prompt.id,
        "sample": question.sample,
        "status": status,
        "text": "" if response is None else response.text,
        "finish_reason": "" if response is None else response.finish_reason,
        "answer_tokens": tokens if isinstance(tokens, int) else None,
        "error": reply.error,
        "said": reply.said,
        "faults": dict(reply.faults),
        "seconds": round(reply.seconds, 4),
        "at": round(time.time(), 3),
    }
