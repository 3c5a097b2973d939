"""Progress on stderr: a bar on a terminal, else a line every half minute. The remaining time is measured."""

import contextlib
import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Protocol, TextIO

from bds.runs.receipts import Receipt

_LINE_SECONDS = 30.0

_TOLD_TO: ContextVar[Callable[[str], None] | None] = ContextVar("told_to", default=None)
"""Set where nobody sees this process's own stderr."""


class Shown(Protocol):
    """What a progress display asks of a meter."""

    label: str
    """What is under way, before each line."""

    @property
    def total(self) -> int:
        """All there is to do."""

    @property
    def completed(self) -> int:
        """What is done of it."""

    def line(self) -> str:
        """Where things stand."""


class Meter:
    """Counts what is scored and how fast, over this attempt alone."""

    label = "scoring"

    def __init__(
        self,
        *,
        shards: int,
        rows: int,
        shards_before: int,
        rows_before: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.shards = shards
        self.rows = rows
        self.shards_done = shards_before
        self.rows_done = rows_before
        self.rows_not_ok = 0
        self._rows_now = 0
        self._tokens_now = 0
        self._clock = clock
        self._since: float | None = None

    def add(self, receipt: Receipt) -> None:
        if self._since is None:
            # Loading the model is paid once: it belongs to no row and would spoil the first estimates.
            self._since = self._clock() - receipt.seconds
        rows = receipt.rows_ok + receipt.rows_not_ok
        self.shards_done += 1
        self.rows_done += rows
        self.rows_not_ok += receipt.rows_not_ok
        self._rows_now += rows
        self._tokens_now += receipt.tokens

    @property
    def rows_per_second(self) -> float | None:
        """None until a shard has finished."""
        return self._per_second(self._rows_now)

    @property
    def tokens_per_second(self) -> float | None:
        return self._per_second(self._tokens_now)

    @property
    def seconds_left(self) -> float | None:
        rate = self.rows_per_second
        return None if rate is None else (self.rows - self.rows_done) / rate

    @property
    def total(self) -> int:
        return self.rows

    @property
    def completed(self) -> int:
        return self.rows_done

    def line(self) -> str:
        parts = [f"{self.shards_done}/{self.shards} shards", f"{self.rows_done:,}/{self.rows:,} rows"]
        rows_per_second, tokens_per_second = self.rows_per_second, self.tokens_per_second
        if rows_per_second is not None:
            parts.append(f"{rows_per_second:.3g} rows/s")
        if tokens_per_second:
            parts.append(f"{tokens_per_second:,.0f} tokens/s")
        if self.rows_not_ok:
            parts.append(f"{self.rows_not_ok:,} not scored")
        parts.append(self.remaining())
        return ", ".join(parts)

    def remaining(self) -> str:
        if self.shards_done == self.shards:
            return "done"
        left = self.seconds_left
        return "estimating the remaining time" if left is None else f"{duration(left)} left"

    def _per_second(self, amount: int) -> float | None:
        if self._since is None:
            return None
        return amount / max(self._clock() - self._since, 1e-9)


def duration(seconds: float) -> str:
    """Two units at most: 42 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@contextlib.contextmanager
def show_progress(meter: Shown, *, stream: TextIO | None = None) -> Iterator[Callable[[], None]]:
    """Shows a meter while the block runs; call what it yields when the meter has changed. Rich honours NO_COLOR."""
    with _shown(meter, stream) as update:
        yield update


@contextlib.contextmanager
def progress_as_lines(tell: Callable[[str], None]) -> Iterator[None]:
    """Inside the block every meter is told in lines to `tell`, from a process whose terminal nobody sees."""
    before = _TOLD_TO.set(tell)
    try:
        yield
    finally:
        _TOLD_TO.reset(before)


def _shown(meter: Shown, stream: TextIO | None) -> contextlib.AbstractContextManager[Callable[[], None]]:
    tell = _TOLD_TO.get()
    if stream is None and tell is not None:
        return _lines(meter, tell)
    stream = sys.stderr if stream is None else stream
    on_terminal = stream.isatty() and os.environ.get("TERM") != "dumb"
    return _bar(meter, stream) if on_terminal else _lines(meter, functools.partial(print, file=stream, flush=True))


@contextlib.contextmanager
def _bar(meter: Shown, stream: TextIO) -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    with Progress(BarColumn(), TextColumn("{task.description}"), console=Console(file=stream)) as bar:
        task = bar.add_task(meter.line(), total=meter.total, completed=meter.completed)
        yield lambda: bar.update(task, completed=meter.completed, description=meter.line())


@contextlib.contextmanager
def _lines(meter: Shown, print_line: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """The first line, one every 30 seconds while work is under way, and the last."""
    stop = threading.Event()

    def tell() -> None:
        print_line(f"{meter.label}: {meter.line()}")

    def tell_now_and_then() -> None:
        while not stop.wait(_LINE_SECONDS):
            tell()

    tell()
    teller = threading.Thread(target=tell_now_and_then, name="bds-progress", daemon=True)
    teller.start()
    try:
        yield lambda: None
    finally:
        stop.set()
        teller.join()
        tell()
