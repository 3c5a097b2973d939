"""Jobs on a cluster that is there already: submit one, follow it, stop it, ask for it, by Ray's Jobs API.

A job is one attempt at a run. Ray never lets an id be used twice, so the attempt's number is part of it.
"""

import contextlib
import json
import logging
import os
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from bds.errors import BdsError, PreflightError
from bds.launch.bundle import BUNDLE_FILE, SPEC_FILE, Bundle, command_of, write_bundle
from bds.launch.names import job_name
from bds.runs.interrupts import run_interruptibly
from bds.runs.messages import first_line
from bds.spec.identity import spec_hash

DEFAULT_ADDRESS = "http://127.0.0.1:8265"

_ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""What Ray's own commands read, in their order."""

_TOKEN_HEADER = "Authorization"
_REACH_SECONDS = 10.0
_POLL_SECONDS = 1.0
_NOT_YET = "No available agent"
"""What a head says that has just begun: its dashboard is up before what starts jobs."""
_AGENT_SECONDS = 30.0
_TRIES = 5
"""Two who submit the same run at once want the same number."""

_OVER = ("STOPPED", "SUCCEEDED", "FAILED")
_SIGTERM_CODE = 143


@dataclass(frozen=True)
class Job:
    """What the cluster says of a job."""

    id: str
    status: str
    """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    message: str
    run: str
    """The run directory; empty for a job that bds did not submit."""
    kind: str
    exit_code: int | None
    """bds's own, once the job is over."""
    started: float | None
    """Unix time."""
    ended: float | None

    @property
    def over(self) -> bool:
        return self.status in _OVER


class Jobs:
    """The jobs of one cluster. Every error of Ray's comes out as one sentence with the way out."""

    def __init__(self, address: str, client: Any) -> None:
        self.address = address
        self._client = client

    def submit(self, bundle: Bundle, attempt: int) -> str:
        """Uploads a bundle and starts its job; returns the job's id.

        Args:
            attempt: the least number that the attempt can have, as far as the run directory can be read from here.

        Raises:
            PreflightError: a job works on that run already, or the cluster refuses.
        """
        jobs = self.submitted()
        for job in jobs:
            if job.run == bundle.run_dir and not job.over:
                raise PreflightError(
                    f"job {job.id} works on {bundle.run_dir} already: follow it with `bds logs {job.id} -f --address "
                    f"{self.address}`, or stop it with `bds stop {job.id} --address {self.address}`"
                )
        name = job_name(bundle.spec)
        used = {job.id for job in jobs}
        for _ in range(_TRIES):
            while f"{name}-a{attempt}" in used:
                attempt += 1
            job_id = f"{name}-a{attempt}"
            try:
                self._submit(bundle, job_id, attempt)
            except PreflightError as error:
                # Somebody took the number since the jobs were listed.
                if "already" not in str(error.__cause__):
                    raise
                used.add(job_id)
            else:
                return job_id
        raise PreflightError(f"{self.address} gave the ids {name}-a* to others {_TRIES} times; submit again")

    def get(self, job_id: str) -> Job:
        """Raises PreflightError where the cluster knows no such job."""
        with self._explained(job_id):
            return _job(self._client.get_job_info(job_id))

    def submitted(self) -> list[Job]:
        """Those that were submitted, whoever did."""
        with self._explained():
            return [_job(details) for details in self._client.list_jobs() if details.submission_id]

    def of_run(self, uri: str) -> list[Job]:
        """Those that worked on a run, the first one first."""
        return sorted((job for job in self.submitted() if job.run == uri), key=lambda job: job.started or 0.0)

    def logs(self, job_id: str) -> str:
        """What the job has printed so far."""
        self.get(job_id)
        with self._explained(job_id):
            return str(self._client.get_job_logs(job_id))

    def follow(self, job_id: str, show: Callable[[str], None]) -> Job:
        """Shows what the job prints until it is over.

        Raises:
            Interrupted: SIGINT or SIGTERM. The job goes on.
        """
        self.get(job_id)

        async def tail() -> None:
            async for text in self._client.tail_job_logs(job_id):
                show(text)

        with self._explained(job_id):
            run_interruptibly(tail())
        return self.wait(job_id)

    def wait(self, job_id: str) -> Job:
        """The job when it is over."""
        while not (job := self.get(job_id)).over:
            time.sleep(_POLL_SECONDS)
        return job

    def stop(self, job_id: str) -> Job:
        """Asks Ray to stop a job, which gives its run's lease back; returns it when it is over."""
        if not (job := self.get(job_id)).over:
            with self._explained(job_id):
                self._client.stop_job(job_id)
            job = self.wait(job_id)
        return job

    def _submit(self, bundle: Bundle, job_id: str, attempt: int) -> None:
        with tempfile.TemporaryDirectory(prefix="bds-submit-") as folder, self._explained(job_id):
            write_bundle(bundle, Path(folder))
            metadata = {
                "bds_run": bundle.run_dir,
                "bds_kind": bundle.spec.kind,
                "bds_attempt": str(attempt),
                "bds_spec": spec_hash(bundle.spec),
            }
            deadline = time.monotonic() + _AGENT_SECONDS
            while True:
                try:
                    self._client.submit_job(
                        entrypoint=entrypoint(bundle),
                        submission_id=job_id,
                        runtime_env={"working_dir": folder},
                        metadata=metadata,
                    )
                except RuntimeError as error:
                    if _NOT_YET not in str(error) or time.monotonic() > deadline:
                        raise
                else:
                    return

    @contextlib.contextmanager
    def _explained(self, job_id: str = "") -> Iterator[None]:
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise _unauthorised(self.address) from error
        except (requests.exceptions.RequestException, ConnectionError, OSError) as error:
            raise PreflightError(
                f"the cluster at {self.address} does not answer any more ({first_line(error)}): what the run has "
                "finished is in its run directory, which `bds status RUN` reads without a cluster"
            ) from error
        except RuntimeError as error:  # how Ray's client tells every reply that it did not expect
            if "status code 404" in str(error):
                raise PreflightError(
                    f"{self.address} knows no job {job_id}; `bds status RUN` reads a run directory, and jobs are gone "
                    "with their cluster"
                ) from error
            if _NOT_YET in str(error):
                raise PreflightError(
                    f"the head at {self.address} has no agent that could start jobs: look in its dashboard_agent.log "
                    "(another cluster on that machine may have its port, 52365), then submit again"
                ) from error
            raise PreflightError(f"{self.address} refused ({_told_by_ray(error)}); check job and cluster") from error


def open_jobs(address: str | None = None) -> Jobs:
    """The jobs of the cluster at an address.

    Args:
        address: of the dashboard, as http://HEAD:8265; left out, RAY_API_SERVER_ADDRESS, RAY_ADDRESS or this machine's.

    Raises:
        PreflightError: nobody answers there, the address is of another kind, or the token is missing or wrong.
    """
    url = _dashboard(
        address or next((os.environ[name] for name in _ADDRESSES if os.environ.get(name)), DEFAULT_ADDRESS)
    )
    headers = _headers(url)
    with _quiet_environment():
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        # It tells of every upload on this terminal.
        for chatty in ("ray.dashboard", "ray._private.runtime_env"):
            logging.getLogger(chatty).setLevel(logging.ERROR)
        logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.ERROR)
        logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.ERROR)
        try:
            client = JobSubmissionClient(url, headers=headers)
        except AuthenticationError as error:
            raise _unauthorised(url) from error
        except (RuntimeError, ValueError, OSError) as error:
            raise PreflightError(f"{url} is no Jobs API that this Ray can use ({first_line(error)})") from error
    return Jobs(url, client)


def entrypoint(bundle: Bundle) -> str:
    """What the job runs, in the folder that the bundle was unpacked to; its exit code is bds's own."""
    # The cluster is the one that the job is on, whatever the spec says of others.
    run = " ".join(["exec", *command_of(bundle.spec.kind, SPEC_FILE, "--address", "auto")])
    return f"bds unpack {BUNDLE_FILE} && {run}" if bundle.files else run


def exit_code(job: Job) -> int:
    """bds's exit code of a job that is over."""
    if job.status == "SUCCEEDED":
        return 0
    if job.status == "STOPPED":
        return _SIGTERM_CODE
    if job.exit_code is None:
        return BdsError.exit_code
    # A process that a signal ended has its negative number.
    return 128 - job.exit_code if job.exit_code < 0 else job.exit_code or BdsError.exit_code


def job_lines(job: Job) -> list[str]:
    """A job for people."""
    told = f"job {job.id}: {job.status.lower()}"
    if job.exit_code is not None:
        told += f" with exit code {exit_code(job)}"
    message = next(iter(job.message.splitlines()), "")
    return [told, *([f"  {message}"] if message and job.status == "FAILED" else [])]


def _job(details: Any) -> Job:
    metadata = details.metadata or {}
    return Job(
        id=str(details.submission_id),
        status=str(getattr(details.status, "value", details.status)),
        message=details.message or "",
        run=metadata.get("bds_run", ""),
        kind=metadata.get("bds_kind", ""),
        exit_code=details.driver_exit_code,
        started=None if details.start_time is None else details.start_time / 1000,
        ended=None if not details.end_time else details.end_time / 1000,
    )


def _dashboard(address: str) -> str:
    """The address without a slash at the end. Raises PreflightError where it is not of a dashboard."""
    scheme, found, rest = address.partition("://")
    host = (rest if found else address).partition("/")[0].rpartition(":")[0] or "HEAD"
    way_out = f"jobs are submitted to the dashboard, as in --address http://{host}:8265"
    if scheme == "ray":
        raise PreflightError(f"{address} is for Ray Client; {way_out}")
    if not found:
        raise PreflightError(f"{address} is no address of a dashboard, it has no http:// before it; {way_out}")
    if scheme not in {"http", "https"}:
        raise PreflightError(f"{address} is no address of a dashboard; {way_out}")
    return address.rstrip("/")


def _headers(url: str) -> dict[str, str]:
    """What to send with every request: the token, and only to a cluster that asks for one.

    Ray's own client sends it where RAY_AUTH_MODE says so, which a user who has a token need not have set.
    """
    status = _asked(url, {})
    if status == 200:
        return {}
    token = _token()
    if token is None:
        raise PreflightError(
            f"the cluster at {url} asks for its token: set RAY_AUTH_TOKEN to it, or RAY_AUTH_TOKEN_PATH to the file "
            "that holds it"
        )
    headers = {_TOKEN_HEADER: f"Bearer {token}"}
    if _asked(url, headers) != 200:
        raise _unauthorised(url)
    return headers


def _asked(url: str, headers: dict[str, str]) -> int:
    """200, 401 or 403. Raises PreflightError where something else, or nothing, is at the address."""
    request = urllib.request.Request(f"{url}/api/version", headers=headers)
    not_ray = f"what answers at {url} is not Ray's dashboard"
    way_out = "give the dashboard's address, by default port 8265 of the head (6379 is for other things)"
    try:
        with urllib.request.urlopen(request, timeout=_REACH_SECONDS) as reply:
            if "ray_version" not in json.load(reply):
                raise PreflightError(f"{not_ray}; {way_out}")
            return 200
    except urllib.error.HTTPError as error:
        if error.code in {401, 403}:
            return error.code
        raise PreflightError(f"{not_ray} (HTTP {error.code}); {way_out}") from error
    except urllib.error.URLError as error:
        raise PreflightError(
            f"no cluster answers at {url} ({error.reason}): start it, or give the address of its dashboard as "
            "--address http://HEAD:8265"
        ) from error
    except (OSError, ValueError, HTTPException) as error:
        raise PreflightError(f"{not_ray} ({first_line(error)}); {way_out}") from error


def _token() -> str | None:
    """As Ray finds it: RAY_AUTH_TOKEN, the file of RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    with contextlib.suppress(OSError):
        return (Path(path) if path else Path.home() / ".ray" / "auth_token").read_text("utf-8").strip() or None
    return None


def _unauthorised(address: str) -> PreflightError:
    return PreflightError(
        f"the cluster at {address} refuses the token: set RAY_AUTH_TOKEN to the cluster's own, or RAY_AUTH_TOKEN_PATH "
        "to the file that holds it"
    )


@contextlib.contextmanager
def _quiet_environment() -> Iterator[None]:
    """Ray's client would take these addresses instead of the one it is given."""
    before = {name: os.environ.pop(name) for name in _ADDRESSES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


def _told_by_ray(error: Exception) -> str:
    """Of a traceback in a reply, the last line; it says what went wrong."""
    lines: Sequence[str] = [line for line in str(error).replace("\\n", "\n").splitlines() if line.strip()]
    return lines[-1].strip().rstrip(".") if lines else type(error).__name__
