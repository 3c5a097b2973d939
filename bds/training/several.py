"""Fine-tunes that one process trains one after the other, and what is recorded of each as soon as it has ended.

The record is in the run directory: whoever waits for them hears of each end, and a process that takes over from one
that died trains what is left.
"""

import functools
import gc
import itertools
import os
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from bds.errors import BdsError
from bds.runs.directory import RunDirectory
from bds.runs.messages import first_line
from bds.training.plan import Assignment, finished


@dataclass(frozen=True)
class Failure:
    """Why a fine-tune has no result. It says nothing about the others."""

    reason: str
    trace: str


@dataclass(frozen=True)
class Outcome:
    assignment: Assignment
    failure: Failure | None


def spread(assignments: Sequence[Assignment], *, most: int, at_a_time: int) -> list[list[Assignment]]:
    """Even parts in order, none of more than `most`, so that as many as can run at a time have equally much to do."""
    rounds = -(-len(assignments) // (most * at_a_time))
    parts = min(len(assignments), rounds * at_a_time)
    bounds = [len(assignments) * part // parts for part in range(parts + 1)] if parts else []
    return [list(assignments[start:end]) for start, end in itertools.pairwise(bounds)]


def failure_of(train: Callable[[], object]) -> Failure | None:
    """What the training of one fine-tune raises; None where it ends well."""
    failure = None
    try:
        train()
    except BdsError as error:
        failure = Failure(str(error), traceback.format_exc())
    except Exception as error:
        failure = Failure(f"{type(error).__name__}: {first_line(error)}", traceback.format_exc())
    # A trainer and its model refer to each other in circles: they would be in memory while the next model loads.
    gc.collect()
    return failure


class Series:
    """Fine-tunes for one process at a time, in order."""

    def __init__(self, run: RunDirectory, parent: str, assignments: Sequence[Assignment]) -> None:
        """
        Args:
            parent: within the run directory; the series has a folder of its own below it.
        """
        self.name = f"{assignments[0].key[:16]}-{os.urandom(4).hex()}"
        self.assignments = list(assignments)
        self._run = run
        self._folder = f"{parent}/{self.name}/ended"
        self._told: set[int] = set()

    @property
    def left(self) -> list[Assignment]:
        """Those that `news` has not told of, the one under way first."""
        return [each for number, each in enumerate(self.assignments) if number not in self._told]

    def train(self, train: Callable[[Assignment], object], *, stop_at_failure: bool = False) -> None:
        """Trains what no process before this one has ended; one that fails is recorded as such and the next begins.

        Args:
            stop_at_failure: leave the rest to another process.
        """
        recorded = self._recorded()
        for number, assignment in enumerate(self.assignments):
            if number in recorded:
                continue
            # The process before this one may have died between the receipt and the record.
            done = finished(self._run, assignment.task, assignment.key) is not None
            failure = None if done else failure_of(functools.partial(train, assignment))
            record = {"failure": None if failure is None else asdict(failure)}
            self._run.write_json(self._name_of(number), record)
            if failure is not None and stop_at_failure:
                return

    def news(self) -> list[Outcome]:
        """What has ended since the last call, in this process or another."""
        outcomes = []
        for number in sorted(self._recorded() - self._told):
            failure = self._run.read_json(self._name_of(number))["failure"]
            self._told.add(number)
            outcomes.append(Outcome(self.assignments[number], None if failure is None else Failure(**failure)))
        return outcomes

    def _recorded(self) -> set[int]:
        names = self._run.list(self._folder)
        return {number for number in range(len(self.assignments)) if self._name_of(number) in names}

    def _name_of(self, number: int) -> str:
        return f"{self._folder}/{number:03d}.json"
