"""One attempt at a run: it holds the lease, logs what happens, and leaves in the manifest how it ended."""

import contextlib
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from bds.errors import BdsError
from bds.runs.directory import RunDirectory
from bds.runs.events import EventLog
from bds.runs.lease import Lease, delete_run, hold_lease
from bds.runs.manifest import record_attempt


@dataclass
class Attempt:
    """Made by `open_attempt`, inside whose block the run is this process's alone."""

    run: RunDirectory
    lease: Lease
    log: EventLog
    command: str
    """What the user typed."""
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    begun: bool = False
    error: BdsError | None = None
    """Set it where the run is whole, and yet ends with an error that its results tell."""

    @property
    def number(self) -> int:
        return self.lease.record.attempt

    def begin(self, report: Callable[[str], None]) -> None:
        """Call it when what was asked has turned out to be possible: from here on the manifest tells of the attempt."""
        self.begun = True
        self.record("running")
        report(f"run directory {self.run.uri}; stop at any time, the same command resumes")

    def record(self, outcome: str) -> None:
        record_attempt(self.run, self.number, outcome, {"started": self.started.isoformat(), "command": self.command})


@contextlib.contextmanager
def open_attempt(run: RunDirectory, command: Sequence[str], *, fresh: bool) -> Iterator[Attempt]:
    """Holds the lease of a run and records how the block ends.

    Args:
        fresh: delete what an earlier run left first.

    Raises what `hold_lease` raises.
    """
    with hold_lease(run) as lease:
        if fresh:
            delete_run(run)
        attempt = Attempt(run, lease, EventLog(run, lease.record.attempt), shlex.join(command))
        try:
            yield attempt
        except BaseException as error:
            outcome = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error) or type(error).__name__
            # The run's own error is the one to tell, not that of a storage that fails as well.
            with contextlib.suppress(BdsError):
                attempt.log.add("ended", {"outcome": outcome})
                if attempt.begun:
                    attempt.record(outcome)
            raise
        finally:
            attempt.log.close()
        attempt.record("finished" if attempt.error is None else str(attempt.error))
