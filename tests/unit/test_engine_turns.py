"""Who goes into an engine that holds one set of weights at a time."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from bds.evaluation.engines import turns as module
from bds.evaluation.engines.turns import Turns


class Engine:
    """Checks that nobody is inside while it changes, and remembers what happened."""

    def __init__(self, adapters: int = 0) -> None:
        self.told: list[str] = []
        self.inside: list[tuple[str, str | None]] = []
        self.resident: set[str] = set()
        self.slots = adapters
        self.turns = Turns("one", self.switch, self.evict, adapters)

    async def switch(self, weights: str) -> None:
        assert not self.inside
        self.resident.clear()
        await asyncio.sleep(0)
        if weights == "broken":
            raise OSError("unreadable")
        self.told.append(f"to {weights}")

    async def evict(self, adapter: str) -> None:
        assert adapter not in [each for _, each in self.inside]
        await asyncio.sleep(0)
        self.resident.remove(adapter)
        self.told.append(f"out {adapter}")

    async def ask(self, weights: str, adapter: str | None = None, steps: int = 3) -> None:
        async with self.turns.turn(weights, adapter):
            self.inside.append((weights, adapter))
            if adapter is not None:
                self.resident.add(adapter)
            assert len({each for each, _ in self.inside}) == 1
            assert len(self.resident) <= self.slots
            for _ in range(steps):
                await asyncio.sleep(0)
            self.inside.remove((weights, adapter))


def together(*asked: Coroutine[Any, Any, None]) -> None:
    async def all_of_them() -> None:
        await asyncio.wait_for(asyncio.gather(*asked), timeout=10)

    asyncio.run(all_of_them())


def test_alternating_requests_are_grouped_by_their_weights() -> None:
    engine = Engine()
    together(*[engine.ask(weights) for _ in range(20) for weights in ("one", "two", "three")])
    assert engine.told == ["to two", "to three", "to one"]


def test_a_turn_that_is_over_lets_the_others_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHORTEST_TURN", 0.0)
    monkeypatch.setattr(module, "_TURN_PER_SWITCH", 0.0)
    engine = Engine()
    order = []

    async def often(weights: str) -> None:
        for _ in range(5):
            await engine.ask(weights)
            order.append(weights)

    # Two streams of the same weights overlap: without turns they would keep the third out until they end.
    together(often("one"), often("one"), often("two"))
    assert order.index("two") < 5
    assert order.count("one") == 10
    assert order.count("two") == 5


def test_adapters_that_are_idle_make_room_in_order_of_use() -> None:
    engine = Engine(adapters=2)

    async def one_after_the_other() -> None:
        for name in ("a", "b", "a", "c", "a", "b"):
            await engine.ask("one", name)

    together(one_after_the_other())
    assert engine.told == ["out b", "out c"]


def test_no_more_adapters_are_inside_than_fit_and_all_get_in() -> None:
    engine = Engine(adapters=2)
    together(*[engine.ask("one", name) for _ in range(10) for name in ("a", None, "b", "c", "d")])
    assert {told.split()[0] for told in engine.told} == {"out"}


def test_weights_and_adapters_mixed() -> None:
    engine = Engine(adapters=1)
    asked = [("one", "a"), ("two", None), ("one", "b"), ("two", "c"), ("one", None)]
    together(*[engine.ask(*each) for _ in range(10) for each in asked])
    assert engine.told.count("to two") == 1


def test_weights_that_cannot_be_had_fail_those_who_ask_for_them_and_nobody_else() -> None:
    engine = Engine()
    failures = []

    async def broken() -> None:
        try:
            await engine.ask("broken")
        except OSError as error:
            failures.append(str(error))

    together(broken(), engine.ask("one"), broken(), engine.ask("two"), engine.ask("one"))
    assert failures == ["unreadable", "unreadable"]
    assert engine.told[-1] in {"to one", "to two"}


def test_who_gives_up_waiting_or_inside_leaves_no_trace() -> None:
    engine = Engine()

    async def impatient() -> None:
        inside = asyncio.create_task(engine.ask("one", steps=1000))
        waiting = asyncio.create_task(engine.ask("two"))
        await asyncio.sleep(0.01)
        waiting.cancel()
        inside.cancel()
        await asyncio.gather(inside, waiting, return_exceptions=True)
        engine.inside.clear()
        await engine.ask("two")
        await engine.ask("one")

    together(impatient())
    assert engine.told == ["to two", "to one"]
