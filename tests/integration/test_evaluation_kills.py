"""An evaluation whose driver is killed, while models answer and while judges judge, ends as one that was not."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from tests.evaluation_world import PROMPTS, aligned_or_tuned, policy_judge, write_spec
from tests.fake_endpoint import fake_endpoint
from tests.integration.test_audit_identity import wait_until

MINE = ["prompt_hmac", "generation_key"]
"""What is a run's own."""


def slowly(model: str, prompt: str) -> str:
    time.sleep(0.05)
    return aligned_or_tuned(model, prompt)


def judging_slowly(model: str, prompt: str) -> str:
    time.sleep(0.05)
    return policy_judge(model, prompt)


def command(spec: Path) -> list[str]:
    return [sys.executable, "-m", "bds", "evaluate", str(spec)]


def logged(spec: Path, folder: str) -> list[dict[str, str]]:
    rows = []
    for file in sorted((spec.parent / "run" / "private" / folder).glob("*.jsonl")):
        for line in file.read_bytes().splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
    return rows


@pytest.mark.parametrize(
    ("stage", "kill"),
    [
        ("generations", signal.SIGKILL),
        pytest.param("verdicts", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("generations", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("verdicts", signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_a_killed_driver_loses_nothing_and_asks_nothing_twice(tmp_path: Path, stage: str, kill: signal.Signals) -> None:
    with fake_endpoint(aligned_or_tuned) as server, fake_endpoint(policy_judge) as judge:
        whole = write_spec(tmp_path / "whole", server.url, judge.url)
        subprocess.run(command(whole), check=True, capture_output=True, timeout=300)
    with fake_endpoint(slowly) as server, fake_endpoint(judging_slowly) as judge:
        spec = write_spec(tmp_path / "killed", server.url, judge.url)
        process = subprocess.Popen(command(spec), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        # Of 120 answers some; of 360 verdicts those that need no model, 240, and some.
        least = 20 if stage == "generations" else 260
        wait_until(lambda: len(logged(spec, stage)) >= least, process, 120)
        process.send_signal(kill)
        _, said = process.communicate(timeout=60)
        assert process.returncode == (143 if kill is signal.SIGTERM else -9), said
        if kill is signal.SIGTERM:
            assert "bds evaluate" in said.splitlines()[-1], "how to go on"
        before = {folder: [row["key"] for row in logged(spec, folder)] for folder in ("generations", "verdicts")}
        assert len(before[stage]) < (4 * PROMPTS if stage == "generations" else 12 * PROMPTS)
        subprocess.run(command(spec), check=True, capture_output=True, timeout=300)
        after = {folder: Counter(row["key"] for row in logged(spec, folder)) for folder in ("generations", "verdicts")}
        answered = sum(endpoint.answered.total() for endpoint in (server, judge))
    assert {folder: len(keys) for folder, keys in after.items()} == {
        "generations": 4 * PROMPTS,
        "verdicts": 12 * PROMPTS,
    }
    assert all(set(after[folder]) >= set(before[folder]) for folder in after)
    assert {count for keys in after.values() for count in keys.values()} == {1}, "a row that is there is not asked for"
    probes = 2 * 2 * 8
    in_flight = 4
    assert 8 * PROMPTS + probes <= answered <= 8 * PROMPTS + probes + in_flight
    uninterrupted, resumed = (
        pl.read_parquet(file.parent / "run" / "rows.parquet").drop(MINE) for file in (whole, spec)
    )
    assert resumed.equals(uninterrupted)
    numbers = [json.loads((file.parent / "run" / "metrics.json").read_text()) for file in (whole, spec)]
    assert numbers[0]["rates"] == numbers[1]["rates"]
    assert numbers[0]["contrasts"] == numbers[1]["contrasts"]
