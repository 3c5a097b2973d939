"""vLLM's own OpenAI server over one engine that answers to many names, as an ASGI application.

vLLM serves adapters by name, but one set of weights and one chat template. Here each request waits until the weights
of the model that it names are in memory, and a chat is rendered by that model's own template. Only the routes that do
so are served.
"""

import contextlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from starlette.types import ASGIApp, Receive, Scope, Send

from bds.errors import EngineDiedError, PreflightError
from bds.evaluation.engines.openai import (
    DisconnectedError,
    Refusal,
    model_list,
    named_model,
    parsed,
    read_body,
    replayed,
    route_of,
    send_json,
    send_refusal,
)
from bds.evaluation.engines.plan import EnginePlan, ServedModel, tensor_shapes
from bds.evaluation.engines.turns import Turns
from bds.evaluation.engines.vllm_arguments import (
    adapter_modules,
    engine_arguments,
    set_cpu_environment,
    set_environment,
)
from bds.runs.messages import first_line

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

_COMPLETIONS, _CHAT, _MODELS, _HEALTH = "/v1/completions", "/v1/chat/completions", "/v1/models", "/health"
_RETRY_SECONDS = 5


class VllmApp:
    """The application. Made by `start`; use it within the event loop that started it."""

    def __init__(self, plan: EnginePlan, engine: "AsyncLLM", inner: ASGIApp, state: Any, cpu: bool) -> None:
        self._models = plan.models
        self._engine = engine
        self._inner = inner
        self._served = state.openai_serving_models
        self._echo_kills = cpu and "lm_head" in adapter_modules(plan.adapters)
        self._templates = {model.name: _chat_template(model) for model in plan.models}
        slots = engine.vllm_config.lora_config.max_loras if plan.adapters else 1
        # One slot stays free: vLLM's CPU engine gives whatever is in the last one to requests without an adapter.
        self._turns = Turns(plan.models[0].weights, self._switch, self._evict, slots - 1)
        self._reaper = _reaper()
        self._shapes = tensor_shapes(Path(plan.models[0].path))
        self._half_loaded = False

    @classmethod
    async def start(cls, plan: EnginePlan, log: Path) -> "VllmApp":
        """The application once its engine is up, has computed a token and has loaded every adapter once.

        Args:
            log: where the engine's processes write what they have to say.

        Raises:
            PreflightError: it cannot start, with vLLM's own reason.
            EngineDiedError: its process was killed.
        """
        set_environment(plan)
        from vllm.platforms import current_platform

        cpu = current_platform.is_cpu()
        if cpu:
            set_cpu_environment()
        arguments = _arguments(engine_arguments(plan, cpu=cpu))
        engine = _engine(arguments, log)
        try:
            await _try_out(engine, arguments.model, log)
            inner, state = await _openai_app(engine, arguments)
            await _register(plan, engine, state, log)
            return cls(plan, engine, inner, state, cpu)
        except BaseException:
            engine.shutdown()
            raise

    @property
    def dead(self) -> bool:
        """The engine's process has ended, or holds no whole set of weights."""
        return self._engine.errored or self._half_loaded

    def shutdown(self) -> None:
        self._engine.shutdown()
        self._reaper.kill()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        route = route_of(scope)
        try:
            if self.dead:
                raise Refusal(503, "the engine has died and is being replaced", _RETRY_SECONDS)
            if scope["method"] == "POST" and route in {_COMPLETIONS, _CHAT}:
                await self._generate(route, scope, receive, send)
            elif route == _MODELS:
                await send_json(send, model_list(self._models, self._engine.model_config.max_model_len))
            elif route == _HEALTH:
                await send_json(send, {})
            else:
                raise Refusal(404, f"there is no {scope['method']} {route} here")
        except Refusal as refusal:
            await send_refusal(send, refusal)
        except DisconnectedError:
            return

    async def _generate(self, route: str, scope: Scope, receive: Receive, send: Send) -> None:
        content = await read_body(receive)
        body = parsed(content)
        model = named_model(body, self._models)
        if self._echo_kills and (body.get("echo") or body.get("prompt_logprobs") is not None):
            raise Refusal(
                400, "vLLM's CPU engine cannot give log-probabilities of prompts beside an adapter of lm_head"
            )
        if route == _CHAT:
            template = self._templates[model.name]
            if template is None:
                raise Refusal(400, f"{model.folder} has no chat template; save one with its tokenizer")
            content = json.dumps(body | {"chat_template": template}).encode()
            headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
            scope = {**scope, "headers": [*headers, (b"content-length", str(len(content)).encode())]}
        started = False

        async def watched(message: Any) -> None:
            nonlocal started
            started = True
            await send(message)

        async with self._turns.turn(model.weights, None if model.adapter is None else model.name):
            try:
                await self._inner(scope, replayed(content, receive), watched)
            except Exception:
                # vLLM's own handler of a dead engine wants to end a server that it believes is its own.
                if started or not self.dead:
                    raise
                raise Refusal(503, "the engine has died and is being replaced", _RETRY_SECONDS) from None

    async def _switch(self, weights: tuple[str, str | None]) -> None:
        path, _ = weights
        if tensor_shapes(Path(path)) != self._shapes:
            raise Refusal(500, f"the weights in {path} have changed or gone since the engine was started")
        try:
            await self._engine.collective_rpc("switch_weights", args=(path,))
        except Exception as error:  # whatever vLLM, torch or the file system raise in the engine's process
            self._half_loaded = True
            raise Refusal(
                503, f"the weights in {path} cannot be loaded: {first_line(error)}", _RETRY_SECONDS
            ) from error
        # What was computed with other weights must not be found again.
        await self._engine.reset_mm_cache()
        await self._engine.reset_encoder_cache()
        if not await self._engine.reset_prefix_cache():
            raise Refusal(503, "the cache of other weights is in use still", _RETRY_SECONDS)
        # vLLM signs every reply with the first of these names.
        names = {model.name for model in self._models if model.weights == weights and model.adapter is None}
        self._served.base_model_paths.sort(key=lambda known: known.name not in names)

    async def _evict(self, adapter: str) -> None:
        await self._engine.remove_lora(self._served.lora_requests[adapter].lora_int_id)


def _arguments(given: dict[str, Any]) -> Namespace:
    """The arguments of `vllm serve`, with those given. Raises PreflightError for a name that it does not know."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args([])
    for name, value in given.items():
        if not hasattr(arguments, name):
            raise PreflightError(f"serving.engine_args: vLLM has no argument '{name}'")
        setattr(arguments, name, value)
    return arguments


def _engine(arguments: Namespace, log: Path) -> "AsyncLLM":
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    with _output_to(log):
        try:
            config = AsyncEngineArgs.from_cli_args(arguments).create_engine_config()
            return AsyncLLM.from_vllm_config(config, enable_log_requests=False, disable_log_stats=True)
        except Exception as error:
            raise PreflightError(f"vLLM cannot serve {arguments.model}: {_reason(error, log)}") from error


async def _try_out(engine: "AsyncLLM", model: str, log: Path) -> None:
    """One token. An engine whose kernels do not cover the model starts well and dies of its first request, as would
    every one that replaces it."""
    from vllm import SamplingParams

    try:
        async for _ in engine.generate({"prompt_token_ids": [0]}, SamplingParams(max_tokens=1), "first"):
            pass
    except Exception as error:  # whatever a kernel raises, here or in the engine's process
        raise PreflightError(
            f"vLLM cannot compute with {model}: {_reason(error, log)}; serving.engine transformers takes any model"
        ) from error


async def _openai_app(engine: "AsyncLLM", arguments: Namespace) -> tuple[ASGIApp, Any]:
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app

    tasks = await engine.get_supported_tasks()
    app = build_app(arguments, tasks, engine.model_config)
    await init_app_state(engine, app.state, arguments, tasks)
    return app, app.state


async def _register(plan: EnginePlan, engine: "AsyncLLM", state: Any, log: Path) -> None:
    """Makes the adapters known by name, and loads each once to see that it can be."""
    from vllm.lora.request import LoRARequest

    for number, model in enumerate(plan.adapters, 1):
        request = LoRARequest(model.name, number, model.adapter)
        try:
            await engine.add_lora(request)
        except Exception as error:
            raise PreflightError(f"vLLM cannot load the adapter {model.adapter}: {_reason(error, log)}") from error
        await engine.remove_lora(number)
        state.openai_serving_models.lora_requests[model.name] = request


def _chat_template(model: ServedModel) -> str | None:
    """The template of the model's own folder; None where it has none."""
    from transformers import AutoTokenizer

    revision = model.revision if model.folder == model.path else None
    tokenizer = AutoTokenizer.from_pretrained(model.folder, revision=revision)
    try:
        template: str = tokenizer.get_chat_template()
    except ValueError:
        return None
    return template


@contextlib.contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """What this process and those it starts write to the terminal goes to a file; in those for good."""
    sys.stdout.flush()
    sys.stderr.flush()
    terminals = {number: os.dup(number) for number in (1, 2)}
    try:
        with log.open("ab") as file:
            for number in terminals:
                os.dup2(file.fileno(), number)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, terminal in terminals.items():
            os.dup2(terminal, number)
            os.close(terminal)


def _reason(error: Exception, log: Path) -> str:
    """What vLLM says of an engine that does not start: here, or in the engine's own process, which then has ended.

    Raises EngineDiedError where that process ended without a word.
    """
    if isinstance(error, ValidationError):
        return str(error.errors()[0]["msg"]).removeprefix("Value error, ")
    told = _last_error(log)
    if not told and _OF_ITS_PROCESS.search(str(error)):
        raise EngineDiedError("the engine's process was killed while it started") from error
    return told or first_line(error)


_ERROR = re.compile(r"(?:^|\s)(?:[\w.]*(?:Error|Exception)): (.+)")
_OF_ITS_PROCESS = re.compile("Engine core initialization failed|EngineCore encountered an issue")
"""What vLLM raises when its engine's process has ended, which may have said why."""


def _last_error(log: Path) -> str:
    """The last error that the engine's processes told of; "" where they told of none."""
    told = [match[1] for line in log.read_text(errors="replace").splitlines() if (match := _ERROR.search(line))]
    told = [line.strip().rstrip(".") for line in told if not _OF_ITS_PROCESS.search(line)]
    return told[-1] if told else ""


def _reaper() -> "subprocess.Popen[bytes]":
    """A process that waits for this one to end, however it ends, and ends the engine's, which would live on."""
    engines = [str(child.pid) for child in multiprocessing.active_children()]
    return subprocess.Popen(
        ["/bin/sh", "-c", 'read line; kill -9 "$@"', "reaper", *engines],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
