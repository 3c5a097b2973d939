"""One run, disturbed: the command, kills at random moments, the same command again, and what is wrong afterwards."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bds.organism.layout import OrganismPaths

from .checks import Left, complaints
from .cluster import Cluster
from .jobs import ACTORS, JOBS, Job
from .processes import Family, kill, kill_with_children

POLL_SECONDS = 0.3
DRIVER, RAYLET, NODE, WHOLE = "driver", "raylet", "node", "raylet of the driver"


@dataclass(frozen=True)
class Place:
    """Where runs run: on a simulated cluster, or each on a private Ray of its own."""

    organism: OrganismPaths
    folder: Path
    environment: Mapping[str, str]
    """Added to that of every command."""
    engine: str
    cluster: Cluster | None


@dataclass
class Undisturbed:
    """A run that was left alone."""

    left: Left
    seconds: float
    alive: dict[str, float]
    """How long each kind of victim was there, in seconds."""


@dataclass
class Trial:
    """What became of one disturbed run."""

    kind: str
    fault: str
    kills: int = 0
    missed: int = 0
    """Kills that were drawn for a moment when the run had ended."""
    commands: int = 0
    seconds: float = 0.0
    extra_seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        if self.wrong:
            return "wrong"
        return "went on" if self.commands == 1 else "resumed by the same command"


class Command:
    """A `bds` command under way."""

    def __init__(self, kind: str, spec: Path, place: Place, options: Sequence[str] = ()) -> None:
        self.family = Family()
        self._said = spec.parent / f"said-{time.monotonic_ns()}.txt"
        environment = {**self.family.environment, **place.environment}
        if place.cluster is not None:
            environment["RAY_ADDRESS"] = place.cluster.address
        with self._said.open("w") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bds", kind, str(spec), *options],
                stdout=subprocess.DEVNULL,
                stderr=said,
                env=environment,
                # What a terminal's Ctrl-C reaches: the command and all it started that has not left its group.
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self._said.read_text(errors="replace")

    @property
    def code(self) -> int | None:
        return self.process.poll()

    def interrupt(self) -> None:
        """As Ctrl-C does in a terminal."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGINT)

    def wait(self, seconds: float) -> int | None:
        """Its exit code; None where it has not ended in time."""
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return None


@contextlib.contextmanager
def command(kind: str, spec: Path, place: Place, options: Sequence[str] = ()) -> Iterator[Command]:
    """Whatever happens in the block, nothing of the command is left after it."""
    started = Command(kind, spec, place, options)
    try:
        yield started
    finally:
        started.family.end()
        started.process.wait(timeout=60)


def victims(job: Job, fault: str, running: Command, cluster: Cluster | None) -> list[psutil.Process]:
    """The processes of one kind that are there to be killed."""
    if fault == DRIVER:
        return [psutil.Process(running.process.pid)] if running.code is None else []
    if fault == WHOLE:
        return running.family.titled(["/raylet/raylet "])
    if fault in {RAYLET, NODE}:
        assert cluster is not None
        return [psutil.Process(pid) for pid in cluster.raylets if psutil.pid_exists(pid)]
    found = running.family.titled(job.victims[fault])
    return found or ([] if cluster is None else cluster.family.titled(job.victims[fault]))


def undisturbed(job: Job, place: Place, deadline: float) -> Undisturbed:
    """Runs it once without faults; raises RuntimeError where even that does not work."""
    spec, run_dir = job.write(place.organism, place.folder / f"{job.kind}-undisturbed", place.engine)
    started = time.monotonic()
    seen: dict[str, list[float]] = {}
    with command(job.kind, spec, place) as running:
        while running.code is None:
            if time.monotonic() - started > deadline:
                raise RuntimeError(f"the undisturbed {job.kind} did not end in {deadline:.0f} s: {running.said[-300:]}")
            for fault in (DRIVER, *job.victims):
                if victims(job, fault, running, place.cluster):
                    seen.setdefault(fault, []).append(time.monotonic())
            time.sleep(2 * POLL_SECONDS)
        seconds = time.monotonic() - started
        if running.code != 0:
            raise RuntimeError(f"the undisturbed {job.kind} ended with {running.code}: {running.said[-600:]}")
    alive = {fault: moments[-1] - moments[0] for fault, moments in seen.items()}
    return Undisturbed(job.left(run_dir), seconds, alive)


def disturbed(
    job: Job, fault: str, kills: int, place: Place, before: Undisturbed, draw: random.Random, folder: Path
) -> Trial:
    """Runs it with so many kills of one kind of victim, and again until it ends well."""
    trial = Trial(job.kind, fault)
    spec, run_dir = job.write(place.organism, folder, place.engine)
    started = time.monotonic()
    deadline = started + 120 + (2 + 2 * kills) * before.seconds
    window = before.alive.get(fault, before.alive[DRIVER])
    left = kills
    while not trial.wrong:
        trial.commands += 1
        killed_now = 0
        due: float | None = None
        with command(job.kind, spec, place) as running:
            while running.code is None:
                now = time.monotonic()
                if now > deadline:
                    last = running.said.strip().splitlines()[-1:] or ["nothing"]
                    trial.wrong.append(f"it hung; the last that it said: {last[0][:200]}")
                    break
                if left and (found := victims(job, fault, running, place.cluster)):
                    due = now + draw.uniform(0, window / kills) if due is None else due
                    if now >= due and _kill(draw.choice(found), fault, place.cluster):
                        killed_now, left, due = killed_now + 1, left - 1, None
                        trial.kills += 1
                time.sleep(POLL_SECONDS)
            code, said = running.code, running.said
            if trial.wrong:
                break
            if place.cluster is None and (over := running.family.leftovers()):
                trial.wrong.append(f"{len(over)} processes were left over, for example {over[0]}")
        if "Traceback (most recent call last)" in said:
            trial.wrong.append(f"it ended with a traceback: {said.strip().splitlines()[-1][:200]}")
        if code == 0:
            break
        if not killed_now:
            trial.wrong.append(f"it ended with {code} without a kill: {said.strip().splitlines()[-1:]}")
        elif fault in job.survives:
            trial.wrong.append(f"a killed {fault} ended the command with {code}: {said.strip().splitlines()[-1:]}")
        elif fault != DRIVER:
            trial.notes.append(f"ended with {code}: {(said.strip().splitlines() or [''])[-1][:200]}")
    trial.missed = left
    trial.seconds = time.monotonic() - started
    trial.extra_seconds = trial.seconds - before.seconds
    if not trial.wrong:
        trial.wrong += complaints(before.left, job.left(run_dir), lost_work=ACTORS * max(1, trial.kills))
        trial.wrong += left_on(place.cluster)
    if not trial.wrong:
        shutil.rmtree(folder)
    return trial


def left_on(cluster: Cluster | None, seconds: float = 30.0) -> list[str]:
    """Processes on a cluster that still belong to a run which has ended."""
    if cluster is None:
        return []
    deadline = time.monotonic() + seconds
    while busy := cluster.family.titled(_WORKING):
        if time.monotonic() > deadline:
            titles = sorted({" ".join(process.cmdline())[:60] for process in busy if process.is_running()})
            return [f"{len(busy)} processes of the run are left over on the cluster: {', '.join(titles)}"]
        time.sleep(0.5)
    return []


_WORKING = (
    *(word for job in JOBS.values() for words in job.victims.values() for word in words),
    "ray::TrainController",
    "ray::_fit",
)


def _kill(victim: psutil.Process, fault: str, cluster: Cluster | None) -> bool:
    how: Callable[[psutil.Process], bool] = kill_with_children if fault == NODE else kill
    killed = how(victim)
    if killed and fault in {RAYLET, NODE} and cluster is not None:
        cluster.replace(victim.pid)
    return killed
