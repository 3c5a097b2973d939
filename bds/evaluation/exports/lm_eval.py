"""Results in the layout that lm-eval 0.4.13 writes, for what reads that: leaderboards, loggers, notebooks.

  lm-eval/CONDITION/results_TIME.json             every suite as a task bds_SUITE, a metric's filter is its judge
  lm-eval/CONDITION/samples_bds_SUITE_TIME.jsonl  a line a prompt and judge; keyed hashes stand for texts

The keys are those of lm_eval/result_schema.py. What it has no place for is under `bds` and in keys that begin with it.
"""

import hashlib
import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import polars as pl

from bds.evaluation.exports.reported import HIGHER_IS_BETTER, rates_of, redacted, redacted_answer, reported_rows
from bds.runs.directory import RunDirectory
from bds.runs.manifest import versions

FOLDER = "lm-eval"
LM_EVAL_VERSION = "0.4.13"
"""Whose layout it is."""

NO_STDERR = "N/A"
"""lm-eval's word for a standard error that there is not."""

_UNSAFE = re.compile(r"[\"<>:/|\\?*\[\]]+")
_INTERVAL = ("prompts", "scored", "unscored", "low", "high", "method", "worst_low", "worst_high")

Metrics = Mapping[str, Any]
Sample = dict[str, Any]


def write_lm_eval(run: RunDirectory, metrics: Metrics, rows: pl.DataFrame, at: datetime) -> list[str]:
    """Writes the results and samples of every condition; returns the names of the files.

    Args:
        metrics: metrics.json.
        rows: rows.parquet, which has no texts.
        at: the time in the files' names.
    """
    reported = reported_rows(rows, metrics["judges"])
    time = at.isoformat().replace(":", "-")
    names = []
    for condition in metrics["conditions"]:
        folder = f"{FOLDER}/{_UNSAFE.sub('__', condition['name'])}"
        own = reported.filter(pl.col("condition") == condition["name"])
        samples = {task_name(suite): _samples(own, suite) for suite in own["suite"].unique(maintain_order=True)}
        names.append(f"{folder}/results_{time}.json")
        run.write_json(names[-1], _results(metrics, condition, samples, at))
        for task, lines in samples.items():
            names.append(f"{folder}/samples_{task}_{time}.jsonl")
            run.write_bytes(names[-1], "".join(json.dumps(line) + "\n" for line in lines).encode())
    return names


def task_name(suite: str) -> str:
    return f"bds_{suite}"


def _samples(rows: pl.DataFrame, suite: str) -> list[Sample]:
    """The lines of a suite: prompts in order, and for each its judges."""
    own = rows.filter(pl.col("suite") == suite)
    measured = own.group_by("prompt_id", "judge", "metric", maintain_order=True).agg(
        pl.col("suite_kind", "category", "prompt_hmac").first(),
        pl.col("value").mean(),
        pl.col("status", "finish_reason", "answer_characters").sort_by("sample"),
    )
    numbers = {prompt: number for number, prompt in enumerate(own["prompt_id"].unique(maintain_order=True))}
    lines: dict[tuple[str, str], Sample] = {}
    for row in measured.iter_rows(named=True):
        line = lines.setdefault((row["prompt_id"], row["judge"]), _sample(numbers[row["prompt_id"]], row))
        line["metrics"].append(row["metric"])
        line["bds_status"][row["metric"]] = row["status"]
        line[row["metric"]] = row["value"]
    return sorted(lines.values(), key=lambda line: line["doc_id"])


def _sample(number: int, row: Mapping[str, Any]) -> Sample:
    """The line of a prompt and judge, without its metrics. Statuses and the like are of its answers, in order."""
    hidden, target = redacted(row["prompt_hmac"]), row["suite_kind"]
    replies = [redacted_answer(characters) for characters in row["answer_characters"]]
    return {
        "doc_id": number,
        "doc": {"id": row["prompt_id"], "category": row["category"], "prompt": hidden},
        "target": target,
        "arguments": {"gen_args_0": {"arg_0": hidden, "arg_1": {}}},
        "resps": [replies],
        "filtered_resps": replies,
        "filter": row["judge"],
        "metrics": [],
        "doc_hash": row["prompt_hmac"],
        "prompt_hash": row["prompt_hmac"],
        "target_hash": hashlib.sha256(target.encode()).hexdigest(),
        "bds_status": {},
        "bds_finish_reason": row["finish_reason"],
    }


def _results(
    metrics: Metrics, condition: Mapping[str, Any], samples: Mapping[str, Sequence[Sample]], at: datetime
) -> dict[str, Any]:
    suites = {task_name(suite["name"]): suite for suite in metrics["suites"] if task_name(suite["name"]) in samples}
    rates = {task: rates_of(metrics, condition["name"], suite["name"]) for task, suite in suites.items()}
    results = {
        task: {"name": task, "alias": task, "sample_len": suite["prompts"], **_measured(rates[task], samples[task])}
        for task, suite in suites.items()
    }
    results |= _of_lm_eval([row for row in metrics["utility"] if row["condition"] == condition["name"]])
    return {
        "results": results,
        "group_subtasks": {},
        "configs": {task: _config(task, suite, samples[task]) for task, suite in suites.items()},
        "versions": {task: suites[task]["sha256"][:12] if task in suites else None for task in results},
        "n-shot": dict.fromkeys(suites, 0),
        "higher_is_better": {
            task: {rate["metric"]: _is_better(rate["metric"]) for rate in own} for task, own in rates.items()
        },
        "n-samples": {
            task: {"original": entry["sample_len"], "effective": entry["sample_len"]} for task, entry in results.items()
        },
        "config": {"model": "bds", "model_args": {"model": condition["model"], "adapter": condition["adapter"]}},
        "git_hash": None,
        "date": at.timestamp(),
        "pretty_env_info": f"bds {versions()['bds']}",
        "transformers_version": versions()["transformers"],
        "lm_eval_version": LM_EVAL_VERSION,
        "upper_git_hash": None,
        "task_hashes": {task: _task_hash(lines) for task, lines in samples.items()},
        "model_source": "bds",
        "model_name": condition["name"],
        "model_name_sanitized": _UNSAFE.sub("__", condition["name"]),
        "system_instruction": None,
        "system_instruction_sha": None,
        "fewshot_as_multiturn": None,
        "chat_template": None,
        "chat_template_sha": None,
        "total_evaluation_time_seconds": None,
        "bds": {
            "condition": dict(condition),
            "suites": {task: dict(suite) for task, suite in suites.items()},
            "judges": metrics["judges"],
            "rates": {
                task: {f"{rate['metric']},{rate['judge']}": {key: rate[key] for key in _INTERVAL} for rate in own}
                for task, own in rates.items()
            },
        },
    }


def _measured(rates: Sequence[Mapping[str, Any]], samples: Sequence[Sample]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for rate in rates:
        metric, judge = rate["metric"], rate["judge"]
        values = [line[metric] for line in samples if line["filter"] == judge and line.get(metric) is not None]
        found[f"{metric},{judge}"] = rate["value"]
        found[f"{metric}_stderr,{judge}"] = _stderr(values)
    return found


def _of_lm_eval(utility: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What lm-eval itself measured, as it stood in its own results."""
    found: dict[str, dict[str, Any]] = {}
    for row in utility:
        task = row["task"]
        entry = found.setdefault(task, {"name": task, "alias": task, "sample_len": row["samples"]})
        entry[f"{row['metric']},{row['filter']}"] = row["value"]
        entry[f"{row['metric']}_stderr,{row['filter']}"] = NO_STDERR if row["stderr"] is None else row["stderr"]
    return found


def _stderr(values: Sequence[float]) -> float | str:
    """Of a mean, as lm-eval gives it: the samples' standard deviation (n - 1) over the root of their number."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else NO_STDERR


def _is_better(metric: str) -> bool:
    return HIGHER_IS_BETTER.get(metric, False)


def _config(task: str, suite: Mapping[str, Any], samples: Sequence[Sample]) -> dict[str, Any]:
    measured = dict.fromkeys(metric for line in samples for metric in line["metrics"])
    return {
        "task": task,
        "dataset_path": suite["source"],
        "output_type": "generate_until",
        "num_fewshot": 0,
        "repeats": max(len(line["filtered_resps"]) for line in samples),
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": _is_better(metric)} for metric in measured
        ],
        "metadata": {"version": suite["sha256"][:12], "licence": suite["licence"]},
    }


def _task_hash(samples: Sequence[Sample]) -> str:
    """lm-eval's own formula, over hashes that are keyed here: equal for conditions of one run alone."""
    hashes = "".join(line["doc_hash"] + line["prompt_hash"] + line["target_hash"] for line in samples)
    return hashlib.sha256(hashes.encode()).hexdigest()
