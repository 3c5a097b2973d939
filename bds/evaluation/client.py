"""Asking an OpenAI-compatible server, many requests at a time, with every fault counted and none of them lost.

A request is tried again after every fault but those that say that it is wrong (400, 422) or that nobody may ask (401,
403, 404). What a server says in an error may quote the prompt, so it is kept apart from the public reason.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from bds.errors import BdsError, PreflightError
from bds.runs.messages import first_line

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0


@dataclass(frozen=True)
class Reply:
    """What came of one request."""

    body: Any
    """The JSON of the reply; None where every try failed."""
    error: str = ""
    """Why there is none: a status or a kind of fault, never the server's words."""
    said: str = ""
    """The server's words about the last fault: private."""
    faults: Mapping[str, int] = field(default_factory=dict)
    """How often each fault was seen on the way."""
    seconds: float = 0.0


class Client:
    """One server. Use it within one event loop, as an asynchronous context manager.

    Args:
        base_url: up to and with /v1.
        tries: of one request.
        patience: seconds without a single good reply after which the server is given up; within them a request that
            finds nobody listening is tried again as often as it takes.
        transport: instead of a network, for an application in this process.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        concurrent: int = 64,
        timeout: float = 300.0,
        tries: int = 8,
        patience: float = 300.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.concurrent = concurrent
        self._tries = tries
        self._patience = patience
        self._last_good = time.monotonic()
        self._http = httpx.AsyncClient(
            headers={} if api_key is None else {"Authorization": f"Bearer {api_key}"},
            timeout=httpx.Timeout(timeout, connect=10.0),
            limits=httpx.Limits(max_connections=concurrent, max_keepalive_connections=concurrent),
            transport=transport,
            trust_env=False,
        )

    async def __aenter__(self) -> "Client":
        self._last_good = time.monotonic()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def post(self, route: str, body: Mapping[str, Any]) -> Reply:
        """The reply to a body sent to a route below /v1, after as many tries as it takes.

        Raises:
            PreflightError: the server refuses the key, or knows neither the route nor the model.
            BdsError: no request at all has had a good reply for `patience` seconds.
        """
        faults: Counter[str] = Counter()
        started = time.monotonic()
        pause = _FIRST_PAUSE
        failed = 0
        while True:
            fault, said, wait, value = await self._once(route, body)
            if not fault:
                self._last_good = time.monotonic()
                return Reply(value, faults=dict(faults), seconds=time.monotonic() - started)
            faults[fault] += 1
            self._refuse_hopeless(fault, said, route, str(body.get("model", "")))
            # Nobody listens while a replica is replaced, which says nothing about this request.
            failed += fault != "no connection"
            if failed >= self._tries or fault == "status 400" or fault == "status 422":
                return Reply(None, fault, said, dict(faults), time.monotonic() - started)
            if time.monotonic() - self._last_good > self._patience:
                raise BdsError(
                    f"{self.base_url} has given no good reply for {self._patience:.0f} s (the last fault: {fault}): "
                    "check the server and run the same command again; answers so far are kept"
                )
            await asyncio.sleep(wait if wait is not None else pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _once(self, route: str, body: Mapping[str, Any]) -> tuple[str, str, float | None, Any]:
        """Fault ("" for none), the server's words, seconds that it asks to wait, and the JSON."""
        try:
            response = await self._http.post(f"{self.base_url}{route}", json=body)
        except httpx.TimeoutException as error:
            return ("no connection" if isinstance(error, httpx.ConnectTimeout) else "timeout"), "", None, None
        except httpx.ConnectError as error:
            return "no connection", first_line(error), None, None
        except httpx.HTTPError as error:
            return "broken reply", first_line(error), None, None
        if response.status_code != httpx.codes.OK:
            return f"status {response.status_code}", response.text, _asked_to_wait(response), None
        try:
            value = response.json()
        except ValueError:
            return "broken reply", "", None, None
        if not isinstance(value, dict) or not value.get("choices"):
            return "no choices", "", None, None
        return "", "", None, value

    def _refuse_hopeless(self, fault: str, said: str, route: str, model: str) -> None:
        if fault in {"status 401", "status 403"}:
            raise PreflightError(f"{self.base_url} refuses the key; set the variable that api_key_env names")
        if fault == "status 404":
            raise PreflightError(
                f"{self.base_url} has no {route} or no model '{model}'; correct the name, or the url up to and with /v1"
            )


def _asked_to_wait(response: httpx.Response) -> float | None:
    try:
        return min(max(float(response.headers["retry-after"]), 0.0), 60.0)
    except (KeyError, ValueError):
        return None
