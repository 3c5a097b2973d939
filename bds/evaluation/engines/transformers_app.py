"""OpenAI's HTTP interface over transformers, as an ASGI application: for a machine without vLLM, or in this process.

A request that it does not understand whole is refused, so that no answer rests on a setting that was ignored. Answers
are not streamed.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from starlette.types import Receive, Scope, Send

from bds.errors import PreflightError
from bds.evaluation.engines.openai import (
    DisconnectedError,
    Refusal,
    model_list,
    named_model,
    parsed,
    read_body,
    route_of,
    send_json,
    send_refusal,
)
from bds.evaluation.engines.plan import EnginePlan, ServedModel
from bds.evaluation.engines.replies import chat_choice, completion_choice, reply, usage
from bds.evaluation.engines.requests import ChatRequest, CompletionRequest, understood
from bds.evaluation.engines.transformers_engine import TransformersEngine
from bds.runs.messages import first_line

if TYPE_CHECKING:
    from bds.evaluation.engines.sampling import Rules


def create_app(plan: EnginePlan) -> "TransformersApp":
    """The application of a plan, with its first model loaded. Raises PreflightError where it cannot be loaded."""
    return TransformersApp(TransformersEngine(plan))


class TransformersApp:
    """The application. It may be used in one event loop after another."""

    dead = False
    """An engine in this process dies with it."""

    def __init__(self, engine: TransformersEngine) -> None:
        self._engine = engine
        self._models = engine.plan.models

    def shutdown(self) -> None:
        """Nothing to end: the engine ends with this process."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        try:
            await send_json(send, await self._reply(scope["method"], route_of(scope), receive))
        except Refusal as refusal:
            await send_refusal(send, refusal)
        except PreflightError as error:
            await send_refusal(send, Refusal(400, str(error)))
        except DisconnectedError:
            return

    async def _reply(self, method: str, route: str, receive: Receive) -> dict[str, Any]:
        match method, route:
            case "GET", "/v1/models":
                return model_list(self._models, self._engine.context)
            case "GET", "/health":
                return {}
            case "POST", "/v1/completions":
                body = parsed(await read_body(receive))
                model = named_model(body, self._models)
                return await self._complete(model, understood(CompletionRequest, body))
            case "POST", "/v1/chat/completions":
                body = parsed(await read_body(receive))
                model = named_model(body, self._models)
                return await self._chat(model, understood(ChatRequest, body))
        raise Refusal(404, f"there is no {method} {route} here")

    async def _complete(self, model: ServedModel, request: CompletionRequest) -> dict[str, Any]:
        tokenizer = self._engine.tokenizer(model)
        prompts = [tokenizer(each)["input_ids"] if isinstance(each, str) else each for each in request.prompts]
        rules = self._rules(model, request, request.max_tokens, request.logprobs)
        for prompt in prompts:
            self._expect_to_fit(len(prompt), request.max_tokens)
        echo = request.echo and request.logprobs is not None
        found = await asyncio.gather(*[self._engine.answer(model, prompt, rules, echo=echo) for prompt in prompts])
        choices = [
            completion_choice(index, tokenizer, request, prompt, answer, told)
            for index, (prompt, (answer, told)) in enumerate(zip(prompts, found, strict=True))
        ]
        used = usage(sum(map(len, prompts)), sum(len(answer.tokens) for answer, _ in found))
        return reply("text_completion", model.name, choices, used)

    async def _chat(self, model: ServedModel, request: ChatRequest) -> dict[str, Any]:
        tokenizer = self._engine.tokenizer(model)
        turns = [turn.model_dump() for turn in request.messages]
        try:
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template is a program of its author's and raises what it likes
            raise Refusal(400, f"the chat template of {model.name} cannot render this: {first_line(error)}") from error
        prompt: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        asked = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
        room = None if self._engine.context is None else self._engine.context - len(prompt)
        most = next(number for number in (asked, room, 16) if number is not None)
        self._expect_to_fit(len(prompt), max(1, most))
        rules = self._rules(model, request, most, request.top_logprobs if request.logprobs else None)
        answer, _ = await self._engine.answer(model, prompt, rules, echo=False)
        choice = chat_choice(tokenizer, request, answer)
        return reply("chat.completion", model.name, [choice], usage(len(prompt), len(answer.tokens)))

    def _rules(
        self, model: ServedModel, request: CompletionRequest | ChatRequest, max_tokens: int, alternatives: int | None
    ) -> "Rules":
        from bds.evaluation.engines.sampling import Rules

        tokenizer = self._engine.tokenizer(model)
        stops = request.stops

        def text_ends(tokens: Sequence[int]) -> bool:
            text = tokenizer.decode(tokens, skip_special_tokens=True)
            return any(stop in text for stop in stops)

        return Rules(
            max_tokens=max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            stop_ids=self._engine.ends(model) | frozenset(request.stop_token_ids),
            alternatives=alternatives,
            text_ends=text_ends if stops else None,
        )

    def _expect_to_fit(self, prompt: int, answer: int) -> None:
        context = self._engine.context
        if prompt == 0:
            raise Refusal(400, "a prompt has no tokens")
        if context is not None and prompt + answer > context:
            raise Refusal(
                400, f"the prompt has {prompt} tokens and the answer up to {answer}, more than the model's {context}"
            )


async def _live(receive: Receive, send: Send) -> None:
    """Answers a server that says when it starts and ends."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
