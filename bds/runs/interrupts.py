"""Ctrl-C and SIGTERM as one exception, so that `finally` blocks run: the lease is given back, Ray is shut down."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn


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
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        raise Interrupted(number)

    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
