"""Faults with a name of their own: each happens once, at a moment that is known, and must cost no more than it says."""

import contextlib
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bds.cli_errors import INTERRUPTED
from bds.runs.lease import LEASE

from .checks import complaints, sentence_complaints
from .jobs import ACTORS, Job
from .trials import Command, Place, Trial, Undisturbed, command, left_on

_OUTAGE_SECONDS = 30.0
_REFUSED_SECONDS = 120.0
_INTERRUPTS = 5
_FIRST_SECONDS = 0.5
_OUT_SECONDS = 5.0
_DISK_BYTES = (1 << 30) + (64 << 20)
"""A little more than a run asks for at its start."""

Scenario = Callable[[Job, Place, Undisturbed, Path], Trial]


def full_disk(job: Job, place: Place, before: Undisturbed, folder: Path) -> Trial:
    """The disk is full half-way; when there is space again the same command ends well."""
    trial = Trial(job.kind, "full disk", kills=1)
    spec, run_dir = job.write(place.organism, folder, place.engine)
    run_dir.mkdir()
    with _small_disk(run_dir) as disk:
        ballast = run_dir.parent / "ballast" if disk is None else run_dir / "ballast"
        if disk is None:
            trial.notes.append("mounting is not allowed here: the storage double refused to write")
        with command(job.kind, spec, place) as running:
            _expect_progress(job, run_dir, running, before, trial)
            if disk is None:
                _state(place).write_text("ENOSPC")
            else:
                _fill(ballast)
            code = running.wait(before.seconds + 120)
            _expect_stop(trial, code, running, ["has no room", "free space"])
        ballast.unlink(missing_ok=True)
        _state(place).unlink(missing_ok=True)
        return _again(job, place, before, spec, run_dir, trial)


def failing_storage(job: Job, place: Place, before: Undisturbed, folder: Path) -> Trial:
    """Every read and write of the run directory fails for half a minute."""
    trial = Trial(job.kind, "storage fails for 30 s", kills=1)
    spec, run_dir = job.write(place.organism, folder, place.engine)
    state = _state(place)
    with command(job.kind, spec, place) as running:
        _expect_progress(job, run_dir, running, before, trial)
        state.write_text("EIO")
        began = time.monotonic()
        try:
            while running.code is None and time.monotonic() - began < _OUTAGE_SECONDS:
                time.sleep(0.2)
        finally:
            state.unlink()
        code = running.wait(2 * before.seconds + 120)
        if code != 0:
            _expect_stop(trial, code, running, ["cannot write", "cannot read", "cannot list", "lost its lease"])
        else:
            trial.commands = 1
    return _again(job, place, before, spec, run_dir, trial) if code != 0 else _judged(job, before, run_dir, trial)


def flipped_bytes(job: Job, place: Place, before: Undisturbed, folder: Path) -> Trial:
    """The driver is killed half-way, and bytes of what it had committed change without their number changing."""
    trial = Trial(job.kind, "corrupted part and receipt", kills=1)
    spec, run_dir = job.write(place.organism, folder, place.engine)
    with command(job.kind, spec, place) as running:
        _expect_progress(job, run_dir, running, before, trial)
        running.process.send_signal(signal.SIGKILL)
        running.process.wait()
    draw = random.Random(0)
    for patterns in _COMMITTED[job.kind]:
        files = [file for pattern in patterns for file in sorted(run_dir.glob(pattern)) if file.stat().st_size]
        if not files:
            trial.notes.append(f"nothing of {patterns[0]} was there to be corrupted")
            continue
        damaged = draw.choice(files)
        flip(damaged, draw)
        trial.notes.append(f"flipped bytes of {damaged.relative_to(run_dir)}")
    # What was finished in the damaged files has to be done again.
    return _again(job, place, before, spec, run_dir, trial, redone=True)


def second_attempt(job: Job, place: Place, before: Undisturbed, folder: Path) -> Trial:
    """The same command is started again while the first is alive: refused, and the first does not notice."""
    trial = Trial(job.kind, "second attempt at a live lease", kills=1, commands=1)
    spec, run_dir = job.write(place.organism, folder, place.engine)
    started = time.monotonic()
    with command(job.kind, spec, place) as running:
        # As early as can be: the second takes as long to start as the first, which has to be alive then.
        while running.code is None and not (run_dir / LEASE).exists():
            time.sleep(0.05)
        with command(job.kind, spec, place) as second:
            code = second.wait(_REFUSED_SECONDS)
            if code is None:
                trial.wrong.append(f"the second attempt was not refused within {_REFUSED_SECONDS:.0f} s")
            else:
                trial.wrong += [
                    f"second attempt: {told}" for told in sentence_complaints(code, second.said, ["in use"])
                ]
        if running.wait(2 * before.seconds + 120) != 0:
            trial.wrong.append(f"the first attempt ended with {running.code}: {running.said[-200:]}")
    trial.seconds = time.monotonic() - started
    trial.extra_seconds = trial.seconds - before.seconds
    trial.wrong += left_on(place.cluster)
    return _judged(job, before, run_dir, trial, lost_work=0)


def interrupted(job: Job, place: Place, before: Undisturbed, folder: Path) -> Trial:
    """Ctrl-C, from the first second to the last: out within seconds, with the way to go on; then it goes on."""
    trial = Trial(job.kind, "Ctrl-C")
    spec, run_dir = job.write(place.organism, folder, place.engine)
    draw = random.Random(folder.name)
    moments = [_FIRST_SECONDS, *(draw.uniform(_FIRST_SECONDS, before.seconds) for _ in range(_INTERRUPTS - 1))]
    took = []
    for moment in moments:
        with command(job.kind, spec, place) as running:
            if running.wait(moment) is not None:
                break
            asked = time.monotonic()
            running.interrupt()
            code = running.wait(60)
            took.append(time.monotonic() - asked)
            trial.kills += 1
            trial.commands += 1
            if code != INTERRUPTED:
                trial.wrong.append(f"after {moment:.0f} s it ended with {code}: {running.said[-300:]}")
            elif "Traceback (most recent call last)" in running.said:
                trial.wrong.append(f"after {moment:.0f} s it ended with a traceback: {running.said[-300:]}")
            elif (run_dir / LEASE).exists() and "go on with: bds" not in running.said.splitlines()[-1]:
                trial.wrong.append(f"after {moment:.0f} s its last line has no way to go on: {running.said[-300:]}")
            if over := running.family.leftovers():
                trial.wrong.append(f"{len(over)} processes were left over, for example {over[0]}")
    trial.notes.append(f"out after {', '.join(f'{seconds:.1f}' for seconds in took)} s")
    if max(took, default=0.0) > _OUT_SECONDS:
        trial.wrong.append(f"it took more than {_OUT_SECONDS:g} s to end")
    return _again(job, place, before, spec, run_dir, trial)


SCENARIOS: tuple[Scenario, ...] = (second_attempt, flipped_bytes, full_disk, failing_storage)

ON_A_PRIVATE_RAY: tuple[Scenario, ...] = (interrupted,)
"""Where the command has a Ray to end, too."""

_COMMITTED: dict[str, tuple[tuple[str, ...], ...]] = {
    "audit": (("stages/score/components/*.parquet",), ("stages/score/receipts/*.json",)),
    "finetune": (("models/**/checkpoints/stage*/**/*.pt", "models/**/checkpoints/stage*/**/*.safetensors"),),
    "evaluate": (("private/generations/*.jsonl",),),
    "study": (("audits/*/stages/score/components/*.parquet", "audits/**/components/part-*.parquet"),),
}
"""Files that the resumed run reads, one of each group is damaged."""


def flip(file: Path, draw: random.Random) -> None:
    """Inverts a few bytes in the middle of a file, whose size stays."""
    content = bytearray(file.read_bytes())
    first = draw.randrange(len(content) // 4, max(len(content) // 4 + 1, 3 * len(content) // 4))
    for place in range(first, min(first + 4, len(content))):
        content[place] ^= 0xFF
    file.write_bytes(content)


def _state(place: Place) -> Path:
    return Path(place.environment["BDS_FAULT_STORAGE"])


def _expect_progress(job: Job, run_dir: Path, running: Command, before: Undisturbed, trial: Trial) -> None:
    """Waits until some of the work is committed and some is not."""
    deadline = time.monotonic() + 2 * before.seconds + 120
    patterns = {
        "audit": ("stages/score/receipts/*.json", 8),
        "finetune": ("models/**/checkpoints/latest.json", 1),
        "evaluate": ("private/generations/*.jsonl", 1),
        "study": ("**/receipts/*.json", 4),
    }
    pattern, least = patterns[job.kind]
    while running.code is None and time.monotonic() < deadline:
        if len(list(run_dir.glob(pattern))) >= least:
            time.sleep(0.5)
            return
        time.sleep(0.05)
    trial.notes.append("the fault came when the run had nothing left to do")


def _expect_stop(trial: Trial, code: int | None, running: Command, words: list[str]) -> None:
    trial.commands = 1
    if code is None:
        last = running.said.strip().splitlines()[-1:] or ["nothing"]
        trial.wrong.append(f"it hung; the last that it said: {last[0][:200]}")
        return
    trial.wrong += sentence_complaints(code, running.said, words)
    trial.notes.append(f"ended with {code}: {(running.said.strip().splitlines() or [''])[-1][:200]}")


def _again(
    job: Job, place: Place, before: Undisturbed, spec: Path, run_dir: Path, trial: Trial, *, redone: bool = False
) -> Trial:
    """The same command, which must end well now."""
    trial.commands = max(trial.commands, 1) + 1
    started = time.monotonic()
    with command(job.kind, spec, place) as running:
        code = running.wait(2 * before.seconds + 180)
        if code != 0:
            ended = "hung" if code is None else f"ended with {code}"
            trial.wrong.append(f"the same command then {ended}: {running.said[-300:]}")
            return trial
    trial.extra_seconds = time.monotonic() - started
    trial.wrong += left_on(place.cluster)
    return _judged(job, before, run_dir, trial, redone=redone)


def _judged(
    job: Job,
    before: Undisturbed,
    run_dir: Path,
    trial: Trial,
    *,
    lost_work: int = 2 * ACTORS,
    redone: bool = False,
) -> Trial:
    left = job.left(run_dir)
    if redone:
        # A damaged piece counts as finished in each attempt that finished it.
        for name, times in left.done.items():
            left.done[name] = min(times, 1)
        lost_work += len(_COMMITTED[job.kind])
    trial.wrong += complaints(before.left, left, lost_work=lost_work)
    return trial


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[str | None]:
    """The folder on a small disk; None where this user may not mount one."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    try:
        yield str(folder) if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)


def _fill(file: Path) -> None:
    """Writes until there is no room, in ever smaller pieces."""
    with file.open("wb", buffering=0) as ballast:
        for size in (1 << 22, 1 << 12):
            with contextlib.suppress(OSError):
                while ballast.write(bytes(size)) == size:
                    pass
