"""Ctrl-C and SIGTERM as one exception, so that `finally` blocks run: the lease is given back, Ray is shut down."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import Any, TypeVar

Result = TypeVar("Result")


class Interrupted(KeyboardInterrupt):
    """The run was told to stop; running the same command again resumes it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signal_number).name}")
        self.exit_code = 128 + signal_number


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raises Interrupted in the main thread at the first SIGINT or SIGTERM; a second one ends the process at once.

    Enter it after connecting to Ray, which installs a SIGTERM handler of its own. Outside the main thread it does
    nothing, for Python delivers signals only there.
    """

    def interrupt(number: int) -> None:
        raise Interrupted(number)

    with _first_signal_to(interrupt):
        yield


def run_interruptibly(work: Coroutine[Any, Any, Result]) -> Result:
    """`asyncio.run`, but that a signal cancels the work and Interrupted is raised when its tasks have ended.

    An exception out of a signal handler would end whichever task runs just then, and asyncio would complain of it.
    """
    got: list[int] = []

    async def cancellable() -> Result:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None, "this runs in one"

        def cancel(number: int) -> None:
            got.append(number)
            loop.call_soon_threadsafe(task.cancel)

        with _first_signal_to(cancel):
            return await work

    try:
        return asyncio.run(cancellable())
    except asyncio.CancelledError:
        if not got:
            raise
        raise Interrupted(got[0]) from None


@contextlib.contextmanager
def _first_signal_to(act: Callable[[int], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        act(number)

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
