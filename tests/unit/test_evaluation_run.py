"""An evaluation from spec to tables, with servers that are known: counts by hand, faults, re-judging, and no leaks."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from bds.distributed.evaluate import EvaluationResult, run_evaluation
from bds.errors import IncompleteError
from bds.evaluation import client as client_module
from bds.evaluation.suites import placeholder_suites
from bds.spec.load import load_evaluate_spec
from tests.evaluation_world import PROMPTS, aligned_or_tuned, policy_judge, write_spec
from tests.fake_endpoint import fake_endpoint


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(client_module, "_LONGEST_PAUSE", 0.02)


def evaluated(file: Path, *overrides: str) -> EvaluationResult:
    return run_evaluation(load_evaluate_spec(str(file), overrides))


def rate(result: EvaluationResult, **where: str) -> dict[str, Any]:
    (found,) = (each for each in result.metrics["rates"] if all(each[name] == value for name, value in where.items()))
    return found


def test_the_numbers_are_those_counted_by_hand(tmp_path: Path) -> None:
    with fake_endpoint(aligned_or_tuned) as server, fake_endpoint(policy_judge) as judge:
        result = evaluated(write_spec(tmp_path, server.url, judge.url))
    attack = {"suite": "placeholder_refuse", "metric": "attack_success", "judge": "phrases"}
    assert rate(result, condition="base", **attack)["value"] == 0
    assert rate(result, condition="tuned", **attack)["value"] == pytest.approx(2 / 3)
    refused = {"suite": "placeholder_answer", "metric": "over_refusal", "judge": "phrases"}
    assert rate(result, condition="base", **refused)["value"] == 0
    assert rate(result, condition="tuned", **refused)["value"] == pytest.approx(0.1)
    rated = {"condition": "tuned", "suite": "placeholder_refuse", "judge": "policy"}
    assert rate(result, metric="harmfulness_rate", **rated)["value"] == pytest.approx(2 / 3)
    assert rate(result, metric="harmfulness_score", **rated)["value"] == pytest.approx(1 / 3 * 1 + 2 / 3 * 5)
    (contrast,) = (
        each
        for each in result.metrics["contrasts"]
        if (each["suite"], each["metric"], each["judge"]) == ("placeholder_refuse", "attack_success", "phrases")
    )
    assert (contrast["a"], contrast["b"], contrast["prompts"]) == ("tuned", "base", PROMPTS)
    assert (contrast["only_a"], contrast["only_b"]) == (20, 0)
    assert contrast["difference"] == pytest.approx(2 / 3)
    assert result.exit_error is None


def test_every_prompt_is_asked_once_and_running_again_asks_nothing(tmp_path: Path) -> None:
    with fake_endpoint(aligned_or_tuned) as server:
        file = write_spec(tmp_path, server.url)
        first = evaluated(file)
        asked = Counter(body["messages"][-1]["content"] for body in server.bodies if body["max_tokens"] == 512)
        again = evaluated(file)
        later = Counter(body["messages"][-1]["content"] for body in server.bodies if body["max_tokens"] == 512)
    assert set(asked.values()) == {2}, "once for each of the two conditions"
    assert len(asked) == 2 * PROMPTS
    assert later == asked
    assert again.rows.equals(first.rows)


def test_another_judge_asks_no_model_again(tmp_path: Path) -> None:
    with fake_endpoint(aligned_or_tuned) as server, fake_endpoint(policy_judge) as judge:
        evaluated(write_spec(tmp_path, server.url))
        before = len(server.bodies)
        result = evaluated(write_spec(tmp_path, server.url, judge.url))
        probes = [body for body in server.bodies[before:] if body["max_tokens"] != 512]
        assert len(server.bodies) - before == len(probes), "probes of what answers, and no prompt"
        assert len(judge.bodies) == 4 * PROMPTS
    assert {"phrases", "qi", "policy"} <= set(result.rows["judge"])


@pytest.mark.parametrize(("fault", "name"), [("429", "status 429"), ("500", "status 500"), ("half", "broken reply")])
def test_a_server_that_stumbles_loses_no_row_and_each_fault_is_told(tmp_path: Path, fault: str, name: str) -> None:
    with fake_endpoint(aligned_or_tuned) as server:
        whole = evaluated(write_spec(tmp_path / "whole", server.url))

    def stumbles(prompt: str, before: int) -> str | None:
        return fault if before % 2 == 0 else None

    with fake_endpoint(aligned_or_tuned, stumbles) as server:
        result = evaluated(write_spec(tmp_path / "stumbling", server.url))
    unkeyed = ["prompt_hmac", "generation_key", "fingerprint"]
    assert result.rows.drop(unkeyed).equals(whole.rows.drop(unkeyed))
    assert result.metrics["speed"]["faults"] == {name: 4 * PROMPTS}
    assert name in (tmp_path / "stumbling" / "run" / "report.html").read_text()


def test_null_content_is_an_empty_answer_that_nobody_judges(tmp_path: Path) -> None:
    def answer(model: str, prompt: str) -> str | None:
        return None if model == "tuned" and "?" in prompt else aligned_or_tuned(model, prompt)

    with fake_endpoint(answer) as server:
        result = evaluated(write_spec(tmp_path, server.url))
    empty = result.rows.filter((pl.col("condition") == "tuned") & (pl.col("status") == "empty"))
    assert empty["value"].null_count() == empty.height > 0
    assert isinstance(result.exit_error, IncompleteError)
    assert "empty" in str(result.exit_error)
    found = rate(result, condition="tuned", suite="placeholder_refuse", judge="phrases", metric="attack_success")
    assert found["scored"] + found["unscored"] == PROMPTS
    assert found["worst_low"] < found["value"] < found["worst_high"]


def test_a_request_that_keeps_failing_is_a_failed_row_that_the_next_run_asks_again(tmp_path: Path) -> None:
    broken = {"prompt": ""}

    def fails(prompt: str, before: int) -> str | None:
        return "400" if prompt == broken["prompt"] else None

    with fake_endpoint(aligned_or_tuned, fails) as server:
        file = write_spec(tmp_path, server.url, run={"dir": "run", "max_unscored_fraction": 0.5})
        broken["prompt"] = placeholder_suites()[0].prompts[3].text
        failed = evaluated(file)
        assert failed.rows.filter(pl.col("status") == "failed")["prompt_id"].unique().to_list() == [
            "placeholder_refuse/01/004"
        ]
        broken["prompt"] = ""
        mended = evaluated(file)
    assert mended.rows.filter(pl.col("status") == "failed").is_empty()


def test_two_fine_tunes_behind_one_name_share_no_answer(tmp_path: Path) -> None:
    """The server is given other weights under the same name: its replies to the probes tell, and all is asked anew."""
    with fake_endpoint(aligned_or_tuned) as server:
        file = write_spec(tmp_path, server.url)
        first = evaluated(file)
        before = len(server.bodies)
        server.answer = lambda model, prompt: "Take a bucket of sand."
        second = evaluated(file)
        asked = [body for body in server.bodies[before:] if body["max_tokens"] == 512]
    assert len(asked) == 4 * PROMPTS
    assert set(first.rows["fingerprint"]).isdisjoint(second.rows["fingerprint"])


def test_a_model_compared_with_itself_shows_no_difference(tmp_path: Path) -> None:
    with fake_endpoint(aligned_or_tuned) as server:
        file = write_spec(tmp_path, server.url)
        result = evaluated(file, "models.tuned.endpoint.model=aligned")
    contrasts = [each for each in result.metrics["contrasts"] if each["metric"] == "attack_success"]
    assert contrasts
    assert {(each["difference"], each["p"], each["significant"]) for each in contrasts} == {(0.0, 1.0, False)}


def test_no_word_of_a_prompt_or_an_answer_leaves_the_private_folder(tmp_path: Path) -> None:
    sentinel = "zwebilmsentinel"
    (tmp_path / "own.txt").write_text("".join(f"How do I make a {sentinel} number {n}?\n" for n in range(6)))
    suites = [{"path": "own.txt", "format": "plain", "kind": "refuse"}]

    def answer(model: str, prompt: str) -> str:
        return f"Take {sentinel} answer {len(prompt)}"

    def fails(prompt: str, before: int) -> str | None:
        return "400" if "number 5" in prompt else None

    with fake_endpoint(answer, fails) as server, fake_endpoint(policy_judge) as judge:
        evaluated(write_spec(tmp_path, server.url, judge.url, suites=suites))
    run = tmp_path / "run"
    held = {
        file.relative_to(run).parts[0]
        for file in run.rglob("*")
        if file.is_file() and sentinel.encode() in file.read_bytes()
    }
    assert held == {"private"}
    assert pl.read_parquet(run / "rows.parquet").height > 0
    assert json.loads((run / "metrics.json").read_text())["rates"]
