"""Jobs on a simulated cluster of three nodes behind a token, one of which is switched off and one added as they run."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bds.distributed.audit import run_audit
from bds.distributed.study import run_study
from bds.runs.directory import RunDirectory
from bds.spec.load import load_spec
from bds.studies.tables import CELLS, CONTRASTS
from tests.integration.local_cluster import LocalCluster, local_cluster
from tests.integration.test_audit_identity import wait_until
from tests.integration.test_jobs_api import ROOT, finished, write_audit
from tests.long_audit import tables
from tests.study_world import study_spec, write_study_world

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="Ray has clusters of several nodes on Linux"),
]

SHARDS = 24


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A head without work and two workers: three nodes."""
    folder = Path(tempfile.mkdtemp())
    here = {
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        # Ray's workers step back for every other program, so that on a busy machine runs would hardly move.
        "RAY_worker_niceness": "0",
    }
    with local_cluster(folder, "--workers", "2", "--cpus", "1", "--minutes", "25", **here) as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)


def submit(cluster: LocalCluster, spec_file: Path, *options: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "bds", "submit", str(spec_file), "--wait", "--address", cluster.dashboard, *options],
        env={**os.environ, "PYTHONPATH": str(ROOT), **cluster.variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_node_goes_and_another_comes_and_the_bytes_are_those_of_one_process(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    spec_file = write_audit(tmp_path, rows=5 * SHARDS)
    run_audit(load_spec(str(spec_file), [f"run.dir={tmp_path / 'local'}"]), local=True)
    run = RunDirectory(str(tmp_path / "run"))

    job = submit(cluster, spec_file, "--set", "resources.actors=2")
    wait_until(lambda: finished(run) >= 4, job)
    assert cluster.wish("remove") == "1 workers"
    assert finished(run) < SHARDS, "the node went while there was work left"
    assert cluster.wish("add") == "2 workers"
    _, said = job.communicate(timeout=400)
    assert job.returncode == 0, said
    assert finished(run) == SHARDS
    assert tables(tmp_path / "run") == tables(tmp_path / "local")


def test_a_study_as_a_job_gives_the_tables_of_one_process(cluster: LocalCluster, tmp_path: Path) -> None:
    """Audits, fine-tunes and evaluations, each as on a cluster."""
    write_study_world(tmp_path)
    experiments = {"transfer": {"selections": ["top", "random"], "recipes": ["fast"], "seeds": [0]}}
    spec = study_spec(tmp_path, experiments=experiments, serving={"engine": "transformers"})
    run_study(spec.model_copy(update={"run": spec.run.model_copy(update={"dir": str(tmp_path / "local")})}), local=True)
    job = submit(cluster, tmp_path / "study.yaml")
    _, said = job.communicate(timeout=500)
    assert job.returncode == 0, said
    for name in (CELLS, CONTRASTS):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "local" / name).read_bytes(), name
