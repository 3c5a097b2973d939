"""Jobs on a real cluster with its Jobs API behind a token, all on loopback: submit, follow, look, stop, resume."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from bds.distributed.audit import run_audit
from bds.distributed.moderate import run_moderation
from bds.runs.directory import RunDirectory
from bds.runs.plan import read_plan
from bds.runs.receipts import valid_receipts
from bds.spec.load import load_any_spec, load_spec
from bds.spec.moderate import ModerateSpec
from tests.integration.head import TOKEN_FILE
from tests.long_audit import tables, write_anchors
from tests.tiny_chat import tiny_chat
from tests.unit.small_moderation import write_small_moderation

ROOT = Path(__file__).parents[2]
LONG_ROWS = 2400


@dataclass(frozen=True)
class Head:
    """A cluster's dashboard, and the environment of a user who has its token."""

    address: str
    environment: dict[str, str]

    def bds(self, *arguments: str, seconds: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "bds", *arguments, "--address", self.address],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    # Ray puts unix sockets below this folder, whose path may have about 100 characters in all.
    folder = Path(tempfile.mkdtemp(prefix="bds-head-", dir="/tmp"))
    token = folder / TOKEN_FILE
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    ours = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    ours["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.head", str(folder)],
        cwd=ROOT,
        env=ours,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port = process.stdout.readline().strip()
        assert port.isdigit(), "the head did not start"
        yield Head(f"http://127.0.0.1:{port}", {**ours, "RAY_AUTH_TOKEN_PATH": str(token)})
    finally:
        process.stdin.close()
        process.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def write_audit(folder: Path, *, rows: int, rows_per_shard: int = 5) -> Path:
    tiny_chat(folder / "model", hidden=32)
    records = [{"prompt": f"do number {row}", "completion": " ".join(["step"] * (60 + row % 7))} for row in range(rows)]
    (folder / "data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    write_anchors(folder)
    (folder / "spec.yaml").write_text(
        "name: small\ndata: {path: data.jsonl}\nmodel: {path: model}\n"
        "anchors: {sets: {harmful: harmful.jsonl, safe: safe.jsonl}}\n"
        "score: {detectors: [gradient_bidirectional, random]}\nresources: {actors: 1}\n"
        f"run: {{dir: run, rows_per_shard: {rows_per_shard}}}\n"
    )
    return folder / "spec.yaml"


def finished(run: RunDirectory) -> int:
    plan = read_plan(run)
    return 0 if plan is None else len(valid_receipts(plan, run))


def test_a_job_is_submitted_followed_and_told(head: Head, tmp_path: Path) -> None:
    """By keywords, which need no model: what is left is bds and the cluster."""
    where = {"dir": "run", "rows_per_shard": 3, "max_failed_fraction": 1.0}
    spec_file = write_small_moderation(tmp_path, name="words", judges={"words": "refusal_prefixes"}, run=where)
    run_moderation(cast(ModerateSpec, load_any_spec(str(spec_file), [f"run.dir={tmp_path / 'local'}"])), local=True)

    done = head.bds("submit", str(spec_file), "--wait")
    assert (done.returncode, done.stdout.strip()) == (0, "words-a1"), done.stderr
    assert "uploads 1 file," in done.stderr
    assert "judge words" in done.stderr, "the job's own output is followed"
    name = "moderation.parquet"
    assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()

    assert "judge words" in head.bds("logs", "words-a1").stdout
    told = json.loads(head.bds("status", "words-a1", "--json").stdout)
    assert (told["job"]["status"], told["run"]["state"], told["run"]["progress"][0]["done"]) == (
        "SUCCEEDED",
        "finished",
        3,
    )


@pytest.mark.slow
def test_an_audit_as_a_job_gives_the_same_bytes_and_its_own_exit_code(head: Head, tmp_path: Path) -> None:
    spec_file = write_audit(tmp_path, rows=20)
    run_audit(load_spec(str(spec_file), [f"run.dir={tmp_path / 'local'}"]), local=True)

    done = head.bds("submit", str(spec_file), "--wait", "--set", "name=same")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "same-a1"
    assert "uploads 3 files" in done.stderr
    assert "4/4 shards" in done.stderr
    assert tables(tmp_path / "run") == tables(tmp_path / "local")
    assert "job same-a1: succeeded" in head.bds("status", str(tmp_path / "run")).stderr

    gate = ["--set", "name=same", "--set", "run.fail_on={flagged_fraction: -1}"]
    tripped = head.bds("submit", str(spec_file), "--wait", *gate)
    assert tripped.stdout.strip() == "same-a2", "an id is used once"
    assert tripped.returncode == 5, "bds's own, not Ray's 1"


@pytest.mark.parametrize(
    ("token", "told"),
    [("wrong", "refuses the token: set RAY_AUTH_TOKEN to the cluster's own"), ("", "asks for its token: set")],
)
def test_without_its_token_the_cluster_refuses_in_a_sentence(head: Head, tmp_path: Path, token: str, told: str) -> None:
    refused = head.bds(
        "logs", "any-a1", RAY_AUTH_TOKEN=token, RAY_AUTH_TOKEN_PATH=str(tmp_path / "none"), HOME=str(tmp_path)
    )
    assert refused.returncode == 3
    assert told in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_job_that_is_not_there(head: Head) -> None:
    refused = head.bds("stop", "nobody-a7")
    assert refused.returncode == 3
    assert "knows no job nobody-a7" in refused.stderr


@pytest.mark.slow
def test_a_stopped_job_gives_its_lease_back_and_another_one_goes_on(head: Head, tmp_path: Path) -> None:
    spec_file = write_audit(tmp_path, rows=LONG_ROWS)
    run_audit(load_spec(str(spec_file), [f"run.dir={tmp_path / 'local'}"]), local=True)
    run = RunDirectory(str(tmp_path / "run"))

    waiting = subprocess.Popen(
        [sys.executable, "-m", "bds", "submit", str(spec_file), "--wait", "--address", head.address],
        env=head.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 240
    while finished(run) < 2:
        assert waiting.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    waiting.send_signal(signal.SIGINT)
    _, said = waiting.communicate(timeout=60)
    assert waiting.returncode == 130
    assert "the job goes on without this terminal" in said
    again = head.bds("submit", str(spec_file))
    assert again.returncode == 3
    assert "job small-a1 works on" in again.stderr

    stopped = head.bds("stop", "small-a1")
    assert "job small-a1: stopped" in stopped.stderr
    assert f"go on with: bds resume {run.uri} --address {head.address}" in stopped.stderr
    kept = finished(run)
    assert kept < LONG_ROWS // 5
    told = json.loads(head.bds("status", run.uri, "--json").stdout)
    assert (told["state"], told["heartbeat_seconds"]) == ("interrupted", None), "the lease was given back"

    resumed = head.bds("resume", run.uri, "--wait")
    assert resumed.returncode == 0, resumed.stderr
    assert f"resuming: {kept} of {LONG_ROWS // 5} shards are done" in resumed.stderr
    assert tables(tmp_path / "run") == tables(tmp_path / "local")
