"""What `bds submit`, `logs` and `stop` do with a job, and what they tell of it."""

import json
import sys
from collections.abc import Callable

from bds.distributed.jobs import Job, Jobs, exit_code, job_lines, open_jobs
from bds.errors import BdsError
from bds.launch.bundle import Bundle, as_mapping
from bds.runs.directory import RunDirectory
from bds.runs.interrupts import Interrupted
from bds.runs.status import attempts_logged

Say = Callable[[str], None]


def submit_bundle(bundle: Bundle, address: str | None, *, wait: bool, as_json: bool, say: Say) -> int:
    """Submits a bundle; the job's id goes to stdout.

    Args:
        wait: follow the job to its end.

    Returns:
        0, or with `wait` bds's own exit code of the job; 130 where the user stopped waiting, and not the job.

    Raises:
        PreflightError: there is no such cluster, its token is missing or wrong, or the run has a job already.
    """
    jobs = open_jobs(address)
    job_id = jobs.submit(bundle, _next_attempt(bundle.run_dir))
    told = {**as_mapping(bundle), "job": job_id, "address": jobs.address}
    print(json.dumps(told, indent=2, ensure_ascii=False) if as_json else job_id, flush=True)
    say(f"submitted {job_id} to {jobs.address}")
    if not wait:
        say(_ways(jobs, job_id, bundle.run_dir))
        return 0
    try:
        job = jobs.follow(job_id, _to_stderr)
    except Interrupted as interruption:
        say(f"the job goes on without this terminal; {_ways(jobs, job_id, bundle.run_dir)}")
        return interruption.exit_code
    return _ended(jobs, job, say)


def print_logs(job_id: str, address: str | None, *, follow: bool, say: Say) -> None:
    """Prints what a job has printed to stdout.

    Raises:
        PreflightError: there is no such cluster or job.
    """
    jobs = open_jobs(address)
    if not follow:
        sys.stdout.write(jobs.logs(job_id))
        return
    try:
        jobs.follow(job_id, _to_stdout)
    except Interrupted:
        say(f"the job goes on; stop it with: bds stop {job_id} --address {jobs.address}")


def stop_job(job_id: str, address: str | None, *, say: Say) -> None:
    """Stops a job and says how to go on.

    Raises:
        PreflightError: there is no such cluster or job.
    """
    jobs = open_jobs(address)
    job = jobs.stop(job_id)
    for line in job_lines(job):
        say(line)
    if job.run and job.status != "SUCCEEDED":
        say(f"what is finished is kept; go on with: bds resume {job.run} --address {jobs.address}")


def _next_attempt(uri: str) -> int:
    """By the run directory, where it can be read from here."""
    try:
        return max(attempts_logged(RunDirectory(uri)), default=0) + 1
    except BdsError:
        return 1


def _ended(jobs: Jobs, job: Job, say: Say) -> int:
    code = exit_code(job)
    for line in job_lines(job):
        say(line)
    if code and job.run:
        say(f"go on with: bds resume {job.run} --address {jobs.address}")
    return code


def _ways(jobs: Jobs, job_id: str, run: str) -> str:
    where = f"--address {jobs.address}"
    return f"look with: bds logs {job_id} -f {where}, or bds status {run}; stop with: bds stop {job_id} {where}"


def _to_stderr(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def _to_stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
