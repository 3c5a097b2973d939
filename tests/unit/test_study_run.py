"""A whole study of tiny models in this process: every number recomputed from its rows, nothing done twice."""

import json
import random
import shutil
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

import polars as pl
import pytest
import scipy.stats

from bds.distributed.study import StudyResult, run_study
from bds.runs.directory import RunDirectory
from bds.runs.events import read_events
from bds.studies.plan import plan_study
from bds.studies.results import study_results
from bds.studies.tables import CELLS, CONTRASTS
from tests.study_world import study_spec, write_study_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study_world(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def done(world: Path) -> StudyResult:
    return run_study(study_spec(world), local=True)


def events(folder: Path) -> Counter[str]:
    """How often each thing was done below a run directory, over all attempts."""
    found: Counter[str] = Counter()
    for file in folder.rglob("events/attempt-*.jsonl"):
        run = RunDirectory(str(file.parents[1]))
        for event in read_events(run, int(file.stem.rpartition("-")[2])):
            if event["event"] in {"shard", "finetune"}:
                found[f"{run.uri} {event['event']} {event.get('shard', event.get('id'))}"] += 1
    for file in folder.glob("evaluations/*/private/generations/*"):
        for line in file.read_bytes().splitlines():
            found[f"answer {json.loads(line)['key']}"] += 1
    return found


def measured(results: dict[str, Any], cell: str, suite: str, metric: str) -> dict[str, Any]:
    (own,) = [each for each in results["cells"] if each["id"] == cell]
    (found,) = [
        each for each in own["measured"] if each["headline"] and (each["suite"], each["metric"]) == (suite, metric)
    ]
    return dict(found)


def test_every_step_has_its_results(done: StudyResult) -> None:
    assert done.exit_error is None
    assert [each["failure"] for each in done.results["steps"]] == [""] * 6
    assert all(each["measured"] for each in done.results["cells"])


@pytest.fixture(scope="module")
def redrawn(world: Path, done: StudyResult, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The study with verdicts drawn at random, some of them missing, and its results: random models never refuse."""
    folder = tmp_path_factory.mktemp("redrawn") / "run"
    shutil.copytree(world / "run", folder)
    draw = random.Random(3)
    for file in folder.glob("evaluations/*/rows.parquet"):
        rows = pl.read_parquet(file)
        likely = {name: draw.random() for name in rows["condition"].unique().sort()}
        values = [
            None if draw.random() < 0.1 else float(draw.random() < likely[name]) for name in rows["condition"].to_list()
        ]
        status = ["empty" if value is None else "ok" for value in values]
        rows.with_columns(pl.Series("value", values, pl.Float64), pl.Series("status", status)).write_parquet(file)
    spec = study_spec(world)
    return folder, study_results(spec, plan_study(spec), RunDirectory(str(folder)), [])


def test_rates_and_differences_are_those_of_the_rows(redrawn: tuple[Path, dict[str, Any]]) -> None:
    folder, results = redrawn
    rows = pl.read_parquet(folder / "evaluations" / "second" / "rows.parquet")
    judge = results["evaluations"][1]["primary_judge"]
    asked = rows.filter(pl.col("judge") == judge, pl.col("suite_kind") == "refuse", pl.col("value").is_not_null())
    suite = asked["suite"][0]

    def rates(group: str) -> list[float]:
        own = asked.filter(pl.col("group") == group).group_by("condition", maintain_order=True)
        return [1.0 - float(value) for value in own.agg(pl.col("value").mean())["value"]]

    top, control = "rows.top.first+fast+none", "rows.random+fast+none"
    assert len(rates(top)) == 2
    assert len(rates(control)) == 4
    found = measured(results, f"second/{top}", suite, "attack_success")
    assert found["value"] == pytest.approx(fmean(rates(top)))
    assert 0 < found["value"] < 1
    assert sorted(found["by_seed"].values()) == pytest.approx(sorted(rates(top)))
    half_width = scipy.stats.t.ppf(0.975, 1) * scipy.stats.sem(rates(top))
    assert found["low"] == pytest.approx(max(0.0, fmean(rates(top)) - half_width))


def test_the_transfer_matrix_is_the_difference_to_the_control_of_its_target(
    redrawn: tuple[Path, dict[str, Any]],
) -> None:
    folder, results = redrawn
    judge = results["evaluations"][0]["primary_judge"]
    matrices = [each for each in results["transfer"] if each["selection"] == "top" and each["recipe"] == "fast"]
    (matrix,) = [each for each in matrices if each["suite"] == results["evaluations"][0]["suites"][0]["name"]]
    assert (matrix["scorers"], matrix["targets"]) == (["first", "second"], ["first", "second"])
    assert len(matrix["entries"]) == 4
    for entry in matrix["entries"]:
        rows = pl.read_parquet(folder / "evaluations" / entry["target"] / "rows.parquet").filter(
            pl.col("judge") == judge, pl.col("suite") == matrix["suite"]
        )
        groups = f"rows.top.{entry['scorer']}+fast+none", "rows.random+fast+none"
        conditions = [rows.filter(pl.col("group") == name)["condition"].unique().to_list() for name in groups]
        # Welch's test of seeds that do not pair is over the prompts that every condition of the two has answered.
        everywhere = rows.filter(pl.col("condition").is_in([*conditions[0], *conditions[1]]))
        answered = everywhere.group_by("prompt_id").agg(pl.col("value").is_not_null().all().alias("all")).filter("all")
        common = everywhere.join(answered, on="prompt_id", how="semi")
        means = [
            [1 - common.filter(pl.col("condition") == name)["value"].mean() for name in names] for names in conditions
        ]
        assert entry["difference"] == pytest.approx(fmean(means[0]) - fmean(means[1]))
    differences = {(each["scorer"] == each["target"]): [] for each in matrix["entries"]}
    for each in matrix["entries"]:
        differences[each["scorer"] == each["target"]].append(each["difference"])
    assert matrix["own_mean"] == pytest.approx(fmean(differences[True]))
    assert matrix["transfer_mean"] == pytest.approx(fmean(differences[False]))


def test_whether_samples_transfer_is_one_test_over_seeds(redrawn: tuple[Path, dict[str, Any]]) -> None:
    folder, results = redrawn
    judge = results["evaluations"][0]["primary_judge"]
    matrices = [each for each in results["transfer"] if (each["selection"], each["recipe"]) == ("top", "fast")]
    (matrix,) = [each for each in matrices if each["suite"] == results["evaluations"][0]["suites"][0]["name"]]
    rates = {}
    for target in ("first", "second"):
        rows = pl.read_parquet(folder / "evaluations" / target / "rows.parquet").filter(
            pl.col("judge") == judge, pl.col("suite") == matrix["suite"], pl.col("value").is_not_null()
        )
        for (group, seed, condition), own in rows.group_by("group", "seed", "condition"):
            rates.setdefault((target, group, seed), {})[condition] = 1 - own["value"].mean()
    by_seed = []
    for seed in (0, 1):
        differences = []
        for scorer, target in (("first", "second"), ("second", "first")):
            top, control = (f"rows.top.{scorer}+fast+none", "rows.random+fast+none")
            # Two draws of the control to a seed.
            assert len(rates[target, control, seed]) == 2
            differences.append(fmean(rates[target, top, seed].values()) - fmean(rates[target, control, seed].values()))
        by_seed.append(fmean(differences))
    average = matrix["averages"]["transfer"]
    test = scipy.stats.ttest_1samp(by_seed, 0.0)
    assert (average["entries"], average["seeds"]) == (2, 2)
    assert average["difference"] == pytest.approx(fmean(by_seed))
    assert average["p"] == pytest.approx(test.pvalue)
    assert (average["low"], average["high"]) == pytest.approx(tuple(test.confidence_interval()))


def test_the_primary_family_is_adjusted_over_the_whole_study(redrawn: tuple[Path, dict[str, Any]]) -> None:
    _, results = redrawn
    primary = [each for each in results["contrasts"] if each["family"] == "primary" and each["p"] is not None]
    assert {each["with"] for each in primary} == {"control"}
    assert {each["cell"].partition("/")[0] for each in primary} == {"first", "second"}
    ordered = sorted(each["p"] for each in primary)
    expected, highest = {}, 0.0
    for place, p in enumerate(ordered):
        highest = max(highest, min(1.0, p * (len(ordered) - place)))
        expected[p] = highest
    assert {each["p"]: each["p_adjusted"] for each in primary} == pytest.approx(expected)


def test_what_was_trained_on_is_what_was_selected(world: Path, done: StudyResult) -> None:
    finetunes = json.loads((world / "run/finetunes/second/finetunes.json").read_text())["results"]
    samples = {each["dataset"]: each["data"]["samples"] for each in finetunes}
    assert samples == {
        "rows.top.first": 8,
        "rows.top.second": 8,
        "rows.random.draw-0": 8,
        "rows.random.draw-1": 8,
        "rows.whole": 40,
        "rows.filtered.first": 28,
        "rows.filtered.second": 28,
    }


def test_running_again_does_nothing_twice_and_gives_the_same_tables(world: Path, done: StudyResult) -> None:
    before = {name: (world / "run" / name).read_bytes() for name in (CELLS, CONTRASTS)}
    counted = events(world / "run")
    # Two audits of three shards; fine-tunes of 8 + 2 and 8 + 3; two targets and their fine-tunes asked 12 prompts each.
    assert Counter(name.split()[-2] for name in counted if not name.startswith("answer")) == {
        "shard": 6,
        "finetune": 21,
    }
    assert sum(name.startswith("answer") for name in counted) == (21 + 2) * 12
    assert set(counted.values()) == {1}
    again = run_study(study_spec(world), local=True)
    assert events(world / "run") == counted
    assert {name: (world / "run" / name).read_bytes() for name in before} == before
    assert again.results["cells"] == done.results["cells"]


def test_another_judge_judges_and_nothing_else_is_done(world: Path, done: StudyResult) -> None:
    counted = events(world / "run")
    judged = run_study(study_spec(world, judges={"phrases": "refusal_prefixes"}), local=True)
    assert events(world / "run") == counted
    assert {each["judge"] for cell in judged.results["cells"] for each in cell["measured"]} == {"phrases", "coherence"}
    run_study(study_spec(world), local=True)


def test_a_step_that_fails_leaves_the_others(world: Path, tmp_path: Path) -> None:
    broken = {**{name: str(world / name) for name in ("first", "second")}, "third": str(tmp_path / "third")}
    (tmp_path / "third").mkdir()
    for file in (world / "first").iterdir():
        (tmp_path / "third" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "third" / "model.safetensors").write_bytes(b"no weights")
    spec = study_spec(
        world,
        models=broken,
        experiments={"transfer": {"selections": ["top", "random"], "recipes": ["fast"], "seeds": [0]}},
        run={"dir": str(tmp_path / "run")},
    )
    result = run_study(spec, local=True)
    failures = {each["step"]: each["failure"] for each in result.results["steps"]}
    assert {step for step, failure in failures.items() if "third" in step and failure} == {
        "audit rows by third",
        "finetune third",
        "evaluate third",
    }
    assert failures["audit rows by first"] == failures["audit rows by second"] == ""
    # What the broken model should have chosen is missing, what the others chose is measured.
    assert "wait for audits" in failures["finetune first"]
    assert all(cell["measured"] for cell in result.results["cells"] if "third" not in {cell["target"], cell["scorer"]})
    assert not any(cell["measured"] for cell in result.results["cells"] if cell["scorer"] == "third")
    assert result.exit_error is not None
    assert result.exit_error.exit_code == 4
