"""Jobs as bds asks for them: which number an attempt gets, whose exit code it is, and what a wrong address is told.

The client is a stand-in here; tests/integration/test_jobs_api.py asks a real cluster.
"""

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bds.distributed import jobs as jobs_module
from bds.distributed.jobs import Job, Jobs, entrypoint, exit_code
from bds.errors import PreflightError
from bds.launch.bundle import Bundle, make_bundle
from bds.spec.load import load_any_spec
from tests.unit.small_audit import write_small_audit


@dataclass
class Client:
    """What bds asks of Ray's client."""

    jobs: list[Any] = field(default_factory=list)
    submitted: list[dict[str, Any]] = field(default_factory=list)
    uploaded: list[str] = field(default_factory=list)
    refuse: list[str] = field(default_factory=list)
    """What it refuses the next submissions with."""

    def list_jobs(self) -> list[Any]:
        return self.jobs

    def submit_job(self, **job: Any) -> str:
        if self.refuse:
            raise RuntimeError(self.refuse.pop(0))
        self.submitted.append(job)
        self.uploaded = sorted(
            file.name for file in Path(job["runtime_env"]["working_dir"]).rglob("*") if file.is_file()
        )
        return str(job["submission_id"])

    def get_job_info(self, job_id: str) -> Any:
        for job in self.jobs:
            if job.submission_id == job_id:
                return job
        raise RuntimeError(f"Request failed with status code 404: Job {job_id} does not exist.")


def details(job_id: str, status: str, run: str = "", code: int | None = None) -> SimpleNamespace:
    return SimpleNamespace(
        submission_id=job_id,
        status=status,
        message="",
        metadata={"bds_run": run},
        driver_exit_code=code,
        start_time=1000,
        end_time=None,
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(load_any_spec(str(write_small_audit(tmp_path)), ["name=small"]))


def test_a_job_uploads_the_bundle_and_knows_its_run(bundle: Bundle) -> None:
    client = Client()
    assert Jobs("http://head:8265", client).submit(bundle, 1) == "small-a1"
    (job,) = client.submitted
    assert job["entrypoint"] == "bds unpack bundle.json && exec bds audit spec.yaml --address auto"
    assert job["metadata"]["bds_run"] == bundle.run_dir
    assert client.uploaded == ["bundle.json", "harmful.jsonl", "safe.jsonl", "spec.yaml"]
    assert not Path(job["runtime_env"]["working_dir"]).exists(), "the copy is gone when it is uploaded"


def test_without_files_there_is_nothing_to_unpack(bundle: Bundle) -> None:
    assert entrypoint(Bundle(bundle.spec, bundle.run_dir, ())) == "exec bds audit spec.yaml --address auto"


def test_each_attempt_has_a_number_that_nobody_used(bundle: Bundle) -> None:
    jobs = [details("small-a1", "FAILED", bundle.run_dir), details("small-a3", "SUCCEEDED")]
    client = Client(jobs)
    assert Jobs("http://head:8265", client).submit(bundle, 1) == "small-a2"
    assert Jobs("http://head:8265", client).submit(bundle, 3) == "small-a4", "the run directory knows of more"
    client.refuse = ["Request failed with status code 500: Job with submission_id small-a2 already exists."]
    assert Jobs("http://head:8265", client).submit(bundle, 1) == "small-a4", "somebody was faster"


def test_a_run_has_one_job_at_a_time(bundle: Bundle) -> None:
    client = Client([details("other-a1", "RUNNING", bundle.run_dir)])
    with pytest.raises(PreflightError, match=r"job other-a1 works on .* already: follow it with `bds logs other-a1"):
        Jobs("http://head:8265", client).submit(bundle, 1)
    assert not client.submitted


def test_a_head_that_has_just_begun_is_waited_for(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    soon = "Request failed with status code 500: No available agent to submit job, please try again later.."
    client = Client(refuse=[soon, soon])
    assert Jobs("http://head:8265", client).submit(bundle, 1) == "small-a1"
    monkeypatch.setattr(jobs_module, "_AGENT_SECONDS", -1.0)
    with pytest.raises(PreflightError, match="has no agent that could start jobs"):
        Jobs("http://head:8265", Client(refuse=[soon])).submit(bundle, 1)


def test_no_such_job() -> None:
    with pytest.raises(PreflightError, match="knows no job small-a9; `bds status RUN` reads a run directory"):
        Jobs("http://head:8265", Client()).get("small-a9")


@pytest.mark.parametrize(
    ("status", "driver", "code"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 5, 5),
        ("FAILED", None, 1),
        ("FAILED", 0, 1),
        ("FAILED", -9, 137),
        ("STOPPED", None, 143),
        ("STOPPED", -15, 143),
    ],
)
def test_the_exit_code_is_that_of_bds(status: str, driver: int | None, code: int) -> None:
    assert exit_code(Job("a", status, "", "", "", driver, None, None)) == code


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """The address of what answers like a dashboard behind the token `right`, and the tokens that it was sent."""
    sent: list[str] = []

    class Dashboard(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given = self.headers.get("Authorization", "")
            sent.append(given)
            status = 401 if not given else 200 if given == "Bearer right" else 403
            if self.path.startswith("/other"):
                status = 200
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps({} if self.path.startswith("/other") else {"ray_version": "2"}).encode())

        def log_message(self, *arguments: Any) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Dashboard)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}", sent
    running.shutdown()
    running.server_close()


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "no-token"))


def test_the_token_is_found_where_ray_finds_it(
    server: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, sent = server
    (tmp_path / "no-token").write_text("right\n")
    assert jobs_module._headers(address) == {"Authorization": "Bearer right"}
    assert sent[0] == "", "it is sent only to who asks for it"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    with pytest.raises(PreflightError, match="refuses the token: set RAY_AUTH_TOKEN to the cluster's own"):
        jobs_module._headers(address)


def test_a_missing_token_is_said(server: tuple[str, list[str]]) -> None:
    with pytest.raises(PreflightError, match="asks for its token: set RAY_AUTH_TOKEN to it, or RAY_AUTH_TOKEN_PATH"):
        jobs_module.open_jobs(server[0])


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("ray://head:10001", "ray://head:10001 is for Ray Client; jobs are submitted to the dashboard, as in "
         "--address http://head:8265"),
        ("head:6379", "head:6379 is no address of a dashboard, it has no http:// before it; jobs are submitted"),
        ("auto", "auto is no address of a dashboard"),
        ("ftp://head:1", "ftp://head:1 is no address of a dashboard"),
        ("http://127.0.0.1:{free}", "no cluster answers at http://127.0.0.1:{free} ([Errno 111] Connection refused)"),
        ("http://127.0.0.1:{silent}", "what answers at http://127.0.0.1:{silent} is not Ray's dashboard (timed out)"),
        ("{server}/other", "what answers at {server}/other is not Ray's dashboard; give the dashboard's address"),
    ],
)  # fmt: skip
def test_an_address_that_is_none(
    server: tuple[str, list[str]], address: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "_REACH_SECONDS", 0.5)
    with socket.socket() as free, socket.socket() as silent:
        free.bind(("127.0.0.1", 0))
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        places = {"free": free.getsockname()[1], "silent": silent.getsockname()[1], "server": server[0]}
        with pytest.raises(PreflightError) as refused:
            jobs_module.open_jobs(address.format(**places))
    assert told.format(**places) in str(refused.value)


def test_what_ray_has_set_is_the_address_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    with pytest.raises(PreflightError, match=r"^head:6379 is no address"):
        jobs_module.open_jobs()
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "ray://head:1")
    with pytest.raises(PreflightError, match=r"^ray://head:1 is for Ray Client"):
        jobs_module.open_jobs()
