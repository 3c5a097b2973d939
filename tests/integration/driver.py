"""A driver as its own process, for tests that end it: `python driver.py RUN CALLS ADDRESS`."""

import functools
import sys

from bds.distributed.session import connect
from bds.runs.directory import RunDirectory
from bds.runs.interrupts import Interrupted, interruptible
from bds.runs.lease import hold_lease
from bds.runs.plan import read_plan
from bds.runs.receipts import remaining
from bds.spec.models import ResourcesSpec
from tests.integration.ray_scorers import Accidents, load


def main(uri: str, calls: str, address: str) -> None:
    run = RunDirectory(uri)
    plan = read_plan(run)
    assert plan is not None
    with hold_lease(run) as lease, connect(ResourcesSpec(address=address)), interruptible():
        from bds.distributed.scoring import WorkerPool, score_shards

        score_shards(
            run,
            remaining(plan, run),
            functools.partial(load, calls, Accidents(seconds=0.5)),
            WorkerPool(2, cpus=1, gpus=0.0, memory=None),
            attempt=lease.record.attempt,
            on_receipt=lambda receipt: None,
            on_failure=lambda failure: None,
        )


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Interrupted as interrupted:
        sys.exit(interrupted.exit_code)
