"""What a run tells: progress, events, manifest, and how it stops."""

import asyncio
import gc
import io
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from bds.runs import events as events_module
from bds.runs import progress as progress_module
from bds.runs.directory import RunDirectory
from bds.runs.events import EventLog, events_path, read_events
from bds.runs.interrupts import Interrupted, interruptible, run_interruptibly
from bds.runs.manifest import read_manifest, record_attempt, versions
from bds.runs.progress import Meter, duration, show_progress
from bds.runs.receipts import Receipt, Worker


def receipt(shard: int, *, rows_ok: int = 90, rows_not_ok: int = 10, seconds: float = 20.0) -> Receipt:
    return Receipt(shard, "", 1, rows_ok, rows_not_ok, 4000, seconds, {}, Worker("host", 1, "cpu"), {})


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_rate_is_of_this_attempt_and_leaves_loading_out() -> None:
    clock = Clock()
    meter = Meter(shards=10, rows=1000, shards_before=4, rows_before=400, clock=clock)
    assert meter.rows_per_second is None
    assert meter.line() == "4/10 shards, 400/1,000 rows, estimating the remaining time"

    clock.now += 60  # 40 s of loading, 20 s of work
    meter.add(receipt(4))
    assert meter.rows_per_second == pytest.approx(100 / 20)
    assert meter.seconds_left == pytest.approx(500 / 5)
    assert meter.line() == "5/10 shards, 500/1,000 rows, 5 rows/s, 200 tokens/s, 10 not scored, 1 min 40 s left"

    clock.now += 30
    for shard in range(5, 10):
        meter.add(receipt(shard))
    assert meter.rows_per_second == pytest.approx(600 / 50)
    assert meter.line().endswith("60 not scored, done")


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "0 s"), (59.4, "59 s"), (185, "3 min 05 s"), (7800, "2 h 10 min"), (59.6, "1 min 00 s")]
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_a_job_log_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "_LINE_SECONDS", 0.1)
    log = io.StringIO()
    meter = Meter(shards=2, rows=200, shards_before=0, rows_before=0)
    with show_progress(meter, stream=log):
        time.sleep(0.35)
        meter.add(receipt(0))
        meter.add(receipt(1))
    lines = log.getvalue().splitlines()
    assert lines[0] == "scoring: 0/2 shards, 0/200 rows, estimating the remaining time"
    assert 3 <= len(lines) <= 7
    assert lines[-1].startswith("scoring: 2/2 shards, 200/200 rows")
    assert "\x1b" not in log.getvalue()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_without_colours_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    meter = Meter(shards=1, rows=100, shards_before=0, rows_before=0)
    with show_progress(meter, stream=terminal) as update:
        meter.add(receipt(0))
        update()
    shown = terminal.getvalue()
    assert "1/1 shards" in shown
    assert "\x1b[3" not in shown, "a colour"


@pytest.mark.parametrize("uri", ["local", "mock:///bucket/run"])
def test_events_are_lines_of_json_and_a_cut_line_is_left_out(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(str(tmp_path) if uri == "local" else uri)
    log = EventLog(run, 7)
    log.add("shard_done", {"shard": 3, "text": "two\nlines"})
    log.close()
    content = run.read_bytes(events_path(7))
    run.write_bytes(events_path(7), content + b'{"event": "cut o')

    events = read_events(run, 7)
    assert [event["event"] for event in events] == ["attempt_started", "shard_done"]
    assert events[1]["text"] == "two\nlines"
    assert all(event["at"].endswith("+00:00") for event in events)


def test_an_object_store_is_not_written_at_every_event(monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory("mock:///bucket/run")
    log = EventLog(run, 1)
    for i in range(50):
        log.add("shard_done", {"shard": i})
    assert len(read_events(run, 1)) < 50
    monkeypatch.setattr(events_module, "_UPLOAD_SECONDS", 0.0)
    log.add("last", {})
    assert len(read_events(run, 1)) == 52


def test_the_manifest_keeps_every_attempt_once(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))
    assert read_manifest(run) == {}
    record_attempt(run, 1, "running", {"seed": 5})
    record_attempt(run, 2, "running", {})
    record_attempt(run, 1, "finished", {"seed": 5})
    attempts = read_manifest(run)["attempts"]
    assert [(attempt["attempt"], attempt["outcome"]) for attempt in attempts] == [(1, "finished"), (2, "running")]
    assert attempts[0]["seed"] == 5
    assert attempts[0]["versions"]["polars"][0].isdigit()
    assert versions()["python"].startswith("3.")


def stop_self(number: signal.Signals) -> None:
    with interruptible():
        os.kill(os.getpid(), number)
        time.sleep(5)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_becomes_an_exception_with_its_exit_code(number: signal.Signals, exit_code: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught:
        stop_self(number)
    assert caught.value.exit_code == exit_code
    assert number.name in str(caught.value)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_cancels_every_task_and_none_is_complained_of(
    number: signal.Signals, exit_code: int, caplog: pytest.LogCaptureFixture
) -> None:
    cleaned = []

    async def rest() -> None:
        try:
            await asyncio.sleep(5)
        finally:
            cleaned.append(True)

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(rest())
            await asyncio.sleep(0)
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught:
        run_interruptibly(work())
    gc.collect()
    assert caught.value.exit_code == exit_code
    assert cleaned == [True] * 3
    assert caplog.records == []
    assert signal.getsignal(number) is before


def test_without_a_signal_the_result_and_errors_come_through() -> None:
    async def fail() -> None:
        raise ValueError("mine")

    assert run_interruptibly(asyncio.sleep(0, "result")) == "result"
    with pytest.raises(ValueError, match="mine"):
        run_interruptibly(fail())


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    handlers = []

    def enter() -> None:
        with interruptible():
            handlers.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert handlers == [before]
