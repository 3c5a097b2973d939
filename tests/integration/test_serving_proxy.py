"""Engines of transformers behind Ray Serve's proxy, each below a prefix of its own."""

import asyncio
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import psutil
import pytest
import ray

from bds.distributed.serving import Serving, free_port, open_serving
from bds.errors import PreflightError
from bds.evaluation.client import Client, Reply
from bds.evaluation.engines.plan import EnginePlan, EngineSettings, engine_plans
from bds.spec.evaluate import EvaluationResourcesSpec
from tests.integration.processes import the_descendant
from tests.served_models import greedy, load, write_models
from tests.tiny_chat import byte_tokenizer

SETTINGS = EngineSettings(engine="transformers", max_model_len=64)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> EnginePlan:
    (plan,) = engine_plans(list(write_models(tmp_path_factory.mktemp("served")).values()), SETTINGS)
    return plan


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def serving(ray_session: None, port: int) -> Iterator[Serving]:
    with open_serving(EvaluationResourcesSpec(wait_seconds=0), http_port=port) as serving:
        yield serving


@pytest.fixture(scope="module")
def url(serving: Serving, plan: EnginePlan) -> Iterator[str]:
    """Of a Ray Serve whose first proxy was too slow for it, as on a busy machine."""
    from ray import serve

    start = serve.start

    def start_slowly(**options: Any) -> None:
        start(**options)
        the_descendant("ray::ProxyActor").kill()
        raise ray.exceptions.RayActorError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serve, "start", start_slowly)
        yield serving.start(plan)


def ask(url: str, name: str) -> Reply:
    async def send() -> Reply:
        async with Client(url, tries=100, timeout=60.0) as client:
            body = {"model": name, "prompt": "hi there", "max_tokens": 6, "temperature": 0}
            return await client.post("/completions", body)

    return asyncio.run(send())


def test_answers_come_through_the_proxy_also_after_the_replica_was_killed(
    url: str, plan: EnginePlan, port: int
) -> None:
    assert url == f"http://127.0.0.1:{port}/{plan.id}/v1"
    tokenizer = byte_tokenizer()
    prompt = tokenizer("hi there")["input_ids"]
    expected = {
        model.name: tokenizer.decode(greedy(load(model), prompt, 6), skip_special_tokens=True) for model in plan.models
    }
    assert {name: ask(url, name).body["choices"][0]["text"] for name in expected} == expected
    os.kill(the_descendant("ServeReplica").pid, signal.SIGKILL)
    assert {name: ask(url, name).body["choices"][0]["text"] for name in expected} == expected


def test_two_engines_live_side_by_side_and_one_is_stopped_alone(serving: Serving, url: str, plan: EnginePlan) -> None:
    other = replace(plan, id="other", models=plan.models[:1])
    other_url = serving.start(other)
    listed = [httpx.get(f"{each}/models", trust_env=False).json()["data"] for each in (url, other_url)]
    assert [len(models) for models in listed] == [5, 1]
    serving.stop(other)
    assert httpx.get(f"{other_url}/models", trust_env=False).status_code == 404
    assert httpx.get(f"{url}/models", trust_env=False).status_code == 200


def test_every_process_listens_on_the_loopback_only(url: str) -> None:
    own = {process.pid for process in psutil.Process().children(recursive=True)}
    listening = {each.laddr.ip for each in psutil.net_connections("tcp") if each.status == "LISTEN" and each.pid in own}
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


def test_a_cluster_without_room_is_told_before_anything_starts(serving: Serving, plan: EnginePlan) -> None:
    large = replace(plan, id="large", settings=replace(SETTINGS, cpus_per_replica=64))
    with pytest.raises(PreflightError, match="replica"):
        serving.start(large)


def test_a_model_that_cannot_be_loaded_is_told_in_one_sentence(
    serving: Serving, plan: EnginePlan, capfd: pytest.CaptureFixture[str]
) -> None:
    nothing = replace(plan.models[0], path="/nowhere", name="nothing")
    with pytest.raises(PreflightError, match=r"^/nowhere has no usable tokenizer: [^\n]+$"):
        serving.start(replace(plan, id="broken", models=(nothing,)))
    assert capfd.readouterr() == ("", "")
