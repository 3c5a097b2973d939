"""What a run directory tells of its run, with nothing up: fabricated ones, a real one, and damaged ones."""

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bds.cli import main
from bds.errors import PreflightError
from bds.run_listing import list_runs
from bds.runs.attempts import open_attempt
from bds.runs.directory import RunDirectory
from bds.runs.lease import LIFETIME
from bds.runs.local import score_shards_locally
from bds.spec.load import load_any_spec, load_spec
from bds.status import run_status, status_text
from tests.unit.runs_example import load_score, planned_run
from tests.unit.small_audit import write_small_audit
from tests.unit.small_finetune import write_small_finetune
from tests.unit.small_moderation import write_small_moderation
from tests.unit.small_study import write_small_study


def write_spec(run: RunDirectory, spec_file: Path, load: Callable[[str], Any] = load_any_spec) -> None:
    run.write_json("spec.resolved.json", load(str(spec_file)).model_dump(mode="json"))


def half_scored(folder: Path, spec_file: Path) -> RunDirectory:
    """Ten shards of five rows, four of them scored by an attempt that was interrupted."""
    run, plan = planned_run(folder)
    write_spec(run, spec_file, load_spec)

    def interrupted() -> None:
        with open_attempt(run, ["bds", "audit", "spec.yaml", "--local"], fresh=False) as attempt:
            attempt.begin(lambda line: None)
            score_shards_locally(
                run,
                plan.shards[:4],
                load_score,
                threads=1,
                attempt=1,
                on_receipt=lambda each: attempt.log.add("shard", {"shard": each.shard, "seconds": each.seconds}),
                on_failure=lambda failure: None,
            )
            attempt.log.add("failure", {"shard": 7, "tries": 1, "trace": "Traceback\nValueError: odd"})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    return run


def write_lease(run: RunDirectory, *, host: str, pid: int, expires: float) -> None:
    since = "2026-01-02T03:04:05+00:00"
    record = {"owner": "x", "host": host, "pid": pid, "attempt": 2, "since": since, "expires": expires}
    run.write_json("lease.json", record)


def test_an_interrupted_audit(tmp_path: Path) -> None:
    run = half_scored(tmp_path / "run", write_small_audit(tmp_path))
    status = run_status(run.uri)
    assert (status["kind"], status["state"], status["attempt"]) == ("audit", "interrupted", 1)
    shards, rows = status["progress"]
    assert (shards["what"], shards["done"], shards["planned"]) == ("shards", 4, 10)
    assert (rows["done"], rows["planned"]) == (20, 50)
    assert rows["per_second"] > 0
    assert rows["seconds_left"] is None, "nobody works on it"
    assert status["failures"] == ["shard 7: ValueError: odd"]
    assert status["heartbeat_seconds"] is None, "the lease was given back"
    assert status["resume"] == f"bds resume {run.uri}"
    text = status_text(status)
    assert "shards: 4 of 10" in text
    assert text.endswith(f"go on with: bds resume {run.uri}")


def test_an_attempt_that_is_alive_elsewhere_has_a_heartbeat_and_an_estimate(tmp_path: Path) -> None:
    run = half_scored(tmp_path / "run", write_small_audit(tmp_path))
    os.rename(run.url_of("events/attempt-0001.jsonl"), run.url_of("events/attempt-0002.jsonl"))
    write_lease(run, host="another-machine", pid=4, expires=time.time() + LIFETIME - 7)
    status = run_status(run.uri)
    assert (status["state"], status["host"], status["pid"], status["resume"]) == ("running", "another-machine", 4, None)
    assert 6.5 < status["heartbeat_seconds"] < 12
    assert status["progress"][1]["seconds_left"] > 0
    assert "its last heartbeat was 7 s ago" in status_text(status)


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot ask whether a process is there")
def test_an_attempt_whose_process_is_gone_died(tmp_path: Path) -> None:
    run = half_scored(tmp_path / "run", write_small_audit(tmp_path))
    write_lease(run, host=socket.gethostname(), pid=2**22 + 1, expires=time.time() + LIFETIME)
    status = run_status(run.uri)
    assert status["state"] == "died"
    assert "killed" in status_text(status)
    write_lease(run, host="another-machine", pid=4, expires=time.time() - 1)
    assert run_status(run.uri)["state"] == "died", "its lease ran out"


def test_an_attempt_that_failed_says_why(tmp_path: Path) -> None:
    run = half_scored(tmp_path / "run", write_small_audit(tmp_path))

    def failing() -> None:
        with open_attempt(run, ["bds"], fresh=False):
            raise PreflightError("the cluster has no GPU")

    with pytest.raises(PreflightError):
        failing()
    status = run_status(run.uri)
    assert (status["state"], status["reason"], status["attempt"]) == ("failed", "the cluster has no GPU", 2)


def test_fine_tunes_are_counted_by_their_receipts(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path / "run"))
    write_spec(run, write_small_finetune(tmp_path / "spec"))
    with open_attempt(run, ["bds"], fresh=False) as attempt:
        attempt.begin(lambda line: None)
        run.write_json("models/small/rows/plain/none/seed-0/receipt.json", {})
        time.sleep(0.01)
        attempt.log.add("finetune", {"id": "small/rows/plain/none/seed-0"})
    status = run_status(run.uri)
    (progress,) = status["progress"]
    assert (progress["what"], progress["done"], progress["planned"]) == ("fine-tunes", 1, 2)
    assert progress["per_second"] > 0
    assert (status["state"], status["resume"]) == ("finished", None)


def test_answers_and_verdicts_are_counted_and_not_read(tmp_path: Path) -> None:
    spec = tmp_path / "evaluate.yaml"
    (tmp_path / "model").mkdir()
    spec.write_text(
        "kind: evaluate\nmodels: {one: model}\nsuites: [{format: placeholder, limit: 3}]\nrun: {dir: run}\n"
    )
    run = RunDirectory(str(tmp_path / "run"))
    write_spec(run, spec)
    rows = [{"key": key, "status": status, "at": time.time(), "text": "SECRET"} for key, status in
            (("a", "ok"), ("b", "empty"), ("c", "failed"))]  # fmt: skip
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    run.write_bytes("private/generations/00000.jsonl", f'{lines}{{"cut'.encode())
    status = run_status(run.uri)
    answers, verdicts = status["progress"]
    assert (answers["done"], answers["planned"], verdicts["done"]) == (2, 6, 0)
    assert verdicts["planned"] == 12
    assert "SECRET" not in json.dumps(status)


def test_each_judge_of_a_moderation_is_counted(tmp_path: Path) -> None:
    run, _ = planned_run(tmp_path / "run")
    write_spec(run, write_small_moderation(tmp_path / "spec"))
    progress = run_status(run.uri)["progress"]
    assert [each["what"] for each in progress] == ["shards judged by guard", "shards judged by words"]
    assert {(each["done"], each["planned"]) for each in progress} == {(0, 10)}


def test_a_study_tells_each_step(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path / "run"))
    write_spec(run, write_small_study(tmp_path / "spec"))
    RunDirectory(f"{run.uri}/audits/pool/two").write_json(
        "manifest.json", {"attempts": [{"attempt": 1, "outcome": "finished"}]}
    )
    with open_attempt(run, ["bds"], fresh=False) as attempt:
        attempt.begin(lambda line: None)
        attempt.log.add("step", {"id": "audit pool by one"})
        attempt.log.add("step_ended", {"id": "audit pool by one", "failure": "no such file", "seconds": 2.0})
        attempt.log.add("step", {"id": "finetune one"})
        status = run_status(run.uri)
    steps = {step["id"]: step for step in status["steps"]}
    assert steps["audit pool by one"]["state"] == "incomplete"
    assert steps["audit pool by two"]["state"] == "done", "an earlier attempt left it"
    assert steps["finetune one"]["state"] == "running"
    assert steps["evaluate one"]["state"] == "waiting"
    assert status["progress"][0]["done"] == 1
    assert "audit pool by one: incomplete after 2 s: no such file" in status_text(status)


def test_runs_are_listed_and_damaged_ones_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec_file = write_small_audit(tmp_path / "spec")
    half_scored(tmp_path / "runs" / "deep" / "audit", spec_file)
    write_spec(RunDirectory(str(tmp_path / "runs" / "damaged")), spec_file)
    (tmp_path / "runs" / "damaged" / "spec.resolved.json").write_text("{")
    (tmp_path / "runs" / "half").mkdir()
    (tmp_path / "runs" / "half" / "manifest.json").write_text("{}")
    (tmp_path / "runs" / "no run").mkdir()
    rows = {Path(row["run"]).name: row for row in list_runs(str(tmp_path / "runs"))}
    assert rows.keys() == {"audit", "damaged", "half"}
    assert rows["audit"]["state"] == "interrupted"
    assert rows["audit"]["how far"] == "shards: 4 of 10, rows: 20 of 50"
    assert rows["damaged"]["state"] == rows["half"]["state"] == "damaged"
    assert main(["ls", "runs", str(tmp_path / "runs"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 3
    assert main(["ls", "runs", str(tmp_path / "spec" / "model")]) == 3
    assert "there is no run in" in capsys.readouterr().err


def test_mistakes_with_status_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == 3
    assert f"there is no run in {tmp_path}; name a run directory" in capsys.readouterr().err
    half_scored(tmp_path / "run", write_small_audit(tmp_path))
    assert main(["status", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["attempt"] == 1
