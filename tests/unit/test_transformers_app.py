"""The transformers engine behind OpenAI's interface, compared with transformers itself."""

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from bds.errors import BdsError, PreflightError
from bds.evaluation.client import Client
from bds.evaluation.engines.canary import check_canary, largest_difference
from bds.evaluation.engines.plan import EnginePlan, EngineSettings, ServedModel, engine_plans
from bds.evaluation.engines.transformers_app import TransformersApp, create_app
from bds.evaluation.engines.transformers_engine import TransformersEngine
from bds.evaluation.generation import greedy_answers
from tests.served_models import OTHER_TEMPLATE, greedy, load, logprobs, write_models
from tests.tiny_chat import byte_tokenizer

PROMPTS = ["hi there", "one two", "a longer one than these"]
SENTINEL = "zorblewick"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ServedModel]:
    return write_models(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def plan(models: dict[str, ServedModel]) -> EnginePlan:
    (plan,) = engine_plans(list(models.values()), EngineSettings(engine="transformers", max_model_len=128))
    return plan


@pytest.fixture(scope="module")
def app(plan: EnginePlan) -> TransformersApp:
    return create_app(plan)


@pytest.fixture(scope="module")
def reference(models: dict[str, ServedModel]) -> Callable[[str], Any]:
    return lambda name: load(models[name])


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


def ask(app: TransformersApp, route: str, *bodies: dict[str, Any]) -> list[httpx.Response]:
    """The responses to requests that are sent at once."""

    async def send() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here", timeout=60) as client:
            return await asyncio.gather(*[client.post(route, json=body) for body in bodies])

    return asyncio.run(send())


def complete(app: TransformersApp, *bodies: dict[str, Any]) -> list[dict[str, Any]]:
    responses = ask(app, "/v1/completions", *bodies)
    assert [each.status_code for each in responses] == [200] * len(bodies), responses[0].text
    return [each.json() for each in responses]


def test_greedy_answers_of_all_names_at_once_are_those_of_transformers(
    app: TransformersApp, reference: Callable[[str], Any], tokenizer: PreTrainedTokenizerFast
) -> None:
    asked = [(name, prompt) for prompt in PROMPTS for name in ("base", "a.1", "tuned", "b")]
    bodies = [{"model": name, "prompt": prompt, "max_tokens": 12, "temperature": 0} for name, prompt in asked]
    for (name, prompt), body in zip(asked, complete(app, *bodies), strict=True):
        ids = tokenizer(prompt)["input_ids"]
        expected = greedy(reference(name), ids, 12)
        assert body["model"] == name
        assert body["choices"][0]["text"] == tokenizer.decode(expected, skip_special_tokens=True), name
        assert body["choices"][0]["finish_reason"] == ("stop" if expected[-1] == tokenizer.eos_token_id else "length")
        assert body["usage"] == {
            "prompt_tokens": len(ids), "completion_tokens": len(expected), "total_tokens": len(ids) + len(expected)
        }  # fmt: skip


def test_a_request_may_come_while_other_weights_are_loaded(
    app: TransformersApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_now = TransformersEngine._load

    def load_slowly(engine: TransformersEngine, weights: tuple[str, str | None]) -> Any:
        time.sleep(0.4)
        return load_now(engine, weights)

    monkeypatch.setattr(TransformersEngine, "_load", load_slowly)

    async def send() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here", timeout=60) as client:

            async def ask_after(seconds: float, model: str) -> int:
                await asyncio.sleep(seconds)
                body = {"model": model, "prompt": "hi", "max_tokens": 2, "temperature": 0}
                return (await client.post("/v1/completions", json=body)).status_code

            # The second comes when the weights of the first are half there, whichever were in memory before.
            return await asyncio.gather(
                *[ask_after(0.2 * place, name) for place, name in enumerate(("tuned", "base", "tuned", "base"))]
            )

    assert asyncio.run(send()) == [200] * 4


def test_prompts_as_text_as_tokens_and_several_of_each_are_the_same(
    app: TransformersApp, tokenizer: PreTrainedTokenizerFast
) -> None:
    ids = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    sampling = {"model": "base", "max_tokens": 8, "temperature": 0}
    texts, tokens, *single = complete(
        app,
        {**sampling, "prompt": PROMPTS},
        {**sampling, "prompt": ids},
        *[{**sampling, "prompt": each} for each in ids],
    )
    assert [choice["index"] for choice in texts["choices"]] == [0, 1, 2]
    assert texts["choices"] == tokens["choices"]
    assert [choice["text"] for choice in texts["choices"]] == [each["choices"][0]["text"] for each in single]


def test_a_chat_is_rendered_by_the_template_of_the_named_model(
    app: TransformersApp, reference: Callable[[str], Any], tokenizer: PreTrainedTokenizerFast
) -> None:
    bodies = [
        {"model": name, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9, "temperature": 0}
        for name in ("a.1", "b", "base")
    ]
    responses = [each.json() for each in ask(app, "/v1/chat/completions", *bodies)]
    expected = {}
    for name in ("a.1", "b", "base"):
        tokenizer.chat_template = OTHER_TEMPLATE if name == "b" else byte_tokenizer().chat_template
        expected[name] = greedy_answers(reference(name), tokenizer, ["hi"], 9)[0]
    found = {each["model"]: each["choices"][0]["message"] for each in responses}
    assert {name: message["content"].strip() for name, message in found.items()} == expected
    assert responses[1]["usage"]["prompt_tokens"] == len("hi!")
    assert found["b"]["role"] == "assistant"


def test_log_probabilities_are_the_models_own(
    app: TransformersApp, reference: Callable[[str], Any], tokenizer: PreTrainedTokenizerFast
) -> None:
    ids = tokenizer("some words")["input_ids"]
    body = {"model": "a.1", "prompt": ids, "max_tokens": 3, "logprobs": 4, "echo": True, "temperature": 0}
    (reply,) = complete(app, body)
    told = reply["choices"][0]["logprobs"]
    model = reference("a.1")
    answer = greedy(model, ids, 3)
    tokens = ids + answer
    logprobs_TV = logprobs(model, tokens)
    assert told["tokens"] == [tokenizer.decode([token]) for token in tokens]
    assert told["token_logprobs"][0] is told["top_logprobs"][0] is None
    for place in range(1, len(tokens)):
        before_V = logprobs_TV[place - 1]
        assert told["token_logprobs"][place] == pytest.approx(float(before_V[tokens[place]]), abs=1e-5)
        best = before_V.topk(4)
        likeliest = {tokenizer.decode([token]) for token in [*best.indices.tolist(), tokens[place]]}
        assert set(told["top_logprobs"][place]) == likeliest
        assert max(told["top_logprobs"][place].values()) == pytest.approx(float(best.values[0]), abs=1e-5)
    assert told["text_offset"][:3] == [0, 1, 2]
    assert reply["choices"][0]["text"].startswith("some words")


def test_chat_log_probabilities_have_their_own_form(app: TransformersApp) -> None:
    chat = {"model": "base", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "temperature": 0}
    (response,) = ask(app, "/v1/chat/completions", {**chat, "logprobs": True, "top_logprobs": 3})
    (first, second) = response.json()["choices"][0]["logprobs"]["content"]
    assert len(first["top_logprobs"]) == len(second["top_logprobs"]) == 3
    assert first["logprob"] == max(each["logprob"] for each in first["top_logprobs"])
    assert bytes(first["bytes"]).decode() == first["token"]


def test_stops_end_an_answer_and_are_no_part_of_it(app: TransformersApp, tokenizer: PreTrainedTokenizerFast) -> None:
    body = {"model": "a.1", "prompt": "hi there", "max_tokens": 12, "temperature": 0}
    whole = complete(app, body)[0]["choices"][0]["text"]
    assert len(whole) > 6
    stop = whole[4:6]
    by_text, by_token = complete(
        app, {**body, "stop": ["never said", stop]}, {**body, "stop_token_ids": tokenizer(whole[3])["input_ids"]}
    )
    assert by_text["choices"][0]["text"] == whole[: whole.index(stop)]
    assert by_token["choices"][0]["text"] == whole[: whole.index(whole[3])]
    assert by_text["choices"][0]["finish_reason"] == by_token["choices"][0]["finish_reason"] == "stop"


def test_seeds_draw_alike_alone_and_in_company(app: TransformersApp) -> None:
    body = {"model": "base", "prompt": "hi there", "max_tokens": 10, "temperature": 1.0, "top_p": 0.9}
    first = [each["choices"][0]["text"] for each in complete(app, *[{**body, "seed": seed} for seed in range(6)])]
    again = [complete(app, {**body, "seed": seed})[0]["choices"][0]["text"] for seed in range(6)]
    assert first == again
    assert len(set(first)) == 6


def test_draws_follow_the_models_probabilities_within_top_p(
    app: TransformersApp, reference: Callable[[str], Any], tokenizer: PreTrainedTokenizerFast
) -> None:
    ids = tokenizer("hi")["input_ids"]
    temperature, top_p, draws = 0.5, 0.6, 600
    bodies = [
        {"model": "base", "prompt": ids, "max_tokens": 1, "temperature": temperature, "top_p": top_p, "seed": seed,
         "logprobs": 0}
        for seed in range(draws)
    ]  # fmt: skip
    drawn = [each["choices"][0]["logprobs"]["tokens"][0] for each in complete(app, *bodies)]
    probabilities = torch.softmax(logprobs(reference("base"), ids)[-1] / temperature, dim=-1)
    order = probabilities.argsort(descending=True).tolist()
    kept, mass = [], 0.0
    while mass < top_p:
        kept.append(order[len(kept)])
        mass += float(probabilities[kept[-1]])
    assert set(drawn) <= {tokenizer.decode([token]) for token in kept}
    likeliest = float(probabilities[kept[0]]) / mass
    share = drawn.count(tokenizer.decode([kept[0]])) / draws
    assert abs(share - likeliest) < 5 * math.sqrt(likeliest * (1 - likeliest) / draws)


@pytest.mark.parametrize(
    ("route", "change", "status", "words"),
    [
        ("/v1/completions", {"model": "nobody"}, 404, "'nobody' is not served here; served are base"),
        ("/v1/completions", {"presence_penalty": 1}, 400, "'presence_penalty' cannot be used here"),
        ("/v1/completions", {"stream": True}, 400, "'stream' cannot be used here"),
        ("/v1/completions", {"prompt": SENTINEL * 20}, 400, "more than the model's 128"),
        ("/v1/completions", {"prompt": []}, 400, "'prompt"),
        ("/v1/chat/completions", {"prompt": SENTINEL}, 400, "'messages' cannot be used here"),
        ("/v1/embeddings", {}, 404, "there is no POST /v1/embeddings here"),
    ],
)
def test_what_it_cannot_do_is_refused_in_openais_form_and_not_quoted(
    app: TransformersApp, route: str, change: dict[str, Any], status: int, words: str
) -> None:
    (response,) = ask(app, route, {"model": "base", "prompt": "hi", "max_tokens": 4, **change})
    assert response.status_code == status
    error = response.json()["error"]
    assert words in error["message"]
    assert error["code"] == status
    assert SENTINEL not in response.text


def test_the_list_of_models(app: TransformersApp) -> None:
    async def get() -> dict[str, Any]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            listed: dict[str, Any] = (await client.get("/v1/models")).json()
            return listed

    assert [each["id"] for each in asyncio.run(get())["data"]] == ["base", "tuned", "a.1", "b", "idle"]


def test_a_model_or_an_adapter_that_cannot_be_loaded_is_named_at_once(plan: EnginePlan, tmp_path: Path) -> None:
    base = plan.models[0]
    for change in ({"path": str(tmp_path)}, {"adapter": str(tmp_path)}):
        broken = replace(plan, models=(base, replace(base, name="broken", **change))[:: -1 if "path" in change else 1])
        with pytest.raises(PreflightError, match=str(tmp_path)):
            create_app(broken)


@pytest.fixture
def canary(app: TransformersApp) -> Iterator[Callable[[str, str], None]]:
    def check(base: str, name: str) -> None:
        async def run() -> None:
            async with Client("http://here/v1", transport=httpx.ASGITransport(app)) as client:
                await check_canary(client, base, name)

        asyncio.run(run())

    return check


def test_the_canary_passes_what_has_an_effect_and_names_what_has_none(canary: Callable[[str, str], None]) -> None:
    for name in ("a.1", "b", "tuned"):
        canary("base", name)
    with pytest.raises(BdsError, match="idle is served but silently ineffective"):
        canary("base", "idle")


def test_differences_are_compared_up_to_where_two_continuations_part() -> None:
    one = [{"x": -0.1, "y": -2.0}, {"x": -1.0, "z": -0.5}]
    assert largest_difference([one], [one]) == 0
    assert largest_difference([one], [[{"x": -0.1, "w": -2.0}, {"x": -1.5, "z": -0.5}]]) == 0.5
    # After "y" instead of "x" the second steps are about different texts.
    assert largest_difference([one], [[{"x": -2.0, "y": -0.2}, {"z": -9.0}]]) == pytest.approx(1.9)
    assert largest_difference([one], [[{"w": -0.1}, {"x": -1.0}]]) == math.inf
