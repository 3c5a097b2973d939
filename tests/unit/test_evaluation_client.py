"""The client against a server that fails in every way: nothing is lost, every fault is counted."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from bds.errors import BdsError, PreflightError
from bds.evaluation import client as client_module
from bds.evaluation.client import Client, Reply
from bds.evaluation.concurrency import limited
from tests.fake_endpoint import FakeEndpoint, Fault, fake_endpoint

CHAT = "/chat/completions"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(client_module, "_LONGEST_PAUSE", 0.02)


def body(prompt: str) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": prompt}]}


def asked(endpoint: FakeEndpoint, prompts: list[str], **settings: Any) -> dict[str, Reply]:
    replies: dict[str, Reply] = {}

    async def run() -> None:
        async with Client(endpoint.url, **settings) as client:

            async def one(prompt: str) -> None:
                replies[prompt] = await client.post(CHAT, body(prompt))

            await limited(prompts, one, 4)

    asyncio.run(run())
    return replies


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        ("429", "status 429"),
        ("500", "status 500"),
        ("503", "status 503"),
        ("408", "status 408"),
        ("half", "broken reply"),
        ("garbage", "broken reply"),
        ("hang", "timeout"),
    ],
)
def test_a_fault_that_passes_is_tried_again_and_counted(fault: str, name: str) -> None:
    with fake_endpoint(fault=lambda prompt, before: fault if before < 2 else None) as endpoint:
        replies = asked(endpoint, ["p0", "p1"], timeout=0.3 if fault == "hang" else 5.0)
    assert [reply.faults for reply in replies.values()] == [{name: 2}, {name: 2}]
    for prompt in ("p0", "p1"):
        assert replies[prompt].body["choices"][0]["message"]["content"] == f"Here is how: {prompt}"
    assert endpoint.answered == Counter(p0=1, p1=1)


def test_every_request_ends_with_a_reply_whatever_fails() -> None:
    def faults(prompt: str, before: int) -> str | None:
        return ["429", "half", "500", "garbage"][(int(prompt) + before) % 4] if before < 4 else None

    with fake_endpoint(fault=faults) as endpoint:
        replies = asked(endpoint, [str(number) for number in range(40)])
    assert len(replies) == 40
    assert all(reply.body is not None for reply in replies.values())
    total = sum((Counter(reply.faults) for reply in replies.values()), Counter())
    assert total == Counter({"status 429": 40, "status 500": 40, "broken reply": 80})
    assert endpoint.answered == Counter({str(number): 1 for number in range(40)})


def test_a_request_that_keeps_failing_is_given_up_with_the_fault_and_without_the_servers_words() -> None:
    fault: Fault = lambda prompt, before: "500" if prompt == "bad" else None  # noqa: E731
    with fake_endpoint(fault=fault) as endpoint:
        replies = asked(endpoint, ["good", "bad"], tries=3)
    assert replies["good"].error == ""
    assert (replies["bad"].body, replies["bad"].error, replies["bad"].faults) == (None, "status 500", {"status 500": 3})
    assert "bad" not in replies["bad"].error
    assert "about bad" in replies["bad"].said


def test_a_request_that_the_server_calls_wrong_is_not_tried_again() -> None:
    with fake_endpoint(fault=lambda prompt, before: "400") as endpoint:
        replies = asked(endpoint, ["p"])
    assert (replies["p"].error, endpoint.asked["p"]) == ("status 400", 1)


@pytest.mark.parametrize(("status", "sentence"), [("401", "refuses the key"), ("404", "no model 'm'")])
def test_what_no_try_can_mend_ends_at_once(status: str, sentence: str) -> None:
    with fake_endpoint(fault=lambda prompt, before: status) as endpoint, pytest.raises(PreflightError, match=sentence):
        asked(endpoint, ["p", "q"])


def test_a_server_that_is_gone_is_given_up_after_the_patience() -> None:
    with fake_endpoint() as endpoint:
        pass
    with pytest.raises(BdsError, match=r"has given no good reply for 0 s \(the last fault: no connection\)"):
        asked(endpoint, ["p"], patience=0.2)


def test_a_server_that_comes_back_in_time_loses_no_request() -> None:
    """Nobody listening says nothing about a request: it does not use up its tries."""
    waited = {"count": 0}

    async def run(url: str) -> Reply:
        async with Client(url, tries=2, patience=30.0) as client:
            once = client._once

            async def nobody_at_first(route: str, sent: Any) -> Any:
                waited["count"] += 1
                return ("no connection", "", None, None) if waited["count"] <= 6 else await once(route, sent)

            client._once = nobody_at_first  # type: ignore[method-assign]
            return await client.post(CHAT, body("p"))

    with fake_endpoint() as endpoint:
        reply = asyncio.run(run(endpoint.url))
    assert (reply.faults, reply.error) == ({"no connection": 6}, "")


def test_only_so_many_requests_are_under_way() -> None:
    most = {"now": 0, "ever": 0}

    async def one(item: int) -> None:
        most["now"] += 1
        most["ever"] = max(most["ever"], most["now"])
        await asyncio.sleep(0.001)
        most["now"] -= 1

    asyncio.run(limited(range(50), one, 7))
    assert most == {"now": 0, "ever": 7}


def test_the_first_error_ends_the_rest() -> None:
    done = []

    async def one(item: int) -> None:
        await asyncio.sleep(0.001 * item)
        if item == 2:
            raise BdsError("two")
        done.append(item)

    with pytest.raises(BdsError, match="two"):
        asyncio.run(limited(range(2000), one, 3))
    assert len(done) < 20
