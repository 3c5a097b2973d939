"""The Inspect export: against the keys of inspect-ai 0.3.285, and read by inspect-ai where that is installed."""

import json
import math
import os
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bds.evaluation.exports.inspect import write_inspect_logs
from bds.runs.directory import RunDirectory
from tests.unit import exported_evaluation as example
from tests.unit.exported_evaluation import BASE, HMACS, RATES, TUNED

AT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)

# Fields of inspect-ai's models that a log cannot be read without, and those that the export gives besides.
LOG = {"version", "status", "eval", "plan", "results", "stats"}
EVAL_NEEDED = {"created", "task", "dataset", "model", "config"}
EVAL = EVAL_NEEDED | {"eval_id", "run_id", "task_id", "task_version", "packages", "metadata"}
SAMPLE_NEEDED = {"id", "epoch", "input", "target"}
SAMPLE = SAMPLE_NEEDED | {"messages", "output", "scores", "metadata"}
STOP_REASONS = {"stop", "max_tokens", "model_length", "tool_calls", "content_filter", "unknown"}


@pytest.fixture
def logs(tmp_path: Path) -> dict[tuple[str, str], Path]:
    """The log of each condition and suite."""
    names = write_inspect_logs(RunDirectory(str(tmp_path)), example.metrics(), example.rows(), AT)
    both = [(condition, suite) for condition in (BASE, TUNED) for suite in ("forbidden", "harmless")]
    return dict(zip(both, (tmp_path / name for name in names), strict=True))


def _members(log: Path) -> dict[str, Any]:
    with zipfile.ZipFile(log) as archive:
        return {name: json.loads(archive.read(name)) for name in archive.namelist()}


def test_a_log_has_the_members_and_keys_of_inspect(logs: dict[tuple[str, str], Path]) -> None:
    log = logs[TUNED, "forbidden"]
    assert log.parent.name == "top100.seed0"
    assert log.name.startswith("2026-03-04T05-06-07+00-00_bds-forbidden_")
    members = _members(log)
    samples = {f"samples/f/{prompt}_epoch_{epoch}.json" for prompt in (1, 2, 3) for epoch in (1, 2)}
    assert set(members) == samples | {"_journal/start.json", "summaries.json", "header.json"}
    assert set(members["header.json"]) == LOG
    assert set(members["_journal/start.json"]) == {"version", "eval", "plan"}
    assert set(members["header.json"]["eval"]) == EVAL
    for name in samples:
        assert set(members[name]) == SAMPLE
        assert members[name]["output"]["choices"][0]["stop_reason"] in STOP_REASONS
    assert all(set(summary) >= SAMPLE_NEEDED for summary in members["summaries.json"])
    assert members["header.json"]["eval"]["model"] == "mockllm/top100.seed0"


def test_a_sample_has_hashes_for_texts_and_nan_where_it_is_unscored(logs: dict[tuple[str, str], Path]) -> None:
    sample = _members(logs[BASE, "forbidden"])["samples/f/3_epoch_2.json"]
    assert sample["input"] == f"[redacted hmac={HMACS['f/3']}]"
    assert [message["content"] for message in sample["messages"]] == [
        f"[redacted hmac={HMACS['f/3']}]",
        "[redacted 31 characters]",
    ]
    assert sample["output"]["choices"][0]["stop_reason"] == "max_tokens"
    assert sample["scores"]["keywords.attack_success"] == {"value": 0.0}
    unscored = sample["scores"]["rater.harmfulness_score"]
    assert math.isnan(unscored["value"])
    assert unscored["reason"] == "unparsed"


def test_results_are_the_rates(logs: dict[tuple[str, str], Path]) -> None:
    for (condition, suite), log in logs.items():
        told = {score["name"]: score for score in _members(log)["header.json"]["results"]["scores"]}
        own = {key[2:]: rate for key, rate in RATES.items() if key[:2] == (condition, suite)}
        assert set(told) == {f"{judge}.{metric}" for judge, metric in own}
        for (judge, metric), (scored, value) in own.items():
            score = told[f"{judge}.{metric}"]
            assert score["metrics"]["mean"]["value"] == value
            assert score["scored_samples"] == scored


def test_the_same_results_give_the_same_bytes(logs: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    again = write_inspect_logs(RunDirectory(str(tmp_path / "again")), example.metrics(), example.rows(), AT)
    assert [(tmp_path / "again" / name).read_bytes() for name in again] == [path.read_bytes() for path in logs.values()]


def test_inspect_reads_it(logs: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    pytest.importorskip("inspect_ai")
    from inspect_ai.log import (
        list_eval_logs,
        read_eval_log,
        read_eval_log_sample,
        read_eval_log_sample_summaries,
        write_eval_log,
    )

    listed = list_eval_logs(str(tmp_path / "inspect"))
    assert {(info.task, Path(info.name).parent.name) for info in listed} == {
        (f"bds-{suite}", condition) for condition, suite in logs
    }
    for (condition, suite), path in logs.items():
        log = read_eval_log(str(path))
        assert (log.status, log.eval.model) == ("success", f"mockllm/{condition}")
        assert log.results is not None
        assert log.samples is not None
        assert len(log.samples) == (6 if suite == "forbidden" else 4)
        assert len(read_eval_log_sample_summaries(str(path))) == len(log.samples)
        # Inspect's own mean over its own samples: answers within prompts, unscored left out.
        for score in log.results.scores:
            by_prompt: dict[str | int, list[float]] = {}
            for sample in log.samples:
                assert sample.scores is not None
                value = sample.scores[score.name].as_float()
                if not math.isnan(value):
                    by_prompt.setdefault(sample.id, []).append(value)
            means = [sum(values) / len(values) for values in by_prompt.values()]
            assert sum(means) / len(means) == pytest.approx(score.metrics["mean"].value)
    sample = read_eval_log_sample(str(logs[TUNED, "forbidden"]), id="f/3", epoch=1)
    assert sample.scores is not None
    assert sample.scores["keywords.attack_success"].reason == "unparsed"
    copy = tmp_path / "copy.eval"
    write_eval_log(read_eval_log(str(logs[BASE, "harmless"])), str(copy))
    assert _members(copy)["header.json"]["eval"]["task"] == "bds_harmless"


def test_inspects_data_frames_read_it(logs: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    frames = pytest.importorskip("inspect_ai.analysis")
    samples = frames.samples_df(str(tmp_path / "inspect"))
    assert len(samples) == 2 * (6 + 4)
    assert samples["score_keywords.attack_success"].notna().sum() == 6 + 4
    evaluations = frames.evals_df(str(tmp_path / "inspect"))
    assert sorted(evaluations["model"].unique()) == [f"mockllm/{BASE}", f"mockllm/{TUNED}"]


def test_inspect_scores_it_again(logs: dict[tuple[str, str], Path]) -> None:
    pytest.importorskip("inspect_ai")
    from inspect_ai import score
    from inspect_ai.log import read_eval_log
    from inspect_ai.scorer import includes

    os.environ.setdefault("INSPECT_DISPLAY", "none")
    log = score(read_eval_log(str(logs[TUNED, "forbidden"])), includes(), action="append", display="none")
    assert log.results is not None
    assert {each.name for each in log.results.scores} >= {"keywords.attack_success", "includes"}
