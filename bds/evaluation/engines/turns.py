"""Whose turn it is in an engine that holds one set of weights, and a few adapters, at a time.

Requests for the weights in memory go in together. Those for other weights wait until no request is in flight, then the
weights are switched and everyone who waits for the new ones goes in. Within a turn later requests for its weights may
overtake; a turn ends early where nobody else waits, so that alternating requests cost few switches and nobody starves.
"""

import asyncio
import contextlib
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Weights = TypeVar("Weights", bound=Hashable)

_SHORTEST_TURN = 1.0
_TURN_PER_SWITCH = 10.0
"""A turn lasts ten times what the switch to it took: switching takes at most a tenth of the time."""


@dataclass(eq=False)
class _Waiter(Generic[Weights]):
    weights: Weights
    adapter: str | None
    admitted: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Turns(Generic[Weights]):
    """Lets requests into an engine. Use it within one event loop.

    Args:
        current: the weights in memory.
        switch: puts other weights into memory; adapters are gone after it. Called while no request is in flight.
        evict: takes an adapter out of memory; called while no request for it is in flight. Left out where requests name
            no adapters.
        adapters: that fit into memory at a time.
    """

    def __init__(
        self,
        current: Weights,
        switch: Callable[[Weights], Awaitable[None]],
        evict: Callable[[str], Awaitable[None]] | None = None,
        adapters: int = 0,
    ) -> None:
        self._current: Weights | None = current
        self._switch = switch
        self._evict = evict
        self._adapters = adapters
        self._running: Counter[str | None] = Counter()
        self._resident: OrderedDict[str, None] = OrderedDict()
        self._waiting: list[_Waiter[Weights]] = []
        self._changing: asyncio.Task[None] | None = None
        self._turn_ends = 0.0

    @contextlib.asynccontextmanager
    async def turn(self, weights: Weights, adapter: str | None) -> AsyncIterator[None]:
        """The weights and the adapter are in memory inside the block. Raises what `switch` or `evict` raised."""
        if not self._waiting and self._changing is None and weights == self._current and self._has_room(adapter):
            self._enter(adapter)
        else:
            await self._wait(_Waiter(weights, adapter))
        try:
            yield
        finally:
            self._leave(adapter)

    async def _wait(self, waiter: _Waiter[Weights]) -> None:
        self._waiting.append(waiter)
        self._admit()
        try:
            await waiter.admitted
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif waiter.admitted.done() and not waiter.admitted.cancelled():
                self._leave(waiter.adapter)
            raise

    def _has_room(self, adapter: str | None) -> bool:
        return adapter is None or adapter in self._resident or len(self._resident) < self._adapters

    def _enter(self, adapter: str | None) -> None:
        self._running[adapter] += 1
        if adapter is not None:
            self._resident[adapter] = None
            self._resident.move_to_end(adapter)

    def _leave(self, adapter: str | None) -> None:
        self._running[adapter] -= 1
        self._admit()

    def _admit(self) -> None:
        """Lets in whoever may, in order, or begins the change that the first one waits for."""
        if self._changing is not None:
            return
        for waiter in list(self._waiting):
            if waiter.admitted.cancelled():
                continue
            if waiter.weights != self._current:
                if time.monotonic() >= self._turn_ends:
                    break
                continue
            if not self._has_room(waiter.adapter):
                idle = next((name for name in self._resident if not self._running[name]), None)
                if idle is not None:
                    self._change(self._make_room(idle), waiter)
                break
            self._waiting.remove(waiter)
            self._enter(waiter.adapter)
            waiter.admitted.set_result(None)
        if self._changing is None and self._waiting and not self._running.total():
            self._change(self._put(self._waiting[0].weights), self._waiting[0])

    def _change(self, work: Awaitable[None], cause: _Waiter[Weights]) -> None:
        self._changing = asyncio.ensure_future(self._changed(work, cause))

    async def _changed(self, work: Awaitable[None], cause: _Waiter[Weights]) -> None:
        try:
            await work
        except Exception as error:
            if cause in self._waiting and not cause.admitted.cancelled():
                self._waiting.remove(cause)
                cause.admitted.set_exception(error)
        finally:
            self._changing = None
        self._admit()

    async def _make_room(self, adapter: str) -> None:
        assert self._evict is not None, "adapters are named and cannot be evicted"
        await self._evict(adapter)
        del self._resident[adapter]

    async def _put(self, weights: Weights) -> None:
        started = time.monotonic()
        # Where the switch fails, nobody knows what is in memory.
        self._current = None
        self._resident.clear()
        await self._switch(weights)
        self._current = weights
        now = time.monotonic()
        self._turn_ends = now + max(_SHORTEST_TURN, _TURN_PER_SWITCH * (now - started))
