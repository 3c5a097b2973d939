"""`bds status RUN|JOB`, once or until it is over: from the run directory, then from the cluster where one is asked."""

import re
import time
from collections.abc import Iterator
from typing import Any

from bds.errors import PreflightError
from bds.runs.directory import RunDirectory
from bds.runs.kind import SPEC
from bds.runs.lease import LEASE
from bds.spec.paths import is_uri
from bds.status import is_over, run_status, status_text

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
    from bds.distributed.job_status import jobs_of_run, status_of_job

    if not is_run:
        return status_of_job(named, address)
    status = run_status(named)
    jobs, lines = jobs_of_run(RunDirectory(named).uri, address)
    return {**status, "jobs": jobs}, "\n".join([status_text(status), *lines]), is_over(status)


def _is_run(named: str) -> bool:
    run = RunDirectory(named)
    return run.exists(SPEC) or run.exists(LEASE)


def _is_job(named: str, address: str | None) -> bool:
    return not is_uri(named) and "/" not in named and (address is not None or _JOB_ID.fullmatch(named) is not None)
