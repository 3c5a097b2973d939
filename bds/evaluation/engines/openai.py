"""The parts of OpenAI's HTTP interface that both engines share, as plain ASGI."""

import json
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any

from starlette.types import Message, Receive, Send

from bds.evaluation.engines.plan import ServedModel

_KINDS = {400: "BadRequestError", 404: "NotFoundError", 503: "ServiceUnavailableError"}


class Refusal(Exception):
    """A request that gets an error for an answer."""

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        """`retry_after` is in seconds."""
        super().__init__(message)
        self.status = status
        kind = _KINDS.get(status, "InternalServerError")
        self.body = {"error": {"message": message, "type": kind, "param": None, "code": status}}
        self.headers = {} if retry_after is None else {"retry-after": str(retry_after)}


class DisconnectedError(Exception):
    """The client went away before its request was read."""


async def read_body(receive: Receive) -> bytes:
    """The whole body of a request. Raises DisconnectedError."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise DisconnectedError
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def replayed(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read already once more, then whatever else arrives."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def send_json(
    send: Send, value: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> None:
    content = json.dumps(value).encode()
    given = [(name.encode(), text.encode()) for name, text in (headers or {}).items()]
    length = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": length + given})
    await send({"type": "http.response.body", "body": content})


async def send_refusal(send: Send, refusal: Refusal) -> None:
    await send_json(send, refusal.body, refusal.status, refusal.headers)


def route_of(scope: MutableMapping[str, Any]) -> str:
    """The path below the prefix that a proxy has put before it."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "").rstrip("/"))


def parsed(body: bytes) -> dict[str, Any]:
    """Raises Refusal where the body is no JSON object."""
    try:
        value = json.loads(body)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise Refusal(400, "the body of a request must be a JSON object")
    return value


def named_model(body: Mapping[str, Any], models: Iterable[ServedModel]) -> ServedModel:
    """The model that a request names. Raises Refusal where there is none of that name."""
    models = list(models)
    for model in models:
        if model.name == body.get("model"):
            return model
    served = ", ".join(model.name for model in models)
    raise Refusal(404, f"the model '{body.get('model')}' is not served here; served are {served}")


def model_list(models: Sequence[ServedModel], max_model_len: int | None) -> dict[str, Any]:
    """The body of /v1/models."""
    return {
        "object": "list",
        "data": [
            {"id": model.name, "object": "model", "created": 0, "owned_by": "bds", "max_model_len": max_model_len}
            for model in models
        ],
    }
