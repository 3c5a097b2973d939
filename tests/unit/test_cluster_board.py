"""The board asks for the metrics that bds has, all of them and no others; what is counted, and when nothing is."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from bds.distributed import metrics
from bds.runs.receipts import Receipt, Worker
from bds.training.curve import Trained

BOARD = json.loads((Path(__file__).parents[2] / "cluster" / "grafana.json").read_text())
OF_A_HISTOGRAM = {"_bucket", "_sum", "_count"}
RECEIPT = Receipt(
    shard=0,
    shard_sha256="0",
    attempt=1,
    rows_ok=7,
    rows_not_ok=3,
    tokens=100,
    seconds=2.0,
    files={},
    worker=Worker("host", 1, "cpu"),
    versions={},
)


class Recorded:
    """Stands for Ray's metrics of all names."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: dict[tuple[str, str], float] = {}
        monkeypatch.setattr(metrics, "_on", lambda: True)
        monkeypatch.setattr(metrics, "_metric", self.metric)

    def metric(self, name: str) -> Any:
        assert name in metrics.METRICS
        kind = metrics.METRICS[name].kind

        class Told:
            def inc(_, amount: float, tags: dict[str, str]) -> None:
                assert kind == "counter"
                key = name, tags["stage"]
                self.told[key] = self.told.get(key, 0) + amount

            def observe(_, value: float, tags: dict[str, str]) -> None:
                assert kind == "histogram"
                self.told[name, tags["stage"]] = value

        return Told()


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    return Recorded(monkeypatch)


def asked_for(board: dict[str, Any]) -> set[str]:
    """The metrics that a board's queries name, as bds names them."""
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries += [each["query"] for each in board["templating"]["list"] if each["type"] == "query"]
    names = {name.removeprefix("ray_") for query in queries for name in re.findall(r"\bray_\w+", query)}
    return {re.sub("|".join(OF_A_HISTOGRAM) + "$", "", name) if name not in metrics.METRICS else name for name in names}


def test_the_board_asks_for_exactly_the_metrics_that_there_are() -> None:
    assert asked_for(BOARD) == set(metrics.METRICS)


def test_a_misspelt_metric_is_noticed() -> None:
    misspelt = json.loads(json.dumps(BOARD).replace("ray_bds_tokens_total", "ray_bds_token_total"))
    assert asked_for(misspelt) != set(metrics.METRICS)


def test_counters_are_rated_and_buckets_are_of_histograms() -> None:
    for panel in BOARD["panels"]:
        for target in panel["targets"]:
            for name in re.findall(r"\bray_(\w+)", target["expr"]):
                known = metrics.METRICS.get(name) or metrics.METRICS[name.removesuffix("_bucket")]
                rated = re.search(rf"(rate|increase)\(ray_{name}\b", target["expr"]) is not None
                assert rated == (known.kind != "gauge"), target["expr"]
                assert name.endswith("_bucket") == (known.kind == "histogram")


def test_panels_have_numbers_titles_and_places_of_their_own() -> None:
    for field in ("id", "title"):
        assert len({panel[field] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in BOARD["panels"]}
    assert len(places) == len(BOARD["panels"])


def test_a_shard_counts_its_rows_once_and_its_failed_rows_where_it_was_given_up(recorded: Recorded) -> None:
    metrics.shard_scored(RECEIPT, tries=2, operations_per_token=6.0)
    assert recorded.told == {
        ("bds_rows_total", "scoring"): 10,
        ("bds_tokens_total", "scoring"): 100,
        ("bds_retries_total", "scoring"): 1,
    }
    recorded.told.clear()
    metrics.shard_given_up(RECEIPT, tries=3)
    assert recorded.told["bds_failed_rows_total", "scoring"] == 3


def test_steps_replies_and_waits_are_told(recorded: Recorded) -> None:
    steps = metrics.StepMeter(workers=2)
    for _ in range(2):
        steps.add(Trained(rows=4, tokens=50, operations=1e9))
    metrics.reply_kept("answering", {"status": "ok", "answer_tokens": 9, "faults": {}})
    metrics.reply_kept("judging", {"status": "failed", "faults": {"timeout": 2, "status 503": 1}})
    metrics.waited("actor", 12.5)
    assert recorded.told == {
        ("bds_rows_total", "training"): 8,
        ("bds_tokens_total", "training"): 100,
        ("bds_rows_total", "answering"): 1,
        ("bds_tokens_total", "answering"): 9,
        ("bds_rows_total", "judging"): 1,
        ("bds_failed_rows_total", "judging"): 1,
        ("bds_retries_total", "judging"): 3,
        ("bds_queue_wait_seconds", "actor"): 12.5,
    }


def test_without_ray_or_with_its_metrics_off_nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(name: str) -> Any:
        raise AssertionError(name)

    class Connected:
        @staticmethod
        def is_initialized() -> bool:
            return True

    monkeypatch.setattr(metrics, "_metric", made)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    metrics.shard_scored(RECEIPT, tries=1, operations_per_token=6.0)
    assert "ray" not in sys.modules
    monkeypatch.setitem(sys.modules, "ray", Connected)
    monkeypatch.setenv("RAY_enable_metrics_collection", "false")
    metrics.waited("actor", 1.0)
    monkeypatch.delenv("RAY_enable_metrics_collection")
    with pytest.raises(AssertionError, match="bds_queue_wait_seconds"):
        metrics.waited("actor", 1.0)


@pytest.mark.parametrize(
    ("gpu", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100-PCIE-40GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_the_peak_of_a_gpu_is_known_or_not_told(gpu: str, peak: float | None) -> None:
    assert metrics.peak_operations(gpu) == peak
