"""Real vLLM on Ray Serve: one engine for a base, its adapters and a full fine-tune, compared with transformers.

The engine is started once for the whole file; tests that kill it come last.
"""

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from bds.distributed.serving import Serving, open_serving
from bds.errors import BdsError, PreflightError
from bds.evaluation.client import Client
from bds.evaluation.engines.canary import check_canary
from bds.evaluation.engines.plan import EnginePlan, EngineSettings, ServedModel, engine_plans
from bds.spec.evaluate import EvaluationResourcesSpec
from benchmarks.fault_harness.processes import VLLM_PROCESS
from tests.integration.processes import VICTIMS, descendants, the_descendant
from tests.served_models import greedy, load, logprobs, write_models
from tests.tiny_chat import byte_tokenizer, tiny_chat

pytest.importorskip("vllm")

PROMPTS = ["hi there", "one two", "a longer one than these", "x"]
NAMES = ("base", "a.1", "b", "tuned", "idle")
SENTINEL = "zorblewick"
HEAD_SIZE_32 = 64
"""Hidden size of a model with two heads; vLLM takes no smaller ones on a CPU."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ServedModel]:
    return write_models(tmp_path_factory.mktemp("served"), hidden=HEAD_SIZE_32)


@pytest.fixture(scope="module")
def plan(models: dict[str, ServedModel]) -> EnginePlan:
    # Two adapters fit beside each other, and there are three.
    (plan,) = engine_plans(list(models.values()), EngineSettings(max_model_len=256, max_loras=3, max_concurrent=16))
    return plan


@pytest.fixture(scope="module")
def serving(ray_session: None) -> Iterator[Serving]:
    with open_serving(EvaluationResourcesSpec()) as serving:
        yield serving


@pytest.fixture(scope="module")
def url(serving: Serving, plan: EnginePlan) -> str:
    return serving.start(plan)


@pytest.fixture(scope="module")
def references(models: dict[str, ServedModel]) -> dict[str, Any]:
    return {name: load(served) for name, served in models.items()}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


def ask(url: str, route: str, *bodies: dict[str, Any]) -> list[httpx.Response]:
    """The responses to requests that are sent at once."""

    async def send() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=120, trust_env=False) as client:
            return await asyncio.gather(*[client.post(url + route, json=body) for body in bodies])

    return asyncio.run(send())


def complete(url: str, *bodies: dict[str, Any]) -> list[dict[str, Any]]:
    responses = ask(url, "/completions", *bodies)
    assert {each.status_code for each in responses} == {200}, responses[0].text
    return [each.json() for each in responses]


def expect_all_greedy(url: str, references: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> None:
    """All names answer all prompts at once as transformers does, token for token."""
    asked = [(name, tokenizer(prompt)["input_ids"]) for prompt in PROMPTS for name in NAMES]
    bodies = [
        {"model": name, "prompt": ids, "max_tokens": 16, "temperature": 0, "return_token_ids": True}
        for name, ids in asked
    ]
    for (name, ids), body in zip(asked, complete(url, *bodies), strict=True):
        assert body["choices"][0]["token_ids"] == greedy(references[name], ids, 16), name
        assert body["model"] == name


def test_all_names_answer_as_transformers_does_whoever_shares_the_batch(
    url: str, references: dict[str, Any], tokenizer: PreTrainedTokenizerFast
) -> None:
    for _ in range(3):
        expect_all_greedy(url, references, tokenizer)


@pytest.mark.slow
def test_an_engine_spread_over_two_processes_answers_as_one(
    serving: Serving, models: dict[str, ServedModel], references: dict[str, Any], tokenizer: PreTrainedTokenizerFast
) -> None:
    """Base, adapters and reloaded weights by tensor parallelism, here of two processes without a GPU."""
    settings = EngineSettings(max_model_len=256, max_loras=3, max_concurrent=16, tensor_parallel=2)
    (spread,) = engine_plans(list(models.values()), settings)
    before = len(descendants(*VLLM_PROCESS))
    url = serving.start(spread)
    try:
        # An engine and its two workers are new.
        assert len(descendants(*VLLM_PROCESS)) == before + 3
        expect_all_greedy(url, references, tokenizer)
    finally:
        serving.stop(spread)


def test_reloaded_weights_are_the_new_ones_and_the_old_ones_come_back(
    url: str, references: dict[str, Any], tokenizer: PreTrainedTokenizerFast
) -> None:
    ids = tokenizer("some words to be sure of")["input_ids"]
    for name in ("tuned", "base", "tuned", "a.1", "base"):
        body = {"model": name, "prompt": ids, "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}
        told = complete(url, body)[0]["choices"][0]["logprobs"]["token_logprobs"][1 : len(ids)]
        expected_TV = logprobs(references[name], ids)
        expected = [float(expected_TV[place, token]) for place, token in enumerate(ids[1:])]
        assert told == pytest.approx(expected, abs=1e-4), name


def test_log_probabilities_of_prompts_may_be_asked_for_many_at_a_time(
    url: str, references: dict[str, Any], tokenizer: PreTrainedTokenizerFast
) -> None:
    ids = [tokenizer(prompt * 2)["input_ids"] for prompt in PROMPTS]
    asked = [(name, each) for each in ids for name in ("base", "a.1", "b")]
    bodies = [
        {"model": name, "prompt": [each], "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}
        for name, each in asked
    ]
    for (name, tokens), body in zip(asked, complete(url, *bodies), strict=True):
        told = body["choices"][0]["logprobs"]["token_logprobs"][1 : len(tokens)]
        expected_TV = logprobs(references[name], tokens)
        assert told == pytest.approx([float(expected_TV[i, token]) for i, token in enumerate(tokens[1:])], abs=1e-4)


def test_a_chat_is_rendered_by_the_template_of_the_named_model(
    url: str, references: dict[str, Any], tokenizer: PreTrainedTokenizerFast
) -> None:
    turns = [{"role": "user", "content": "hi"}]
    chat = {"messages": turns, "max_tokens": 8, "temperature": 0, "return_token_ids": True}
    rendered = {"base": "<user>hi<assistant>", "a.1": "<user>hi<assistant>", "b": "hi!", "tuned": "<user>hi<assistant>"}
    responses = ask(url, "/chat/completions", *[{**chat, "model": name} for name in rendered])
    for (name, text), response in zip(rendered.items(), responses, strict=True):
        ids = tokenizer(text)["input_ids"]
        body = response.json()
        assert body["usage"]["prompt_tokens"] == len(ids), name
        assert body["choices"][0]["token_ids"] == greedy(references[name], ids, 8), name


def test_answers_may_be_streamed(url: str) -> None:
    body = {"model": "tuned", "prompt": "hi there", "max_tokens": 6, "temperature": 0, "ignore_eos": True}
    whole = complete(url, body)[0]["choices"][0]["text"]
    with httpx.stream("POST", f"{url}/completions", json={**body, "stream": True}, trust_env=False) as response:
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert events.pop() == "[DONE]"
    assert len(events) > 1
    assert "".join(json.loads(event)["choices"][0]["text"] for event in events) == whole


def test_seeds_draw_alike(url: str) -> None:
    body = {"model": "base", "prompt": "hi", "max_tokens": 12, "temperature": 1.0, "ignore_eos": True}
    first = [each["choices"][0]["text"] for each in complete(url, *[{**body, "seed": seed} for seed in range(4)])]
    again = [complete(url, {**body, "seed": seed})[0]["choices"][0]["text"] for seed in range(4)]
    assert first == again
    assert len(set(first)) == 4


def test_the_canary_passes_what_has_an_effect_and_names_what_has_none(url: str) -> None:
    async def check(name: str) -> None:
        async with Client(url) as client:
            await check_canary(client, "base", name)

    for name in ("a.1", "b", "tuned"):
        asyncio.run(check(name))
    with pytest.raises(BdsError, match="idle is served but silently ineffective"):
        asyncio.run(check("idle"))


def test_what_is_not_served_is_refused_in_openais_form(url: str) -> None:
    listed = httpx.get(f"{url}/models", trust_env=False).json()
    assert [each["id"] for each in listed["data"]] == ["base", "tuned", "a.1", "b", "idle"]
    unknown, route, malformed = (
        *ask(url, "/completions", {"model": "nobody", "prompt": SENTINEL}),
        *ask(url, "/responses", {"model": "base", "input": SENTINEL}),
        *ask(url, "/completions", {"model": "base", "prompt": SENTINEL, "temperature": "hot"}),
    )
    assert unknown.status_code == route.status_code == 404
    assert malformed.status_code == 400
    assert "'nobody' is not served here" in unknown.json()["error"]["message"]


def test_every_process_listens_on_the_loopback_only(url: str) -> None:
    own = {process.pid for process in psutil.Process().children(recursive=True)}
    listening = {each.laddr.ip for each in psutil.net_connections("tcp") if each.status == "LISTEN" and each.pid in own}
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


@pytest.mark.parametrize("victim", ["engine", pytest.param("replica", marks=pytest.mark.slow)])
def test_requests_succeed_again_after_a_kill(
    victim: str, url: str, references: dict[str, Any], tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = the_descendant(*VLLM_PROCESS)
    os.kill(the_descendant(*VICTIMS[victim]).pid, signal.SIGKILL)

    async def again() -> Any:
        async with Client(url, tries=100, timeout=60.0) as client:
            body = {"model": "b", "prompt": f"{SENTINEL} again", "max_tokens": 4, "temperature": 0}
            return await client.post("/completions", body)

    assert asyncio.run(again()).body is not None
    expect_all_greedy(url, references, tokenizer)
    # The engine of a killed replica does not live on beside the new one.
    engine.wait(timeout=10)
    assert the_descendant(*VLLM_PROCESS).pid != engine.pid


@pytest.mark.slow
def test_an_engine_killed_while_it_starts_is_started_again(
    serving: Serving, plan: EnginePlan, url: str, references: dict[str, Any], tokenizer: PreTrainedTokenizerFast
) -> None:
    other = replace(plan, id="other")
    living = the_descendant(*VLLM_PROCESS)
    with ThreadPoolExecutor(1) as threads:
        starting = threads.submit(serving.start, other)
        while not (new := [each for each in descendants(*VLLM_PROCESS) if each.pid != living.pid]):
            assert not starting.done()
            time.sleep(0.05)
        new[0].kill()
        expect_all_greedy(starting.result(timeout=400), references, tokenizer)
    serving.stop(other)


def test_no_prompt_is_in_any_log(url: str, plan: EnginePlan) -> None:
    import ray

    bodies = [{"model": name, "prompt": SENTINEL, "max_tokens": 4} for name in NAMES]
    assert ask(url, "/completions", *bodies)[0].status_code == 200
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    logs = [file for file in session.rglob("*") if file.is_file() and not file.is_symlink()]
    assert any(plan.id in file.name for file in logs)
    assert [file for file in logs if SENTINEL.encode() in file.read_bytes()] == []


def test_the_engines_own_reason_is_told_where_it_cannot_start(
    serving: Serving, plan: EnginePlan, capfd: pytest.CaptureFixture[str]
) -> None:
    unknown = replace(plan, id="other", settings=replace(plan.settings, engine_args={"no_such": 1}))
    with pytest.raises(PreflightError, match=r"^serving\.engine_args: vLLM has no argument 'no_such'$"):
        serving.start(unknown)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "words"),
    [({"max_model_len": 10**6}, "max_model_len"), ({"kv_cache_gib": 10**6}, "memory")],
)
def test_the_reason_is_told_wherever_in_vllm_it_is(
    serving: Serving, plan: EnginePlan, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(PreflightError, match=rf"^vLLM cannot serve {plan.models[0].path}: .*{words}"):
        serving.start(replace(plan, id="other", settings=replace(plan.settings, **settings)))


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU vLLM takes heads of any size")
def test_an_engine_that_starts_and_cannot_compute_is_found_at_its_start(serving: Serving, tmp_path: Path) -> None:
    """vLLM finds out at the first request, dies, and would be replaced by one that dies of it as well."""
    tiny_chat(tmp_path / "model", hidden=HEAD_SIZE_32 // 2)
    model = ServedModel("narrow", str(tmp_path / "model"), None, "1")
    with pytest.raises(PreflightError, match=r"^vLLM cannot compute with .*: .*head_dim=16.*; serving\.engine trans"):
        serving.start(EnginePlan("narrow", (model,), EngineSettings(max_model_len=256)))


def test_stopping_ends_the_engines_processes(serving: Serving, plan: EnginePlan, url: str) -> None:
    serving.stop(plan)
    deadline = time.monotonic() + 30
    while descendants(*VLLM_PROCESS) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert descendants(*VLLM_PROCESS) == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/models", trust_env=False)
