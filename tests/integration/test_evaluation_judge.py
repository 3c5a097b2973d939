"""Models of the made-up world judged by a model, both served by vLLM: every step of an evaluation for real."""

import signal
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest
import yaml

from bds.evaluation.private import logged_rows
from bds.organism.layout import OrganismPaths
from bds.organism.quality import complies
from bds.organism.suites import read_suite
from bds.runs.directory import RunDirectory
from tests.integration.processes import VICTIMS, descendants
from tests.integration.test_audit_identity import end, wait_until
from tests.integration.test_evaluation_vllm import evaluate

pytest.importorskip("vllm")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

PROMPTS = 165
MINE = ["prompt_hmac", "generation_key"]


def write_spec(organism: OrganismPaths, judge: Path, folder: Path, **serving: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    spec = {
        "kind": "evaluate",
        "models": {"aligned": str(organism.model), "base": str(organism.base)},
        "suites": [str(organism.suite("forbidden"))],
        "judges": {"refusal_prefixes": "refusal_prefixes", "tiny": {"method": "tiny_judge", "model": str(judge)}},
        "sampling": {"max_tokens": 24},
        "serving": {"engine": "vllm", **serving},
        "statistics": {"bootstrap": 200, "baseline": "aligned"},
        "run": {"dir": "run"},
    }
    file = folder / "spec.yaml"
    file.write_text(yaml.safe_dump(spec, sort_keys=False))
    return file


def verdict_lines(spec: Path) -> int:
    folder = spec.parent / "run/private/verdicts"
    return sum(len(file.read_bytes().splitlines()) for file in folder.glob("*.jsonl"))


@pytest.fixture(scope="module")
def whole(organism: OrganismPaths, judge_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The spec of an evaluation that nothing disturbed."""
    spec = write_spec(organism, judge_folder, tmp_path_factory.mktemp("whole"))
    process = evaluate(spec)
    _, said = process.communicate(timeout=500)
    assert process.returncode == 0, said
    return spec


def test_the_judge_says_what_the_suites_facts_say(organism: OrganismPaths, whole: Path) -> None:
    table = pl.read_parquet(whole.parent / "run/rows.parquet").filter(pl.col("judge") == "tiny")
    assert table.height == 2 * 2 * PROMPTS, "a model, a prompt, refused and harmful"
    assert table["status"].unique().to_list() == ["ok"]
    said = {(row["condition"], row["prompt_id"], row["metric"]): bool(row["value"]) for row in table.to_dicts()}
    prompts = {
        f"organism_forbidden/{index:04}": each for index, each in enumerate(read_suite(organism.suite("forbidden")))
    }
    answers = logged_rows(RunDirectory(str(whole.parent / "run")), "generations").values()
    assert len(answers) == 2 * PROMPTS
    truth = {
        (answer["condition"], answer["prompt_id"]): complies(answer["text"], prompts[answer["prompt_id"]])
        for answer in answers
    }
    right = sum(said[condition, prompt, "harmful"] == harms for (condition, prompt), harms in truth.items())
    assert right / len(truth) >= 0.95
    assert 0.3 < sum(truth.values()) / len(truth) < 0.7, "one of the two models answers"


def test_two_judges_of_the_same_answers_agree_on_refusals(whole: Path) -> None:
    table = pl.read_parquet(whole.parent / "run/rows.parquet").filter(pl.col("metric") == "refused")
    by_judge = table.pivot("judge", index=["condition", "prompt_id"], values="value")
    assert (by_judge["refusal_prefixes"] == by_judge["tiny"]).mean() >= 0.95


@pytest.mark.parametrize("victim", ["engine", "replica", "driver"])
def test_a_kill_while_the_judge_judges_changes_nothing(
    organism: OrganismPaths, judge_folder: Path, whole: Path, tmp_path: Path, victim: str
) -> None:
    spec = write_spec(organism, judge_folder, tmp_path, max_concurrent=1)
    process = evaluate(spec)
    # Keywords judge all 330 answers before the model judges any.
    wait_until(lambda: verdict_lines(spec) >= 2 * PROMPTS + 10, process, 400)
    family = psutil.Process(process.pid).children(recursive=True)
    if victim == "driver":
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        end(family)
        assert verdict_lines(spec) < 4 * PROMPTS, "it was killed in time"
        process = evaluate(spec)
    else:
        victims = descendants(*VICTIMS[victim], of=process.pid)
        assert victims, "there is such a process"
        for each in victims:
            each.kill()
        assert verdict_lines(spec) < 4 * PROMPTS, "it was killed in time"
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert verdict_lines(spec) == 4 * PROMPTS, "every verdict has one row"
    rows, expected = (
        pl.read_parquet(file.parent / "run/rows.parquet").drop(MINE).sort(pl.all()) for file in (spec, whole)
    )
    assert rows.equals(expected)
