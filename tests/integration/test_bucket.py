"""Runs in a bucket: an S3 that moto plays on the loopback gives the bytes that a folder does."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from pyarrow.fs import S3FileSystem

from bds.distributed.audit import run_audit
from bds.distributed.evaluate import run_evaluation
from bds.distributed.finetune import run_finetunes
from bds.runs.directory import RunDirectory
from bds.runs.plan import read_plan
from bds.runs.receipts import valid_receipts
from bds.spec.load import load_evaluate_spec
from tests.evaluation_world import PROMPTS, aligned_or_tuned, write_spec
from tests.fake_endpoint import fake_endpoint
from tests.finetune_world import finetune_spec, write_world
from tests.long_audit import TABLES, spec_in, write_long_audit

BUCKET = "s3://bucket"


@pytest.fixture(scope="module", autouse=True)
def bucket() -> Iterator[None]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
    }
    with pytest.MonkeyPatch.context() as environment:
        for name, value in variables.items():
            environment.setenv(name, value)
        filesystem = S3FileSystem(endpoint_override=variables["AWS_ENDPOINT_URL"], allow_bucket_creation=True)
        filesystem.create_dir(BUCKET.removeprefix("s3://"))
        yield
    server.stop()


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--local"], []], ids=["local", "ray"])
def test_a_killed_audit_resumes_in_its_bucket(tmp_path: Path, options: list[str]) -> None:
    spec_file = write_long_audit(tmp_path, rows=120, rows_per_shard=3, steps=15)
    run_audit(spec_in(spec_file, tmp_path / "folder"), local=True)
    run = RunDirectory(f"{BUCKET}/audits/{tmp_path.name}")
    command = [sys.executable, "-m", "bds", "audit", str(spec_file), "--set", f"run.dir={run.uri}", *options]

    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while (plan := read_plan(run)) is None or len(valid_receipts(plan, run)) < 3:
        assert killed.poll() is None
        time.sleep(0.2)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert len(valid_receipts(plan, run)) < len(plan.shards)

    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert again.stdout.strip() == f"{run.uri}/report.html"
    folder = RunDirectory(str(tmp_path / "folder"))
    names = [*TABLES, *folder.list("selections")]
    assert len(names) > len(TABLES)
    assert [name for name in names if run.read_bytes(name) != folder.read_bytes(name)] == []


def test_fine_tunes_in_a_bucket_have_the_weights_of_a_folder(tmp_path: Path) -> None:
    write_world(tmp_path)
    bucket, folder = (finetune_spec(tmp_path, tmp_path / "folder") for _ in range(2))
    bucket = bucket.model_copy(update={"run": bucket.run.model_copy(update={"dir": f"{BUCKET}/finetunes"})})
    for spec in (bucket, folder):
        run_finetunes(spec, local=True)
    there, here = RunDirectory(bucket.run.dir), RunDirectory(folder.run.dir)
    assert there.list().keys() == here.list().keys()
    weights = [name for name in here.list() if name.endswith(".safetensors")]
    assert weights
    assert [name for name in weights if there.sha256(name) != here.sha256(name)] == []


def test_an_evaluation_in_a_bucket_has_the_rows_of_a_folder_and_asks_nothing_twice(tmp_path: Path) -> None:
    with fake_endpoint(aligned_or_tuned) as server:
        file = str(write_spec(tmp_path, server.url))
        there = load_evaluate_spec(file, [f"run.dir={BUCKET}/evaluation"])
        first = run_evaluation(there)
        asked = len([body for body in server.bodies if body["max_tokens"] == 512])
        again = run_evaluation(there)
        assert len([body for body in server.bodies if body["max_tokens"] == 512]) == asked == 4 * PROMPTS
        here = run_evaluation(load_evaluate_spec(file))
    assert again.rows.equals(first.rows)
    own = ["prompt_hmac", "generation_key"]  # a run's secret is in them
    assert first.rows.drop(own).equals(here.rows.drop(own))
    assert first.metrics["rates"] == here.metrics["rates"]
    names = RunDirectory(f"{BUCKET}/evaluation").list()
    assert "report.html" in names
    assert any(name.startswith("private/generations/") for name in names)
