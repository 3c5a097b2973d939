"""Results as logs of Inspect (inspect-ai), one of each condition and suite, for its viewer and data frames.

A log is a zip of JSON members, version 2 of https://inspect.aisi.org.uk/eval-logs.html:

  header.json                     the evaluation, its results and statistics
  _journal/start.json             the evaluation as it began
  samples/PROMPT_epoch_N.json     a prompt's answer N with every score; keyed hashes stand for texts
  summaries.json                  the same without messages

bds writes it by itself: inspect-ai and Ray's packages ask for different fsspec. Checked with inspect-ai 0.3.285.
"""

import hashlib
import io
import json
import math
import re
import zipfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import polars as pl

from bds.evaluation.exports.reported import rates_of, redacted, redacted_answer, reported_rows
from bds.runs.directory import RunDirectory
from bds.runs.manifest import versions

FOLDER = "inspect"
VERSION = 2
UNSCORED = math.nan
"""Inspect's value of a score that was kept and left out of every mean."""

_STOP_REASONS = {"stop": "stop", "length": "max_tokens", "content_filter": "content_filter"}
"""OpenAI's word for the end of an answer to Inspect's; every other one is `unknown`."""

_UNSAFE = re.compile(r"[^\w.]+")

Json = dict[str, Any]


def write_inspect_logs(run: RunDirectory, metrics: Mapping[str, Any], rows: pl.DataFrame, at: datetime) -> list[str]:
    """Writes a log of every condition and suite; returns the names of the files.

    Args:
        metrics: metrics.json.
        rows: rows.parquet, which has no texts.
        at: the time in the files' names and logs, with its zone.
    """
    reported = reported_rows(rows, metrics["judges"])
    names = []
    for condition in metrics["conditions"]:
        for suite in metrics["suites"]:
            own = reported.filter(pl.col("condition") == condition["name"], pl.col("suite") == suite["name"])
            if own.is_empty():
                continue
            rates = rates_of(metrics, condition["name"], suite["name"])
            log = _header(condition, suite, own, rates, at)
            names.append(f"{FOLDER}/{_UNSAFE.sub('-', condition['name'])}/{_file_name(log, at)}")
            run.write_bytes(names[-1], _packed(log, [_sample(condition, group) for group in _answers(own)]))
    return names


def _file_name(log: Json, at: datetime) -> str:
    """As Inspect names its logs, and reads the names: time, task and task's id between underscores."""
    task = _UNSAFE.sub("-", log["eval"]["task"]).replace("_", "-")
    return f"{at.isoformat(timespec='seconds').replace(':', '-')}_{task}_{log['eval']['task_id']}.eval"


def scorer_name(judge: str, metric: str) -> str:
    return f"{judge}.{metric}"


def _header(
    condition: Mapping[str, Any],
    suite: Mapping[str, Any],
    rows: pl.DataFrame,
    rates: Sequence[Mapping[str, Any]],
    at: datetime,
) -> Json:
    time = at.astimezone(UTC).isoformat()
    prompts = rows["prompt_id"].unique(maintain_order=True).to_list()
    epochs = rows["sample"].n_unique()
    return {
        "version": VERSION,
        "status": "success",
        "eval": {
            "eval_id": _identity("eval", condition["fingerprint"], condition["name"], suite["sha256"], time),
            "run_id": _identity("run", time),
            "created": time,
            "task": f"bds_{suite['name']}",
            "task_id": _identity("task", suite["name"], suite["sha256"]),
            "task_version": suite["sha256"][:12],
            "dataset": {
                "name": suite["name"],
                "location": suite["source"],
                "samples": len(prompts),
                "sample_ids": prompts,
                "shuffled": False,
            },
            "model": _model(condition),
            "config": {"epochs": epochs, "epochs_reducer": ["mean"]},
            "packages": {"benign-data-safety": versions()["bds"]},
            "metadata": {"condition": dict(condition), "suite": dict(suite)},
        },
        "plan": {"name": "plan", "steps": [{"solver": "generate", "params": {}}], "config": {}},
        "results": {
            "total_samples": len(prompts) * epochs,
            "completed_samples": len(prompts) * epochs,
            "scores": [_score_of(rate) for rate in rates],
        },
        "stats": {"started_at": time, "completed_at": time},
    }


def _score_of(rate: Mapping[str, Any]) -> Json:
    numbers = {"mean": rate["value"], "low": rate["low"], "high": rate["high"]}
    return {
        "name": scorer_name(rate["judge"], rate["metric"]),
        "scorer": rate["judge"],
        "reducer": "mean",
        "scored_samples": rate["scored"],
        "unscored_samples": rate["unscored"],
        "metrics": {
            name: {"name": name, "value": value, "params": {}} for name, value in numbers.items() if value is not None
        },
        "metadata": {"method": rate["method"], "worst_low": rate["worst_low"], "worst_high": rate["worst_high"]},
    }


def _answers(rows: pl.DataFrame) -> list[list[dict[str, Any]]]:
    """The rows of each answer, answers in order."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows.iter_rows(named=True):
        found.setdefault((row["prompt_id"], row["sample"]), []).append(row)
    return list(found.values())


def _sample(condition: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Json:
    about = rows[0]
    hidden, reply = redacted(about["prompt_hmac"]), redacted_answer(about["answer_characters"])
    answer = {"role": "assistant", "content": reply, "source": "generate", "model": _model(condition)}
    stop_reason = _STOP_REASONS.get(about["finish_reason"], "unknown")
    return {
        "id": about["prompt_id"],
        "epoch": about["sample"] + 1,
        "input": hidden,
        "target": about["suite_kind"],
        "messages": [{"role": "user", "content": hidden, "source": "input"}, answer],
        "output": {
            "model": _model(condition),
            "choices": [{"message": answer, "stop_reason": stop_reason}],
            "completion": reply,
        },
        "scores": {scorer_name(row["judge"], row["metric"]): _score(row) for row in rows},
        "metadata": {name: about[name] for name in ("category", "finish_reason", "answer_tokens", "answer_characters")},
    }


def _score(row: Mapping[str, Any]) -> Json:
    if row["value"] is None:
        return {"value": UNSCORED, "reason": row["status"]}
    return {"value": row["value"]}


def _summary(sample: Json) -> Json:
    kept = ("id", "epoch", "input", "target", "scores", "metadata")
    return {**{name: sample[name] for name in kept}, "completed": True, "message_count": len(sample["messages"])}


def _model(condition: Mapping[str, Any]) -> str:
    """Inspect opens a log only if it knows the model's provider; this one needs neither key nor package."""
    return f"mockllm/{condition['name']}"


def _identity(*parts: str) -> str:
    """22 letters and digits, as Inspect's own."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:22]


def _packed(log: Json, samples: Sequence[Json]) -> bytes:
    members = {
        "_journal/start.json": {name: log[name] for name in ("version", "eval", "plan")},
        **{f"samples/{sample['id']}_epoch_{sample['epoch']}.json": sample for sample in samples},
        "summaries.json": [_summary(sample) for sample in samples],
        "header.json": log,
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, value in members.items():
            # A fixed time: equal logs have equal bytes.
            member = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            archive.writestr(member, json.dumps(value), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
