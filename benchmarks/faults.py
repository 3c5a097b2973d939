"""Breaks runs on Ray on purpose and checks that nothing is lost, doubled, changed, hung or left over.

    python benchmarks/faults.py [--kills 100] [--seed 0] [--kinds audit finetune evaluate study] [--minutes N]
                                [--kills-a-run 4] [--vllm] [--no-scenarios] [--only FAULT ...] [--out FILE.json]

Small audits, fine-tunes, evaluations and studies of the tiny aligned model run as `bds` commands. At random moments one
process gets SIGKILL: a scoring actor, a training worker, a Serve replica, an engine, a study's step, the driver (the
same command is then given again), the raylet or every process of a node of a simulated cluster of three, or the raylet
that the driver itself is connected to. Beside the kills each kind goes through five scenarios: a full disk, bytes
flipped in what was committed, storage that fails for 30 seconds, a second attempt started against a live lease, and
Ctrl-C at five moments of one run.

After each run: no lost row, no doubled row, the tables and weights of an undisturbed run to the byte (answers by greedy
decoding), nothing finished twice, no more begun again than the faults explain, no process left, no hung run, no
traceback. It ends with 1 where any of that does not hold. Ctrl-C writes what there is. Only processes that the harness
itself started are killed, each by its own id.
"""

import argparse
import contextlib
import itertools
import random
import secrets
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
import psutil
from fault_harness.cluster import simulated_cluster
from fault_harness.jobs import JOBS
from fault_harness.scenarios import ON_A_PRIVATE_RAY, SCENARIOS, Scenario
from fault_harness.trials import DRIVER, NODE, RAYLET, WHOLE, Place, Trial, Undisturbed, disturbed, undisturbed
from tiny_model import RESULTS, ROOT, write_record

from bds.organism import cached_organism
from bds.organism.recipe import Recipe

DEADLINE_SECONDS = 900.0
_IN_VAIN = 10
"""Runs in which nothing was killed, after which something is wrong with the harness or the machine."""
CPUS = 4


class Harness:
    """The trials so far, on which the next are estimated."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.trials: list[Trial] = []
        self.draw = random.Random(options.seed)
        self.started = time.monotonic()
        self.before: dict[str, Undisturbed] = {}
        self.organism = cached_organism(Recipe(), print)
        self.state = folder / "storage-fails"
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        double = Path(__file__).parent / "fault_harness" / "storage_double"
        self.environment = {
            "BDS_FAULT_STORAGE": str(self.state),
            "OMP_NUM_THREADS": "1",
            # Ray's workers step back for every other program, so that on a busy machine runs would hardly move.
            "RAY_worker_niceness": "0",
            "PYTHONPATH": f"{double}:{ROOT}:{ROOT / 'benchmarks'}",
        }
        self.on_cluster = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            # On the loopback interface only, as bds starts a private Ray.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    @property
    def kills(self) -> int:
        return sum(trial.kills for trial in self.trials if trial.fault in _KILLED)

    @property
    def minutes_left(self) -> float:
        spent = (time.monotonic() - self.started) / 60
        return float("inf") if self.options.minutes is None else self.options.minutes - spent

    @contextlib.contextmanager
    def place(self, *, workers: int | None) -> Iterator[Place]:
        """A simulated cluster with so many worker nodes; None: a private Ray for each run."""
        engine = "vllm" if self.options.vllm else "transformers"
        if workers is None:
            yield Place(self.organism, self.folder, self.environment, engine, None)
            return
        environment = {**self.environment, **self.on_cluster}
        # Unix sockets have short names only.
        with tempfile.TemporaryDirectory(prefix="bds-", dir="/tmp") as short:
            cpus = CPUS if workers == 0 else CPUS // 2
            with simulated_cluster(Path(short), environment, workers=workers, cpus=cpus) as cluster:
                said = "one node" if workers == 0 else f"a head and {workers} worker nodes"
                print(f"a simulated cluster of {said} is up at {cluster.address}", flush=True)
                yield Place(self.organism, self.folder, environment, engine, cluster)

    def prepare(self, kind: str, place: Place) -> Undisturbed:
        if kind not in self.before:
            self.before[kind] = undisturbed(JOBS[kind], place, DEADLINE_SECONDS)
            print(f"{kind}: undisturbed in {self.before[kind].seconds:.0f} s", flush=True)
        return self.before[kind]

    def wanted(self, fault: str) -> bool:
        return not self.options.only or fault in self.options.only

    @property
    def more(self) -> bool:
        in_vain = sum(trial.fault in _KILLED and not trial.kills for trial in self.trials)
        return self.kills < self.options.kills and self.minutes_left > 0 and in_vain < _IN_VAIN

    def kill_in(self, kind: str, fault: str, place: Place, kills: int) -> None:
        def act(before: Undisturbed, folder: Path) -> Trial:
            return disturbed(JOBS[kind], fault, kills, place, before, self.draw, folder)

        self._try(kind, fault, place, act)

    def scenario(self, kind: str, scenario: Scenario, place: Place) -> None:
        def act(before: Undisturbed, folder: Path) -> Trial:
            return scenario(JOBS[kind], place, before, folder)

        self._try(kind, scenario.__name__.replace("_", " "), place, act)
        self.state.unlink(missing_ok=True)

    def _try(self, kind: str, fault: str, place: Place, act: Callable[[Undisturbed, Path], Trial]) -> None:
        """A run that breaks the harness itself, by results that are not there above all, counts as wrong."""
        before = self.prepare(kind, place)
        try:
            trial = act(before, self.folder / f"{kind}-{len(self.trials)}")
        except (OSError, RuntimeError, ValueError, KeyError, pl.exceptions.PolarsError, psutil.Error) as error:
            trial = Trial(kind, fault, wrong=[f"{type(error).__name__}: {error}"])
        self._add(trial)

    def _add(self, trial: Trial) -> None:
        self.trials.append(trial)
        asked = self.options.kills
        spent = time.monotonic() - self.started
        left = "" if not self.kills else f", about {spent / self.kills * max(0, asked - self.kills) / 60:.0f} min left"
        print(
            f"[{self.kills}/{asked} kills, {spent / 60:.0f} min{left}] {trial.kind}, {trial.fault}: {trial.outcome}"
            f" ({trial.kills} of {trial.kills + trial.missed}, {trial.extra_seconds:+.0f} s)",
            flush=True,
        )
        for line in [*trial.wrong, *trial.notes]:
            print(f"    {line}", flush=True)


_KILLED = {DRIVER, RAYLET, NODE, WHOLE, *(victim for job in JOBS.values() for victim in job.victims)}


def work(harness: Harness) -> None:
    """Scenarios and kills, until there were as many as asked for or the time is over."""
    options = harness.options
    scenarios = [] if options.no_scenarios else [each for each in SCENARIOS if harness.wanted(each.__name__)]
    faults = {
        kind: [fault for fault in (*JOBS[kind].victims, DRIVER) if harness.wanted(fault)] for kind in options.kinds
    }
    turns = [
        (kind, fault) for kind in options.kinds for fault in faults[kind] if options.vllm or fault != "engine process"
    ]
    if scenarios or turns:
        with harness.place(workers=0) as place:
            for scenario, kind in itertools.product(scenarios, options.kinds):
                if harness.minutes_left > 0:
                    harness.scenario(kind, scenario, place)
            # A third of the kills is left to nodes, which need other clusters.
            share = options.kills if options.only else 2 * options.kills // 3
            for kind, fault in itertools.cycle(turns):
                if harness.kills >= share or not harness.more:
                    break
                most = JOBS[kind].survives.get(fault, options.kills_a_run)
                harness.kill_in(kind, fault, place, min(most, options.kills_a_run))
    private = [] if options.no_scenarios else [each for each in ON_A_PRIVATE_RAY if harness.wanted(each.__name__)]
    if private or (harness.wanted(WHOLE) and harness.more):
        with harness.place(workers=None) as place:
            for kind in options.kinds:
                for scenario in private:
                    harness.scenario(kind, scenario, place)
                if harness.wanted(WHOLE) and harness.more:
                    harness.kill_in(kind, WHOLE, place, 1)
    nodes = [fault for fault in (RAYLET, NODE) if harness.wanted(fault)]
    if nodes and harness.more:
        with harness.place(workers=2) as place:
            for kind, fault in itertools.cycle(itertools.product(options.kinds, nodes)):
                if not harness.more:
                    break
                harness.kill_in(kind, fault, place, 2)


def summary(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """One line a kind of run and a fault."""
    pairs = dict.fromkeys((trial.kind, trial.fault) for trial in trials)
    lines = []
    for kind, fault in pairs:
        same = [trial for trial in trials if (trial.kind, trial.fault) == (kind, fault)]
        each = [trial.extra_seconds / trial.kills for trial in same if trial.kills and not trial.wrong]
        outcomes = dict.fromkeys(trial.outcome for trial in same)
        lines.append(
            {
                "kind": kind,
                "fault": fault,
                "runs": len(same),
                "faults": sum(trial.kills for trial in same),
                "outcome": ", ".join(outcomes),
                "wrong": sum(bool(trial.wrong) for trial in same),
                "median_extra_seconds_a_fault": statistics.median(each) if each else None,
            }
        )
    return lines


def table(lines: Sequence[dict[str, Any]]) -> str:
    """`summary` as text."""
    shown = [f"{'run':9} {'fault':31} {'runs':>4} {'faults':>6} {'wrong':>5} {'extra s':>8}  outcome"]
    for line in lines:
        median = line["median_extra_seconds_a_fault"]
        extra = "-" if median is None else f"{median:.0f}"
        shown.append(
            f"{line['kind']:9} {line['fault']:31} {line['runs']:4} {line['faults']:6} {line['wrong']:5} {extra:>8}  "
            f"{line['outcome']}"
        )
    return "\n".join(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--kills-a-run", type=int, default=4, help="of one process, where a run survives so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=list(JOBS), default=list(JOBS))
    parser.add_argument("--minutes", type=float, help="begin no further run after this time")
    parser.add_argument("--vllm", action="store_true", help="evaluate with vLLM, which must be installed")
    parser.add_argument("--no-scenarios", action="store_true", help="kills alone")
    scenarios = [scenario.__name__ for scenario in (*SCENARIOS, *ON_A_PRIVATE_RAY)]
    parser.add_argument("--only", nargs="+", choices=[*sorted(_KILLED), *scenarios], metavar="FAULT")
    parser.add_argument("--keep", type=Path, help="keep the run directories of runs that went wrong here")
    parser.add_argument("--out", type=Path, default=RESULTS / "faults.json")
    options = parser.parse_args()
    if options.keep is not None and options.keep.exists() and any(options.keep.iterdir()):
        parser.error(f"--keep: there is something in {options.keep} already; name another folder")
    # A shell that starts it in the background has it ignore Ctrl-C.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with contextlib.ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        harness = Harness(options, folder.absolute())
        stopped = ""
        try:
            work(harness)
        except KeyboardInterrupt:
            stopped = "interrupted"
        except RuntimeError as error:
            stopped = str(error)
    if stopped:
        print(f"{stopped}: writing what there is", flush=True)
    lines = summary(harness.trials)
    print(f"\n{table(lines)}\n")
    wrong = [trial for trial in harness.trials if trial.wrong]
    print(f"{harness.kills} kills in {len(harness.trials)} runs, {len(wrong)} of which ended wrong")
    write_record(
        options.out,
        {
            "seed": options.seed,
            "stopped": stopped,
            "kills": harness.kills,
            "minutes": (time.monotonic() - harness.started) / 60,
            "undisturbed_seconds": {kind: before.seconds for kind, before in harness.before.items()},
            "faults": lines,
            "wrong": [asdict(trial) for trial in wrong],
        },
    )
    sys.exit(1 if wrong or stopped else 0)


if __name__ == "__main__":
    main()
