"""The parts of a model that is spread over processes, as actors that the hub's process starts and owns.

Hidden states and gradients go from actor to actor as references, so that tensors travel straight to where they are
needed. Ray ends the parts with the process that owns them. Where a part dies, the hub's process ends itself, as if it
had died: Ray Data then replaces it, a new one starts new parts, and the shard is tried again.

Shapes: B samples, T positions, D hidden, C columns, G decoder blocks outside the hub.
"""

import os
from collections.abc import Callable, Collection, Sequence
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar

import ray
from torch import Tensor

from bds.distributed.scoring import WorkerPool
from bds.errors import BdsError
from bds.runs.threads import limit_threads
from bds.scoring.gradients.queries import Asked
from bds.scoring.spread.part import Part

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

_PLACE_SECONDS = 600.0
"""How long the hub waits for the cluster to start its parts. Room was counted before, so that only others can be in
the way; hubs that wait for one another's parts for ever would be worse than an error."""


def open_chain(pool: WorkerPool, loaders: Sequence[Callable[[], Part]]) -> "RayChain":
    """Starts an actor of the pool's size for every part, owned by this process; they load while this returns.

    Raises:
        BdsError: the cluster has no room for them in time.
    """
    start = ray.remote(PartActor).options(
        num_cpus=pool.cpus, num_gpus=pool.gpus, memory=pool.memory, max_restarts=0, max_task_retries=0
    )
    actors = [start.remote(pool.cpus) for _ in loaders]
    try:
        _answers([actor.started.remote() for actor in actors], timeout=_PLACE_SECONDS)
    except ray.exceptions.GetTimeoutError as error:
        raise BdsError(
            f"the cluster had no room for the {len(loaders) + 1} processes of one model within {_PLACE_SECONDS:.0f} s: "
            "lower resources.actors, or run again when others have left the cluster; finished shards are kept"
        ) from error
    for actor, load in zip(actors, loaders, strict=True):
        actor.load.remote(load)
    return RayChain(actors)


class PartActor:
    """The process of one part."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        limit_threads(threads)

    def started(self) -> None:
        """Returns once the process runs."""

    def load(self, loader: Callable[[], Part]) -> None:
        self._loaded: Part | Exception
        try:
            self._loaded = loader()
        except Exception as error:  # raised by the next call, whose answer somebody waits for
            self._loaded = error
        # Loading may have imported torch, which then takes its threads from here.
        limit_threads(self._threads)

    @ray.method(num_returns=2)
    def forward(self, hidden_BTD: Tensor, asked: Asked, layers: Collection[int]) -> tuple[Tensor, dict[int, Tensor]]:
        left_BTD, found = self._part().forward(hidden_BTD, asked, layers)
        return left_BTD.cpu(), {index: layer.cpu() for index, layer in found.items()}

    @ray.method(num_returns=2)
    def backward(self, grad_BTD: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        entered_BTD, columns = self._part().backward(grad_BTD)
        return entered_BTD.cpu(), [None if own is None else own.cpu() for own in columns]

    def order(self, work: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return work(self._part(), *args, **kwargs)

    def _part(self) -> Part:
        if isinstance(self._loaded, Exception):
            raise self._loaded
        return self._loaded


class RayChain:
    """The parts in order, each in its actor."""

    def __init__(self, actors: Sequence[Any]) -> None:
        self._actors = actors

    def forward(self, hidden_BTD: Tensor, asked: Asked, layers: Collection[int]) -> tuple[Tensor, dict[int, Tensor]]:
        onward: Any = hidden_BTD.cpu()
        refs: list[Any] = []
        for actor in self._actors:
            onward, own = actor.forward.remote(onward, asked, layers)
            refs.append(own)
        left_BTD, *found = _answers([onward, *refs])
        device = hidden_BTD.device
        return left_BTD.to(device), {index: layer.to(device) for own in found for index, layer in own.items()}

    def backward(self, grad_BTD: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        onward: Any = grad_BTD.cpu()
        refs: list[Any] = []
        for actor in reversed(self._actors):
            onward, own = actor.backward.remote(onward)
            refs = [own, *refs]
        entered_BTD, *columns = _answers([onward, *refs])
        device = grad_BTD.device
        return entered_BTD.to(device), [own if own is None else own.to(device) for part in columns for own in part]

    def order(
        self,
        work: Callable[Concatenate[Part, _Arguments], _Result],
        *args: _Arguments.args,
        **kwargs: _Arguments.kwargs,
    ) -> list[_Result]:
        return _answers([actor.order.remote(work, args, kwargs) for actor in self._actors])


def _answers(refs: Sequence[Any], *, timeout: float | None = None) -> list[Any]:
    """What the parts answer. An exception of theirs is raised as itself; a part that died ends this process."""
    try:
        found: list[Any] = ray.get(list(refs), timeout=timeout)
    except ray.exceptions.GetTimeoutError:
        raise
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, ray.exceptions.RayError):
            _end()
        raise cause from error
    except ray.exceptions.RayError:
        _end()
    return found


def _end() -> NoReturn:
    os._exit(1)
