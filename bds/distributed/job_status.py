"""What a cluster says of a job and of the jobs of a run, beside what the run directory says."""

from dataclasses import asdict
from typing import Any

from bds.distributed.jobs import job_lines, open_jobs
from bds.errors import BdsError
from bds.status import run_status, status_text


def status_of_job(job_id: str, address: str | None) -> tuple[dict[str, Any], str, bool]:
    """A job and the run that it works on, as a value and as text, and whether the job is over.

    Raises:
        PreflightError: there is no such cluster or job.
    """
    jobs = open_jobs(address)
    job = jobs.get(job_id)
    lines = job_lines(job)
    run = None
    if job.run:
        try:
            run = run_status(job.run)
            lines.append(status_text(run))
        except BdsError as error:
            lines.append(f"its run cannot be read from here: {error}")
    else:
        lines.append("it was not submitted by bds, so that its run is not known")
    return {"job": asdict(job), "run": run}, "\n".join(lines), job.over


def jobs_of_run(uri: str, address: str | None) -> tuple[list[dict[str, Any]], list[str]]:
    """The jobs of a cluster that worked on a run, as values and as lines.

    Raises:
        PreflightError: there is no such cluster.
    """
    found = [job for job in open_jobs(address).list() if job.run.rstrip("/") == uri.rstrip("/")]
    found.sort(key=lambda job: job.started or 0.0)
    lines = [line for job in found for line in job_lines(job)] or ["the cluster knows no job of this run"]
    return [asdict(job) for job in found], lines
