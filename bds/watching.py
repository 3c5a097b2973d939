"""`bds status RUN|JOB`, once or until it is over: from the run directory, then from the cluster where one is asked."""

import re
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bds.errors import BdsError, PreflightError
from bds.runs.directory import RunDirectory
from bds.runs.kind import SPEC
from bds.runs.lease import LEASE
from bds.spec.paths import is_uri
from bds.status import is_over, run_status, status_text

if TYPE_CHECKING:
    from bds.distributed.jobs import Job

_EVERY_SECONDS = 5.0
_JOB_ID = re.compile(r"[A-Za-z0-9._+-]+-a\d+")


def told_until_over(named: str, address: str | None, *, watch: bool) -> Iterator[tuple[dict[str, Any], str]]:
    """What there is to tell, as a value and as text; with `watch` again and again until nobody works on the run.

    Raises:
        PreflightError: neither a run nor a job is named so, or the cluster cannot be asked.
    """
    while True:
        told, text, over = _status(named, address)
        yield told, text
        if over or not watch:
            return
        time.sleep(_EVERY_SECONDS)


def _status(named: str, address: str | None) -> tuple[dict[str, Any], str, bool]:
    is_run = _is_run(named)
    if not is_run and not _is_job(named, address):
        raise PreflightError(
            f"there is no run in {named}; name a run directory (`bds ls runs FOLDER` lists them), or a job with "
            "--address http://HEAD:8265"
        )
    if is_run and address is None:
        status = run_status(named)
        return status, status_text(status), is_over(status)
    # Only here Ray is needed.
    from bds.distributed.jobs import job_lines, open_jobs

    jobs = open_jobs(address)
    if not is_run:
        return _of_job(jobs.get(named))
    status = run_status(named)
    own = jobs.of_run(RunDirectory(named).uri)
    lines = [line for job in own for line in job_lines(job)] or ["the cluster knows no job of this run"]
    told = {**status, "jobs": [asdict(job) for job in own]}
    return told, "\n".join([status_text(status), *lines]), is_over(status)


def _of_job(job: "Job") -> tuple[dict[str, Any], str, bool]:
    """A job, and the run that it works on where it can be read from here."""
    from bds.distributed.jobs import job_lines

    lines, run = job_lines(job), None
    if not job.run:
        lines.append("it was not submitted by bds, so that its run is not known")
    else:
        try:
            run = run_status(job.run)
            lines.append(status_text(run))
        except BdsError as error:
            lines.append(f"its run cannot be read from here: {error}")
    return {"job": asdict(job), "run": run}, "\n".join(lines), job.over


def _is_run(named: str) -> bool:
    run = RunDirectory(named)
    return run.exists(SPEC) or run.exists(LEASE)


def _is_job(named: str, address: str | None) -> bool:
    return not is_uri(named) and "/" not in named and (address is not None or _JOB_ID.fullmatch(named) is not None)
