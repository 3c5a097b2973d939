"""A study killed at random moments and run again ends with the tables of one that was left alone."""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from bds.distributed.study import run_study
from bds.studies.tables import CELLS, CONTRASTS
from tests.integration.test_audit_identity import end
from tests.study_world import study_spec, write_study_world

TABLES = (CELLS, CONTRASTS)
KILLS = 5


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study_world(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def expected(world: Path) -> dict[str, bytes]:
    run_study(study_spec(world, run={**RUN, "dir": "uninterrupted"}), local=True)
    return {name: (world / "uninterrupted" / name).read_bytes() for name in TABLES}


RUN = {"rows_per_shard": 16, "max_unscored_fraction": 1.0}


def study(world: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bds", "study", str(world / "study.yaml"), *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def kill(process: subprocess.Popen[str]) -> None:
    """With SIGKILL, and what it started, which on one machine dies with it a moment later."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate(timeout=60)
    end(family)


def done_twice(run: Path) -> dict[str, int]:
    """Fine-tunes, shards and answers that more than one attempt finished."""
    counted: Counter[str] = Counter()
    for file in run.rglob("events/attempt-*.jsonl"):
        for line in file.read_text().splitlines():
            try:
                event = json.loads(line)
            except ValueError:  # the line that a kill cut off
                continue
            if event["event"] in {"shard", "finetune"}:
                counted[f"{file.parents[1]} {event.get('shard', event.get('id'))}"] += 1
    for file in run.glob("evaluations/*/private/generations/*"):
        for line in file.read_bytes().splitlines():
            try:
                counted[json.loads(line)["key"]] += 1
            except ValueError:
                continue
    return {name: times for name, times in counted.items() if times > 1}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("options", "longest"), [(("--local",), 14.0), ((), 50.0)], ids=["local", "ray"])
def test_five_kills_at_random_moments_change_no_table(
    world: Path, expected: dict[str, bytes], options: tuple[str, ...], longest: float
) -> None:
    run = world / ("local" if options else "ray")
    # Two steps at a time, where there are tasks to run them.
    study_spec(world, run={**RUN, "dir": run.name}, serving={"engine": "transformers"}, resources={"steps": 2})
    draw = random.Random(5)
    killed = 0
    while killed < KILLS:
        process = study(world, *options)
        began = time.monotonic()
        moment = draw.uniform(5.0, longest)
        while time.monotonic() - began < moment and process.poll() is None:
            time.sleep(0.1)
        if process.poll() is not None:
            break
        kill(process)
        killed += 1
    assert killed == KILLS, "it was killed before it could end"
    process = study(world, *options)
    _, said = process.communicate(timeout=900)
    assert process.returncode == 0, said
    assert {name: (run / name).read_bytes() for name in TABLES} == expected
    assert done_twice(run) == {}
    assert not [each for each in psutil.process_iter(["cmdline"]) if str(run) in " ".join(each.info["cmdline"] or [])]
    assert os.path.exists(run / "report.html")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_step_whose_process_is_killed_is_begun_again(tmp_path: Path) -> None:
    """Each of three kinds once: an audit, a fine-tune and, while its engine is up, an evaluation."""
    write_study_world(tmp_path)
    experiments = {"transfer": {"selections": ["top"], "recipes": ["fast"], "seeds": [0], "scorers": ["first"]}}
    fields: dict[str, Any] = {"experiments": experiments, "serving": {"engine": "transformers"}}
    run_study(study_spec(tmp_path, **fields, run={**RUN, "dir": "uninterrupted"}), local=True)
    study_spec(tmp_path, **fields, run={**RUN, "dir": "run"})
    process = study(tmp_path)
    killed = []
    for kind, begun in {"audit": "audits/*", "finetune": "finetunes/*", "evaluate": "evaluations/*/private"}.items():
        while not any((tmp_path / "run").glob(begun)):
            assert process.poll() is None, "it ended too early"
            time.sleep(0.1)
        steps = [each for each in psutil.Process(process.pid).children(recursive=True) if "ray::_run" in each.name()]
        for step in steps:
            step.kill()
            killed.append(kind)
    _, said = process.communicate(timeout=900)
    assert set(killed) == {"audit", "finetune", "evaluate"}
    assert process.returncode == 0, said
    for name in TABLES:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "uninterrupted" / name).read_bytes()
