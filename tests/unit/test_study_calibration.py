"""What a study's damage says of its detectors: rows, ranks and rates written out here, no model and no fine-tune."""

import zlib
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.special
import scipy.stats

from bds.runs.directory import RunDirectory
from bds.scoring.calibration import Cells, calibrate
from bds.scoring.learned_weights import read_learned_weights
from bds.spec.study import StudySpec
from bds.studies.calibration import calibration
from bds.studies.cells import cell_id
from bds.studies.conditions import condition_name
from bds.studies.plan import audit_of, plan_study, selection_of

ROWS = 12
SERIES = {"suite": "asked", "judge": "refusals", "metric": "attack_success"}
PROMPTS = 200

PLACES = range(ROWS)
SCORES = {
    "one": {"loss": [float(row) for row in PLACES], "answer_length": [float(row * 5 % ROWS) for row in PLACES]},
    "two": {"loss": [float(row * 7 % ROWS) for row in PLACES], "answer_length": [3.0] * 6 + [5.0] * 6},
}

CHOSEN = {
    "top": [11, 10],
    "top_large": [11, 10, 9],
    "bottom": [0, 1],
    "long": [7, 2],
    "matched": [5, 3],
    "filtered": [0, 1, 2, 3, 4, 5, 6, 7],
    "random.draw-0": [0, 6],
    "random.draw-1": [8, 4],
}


def study(**fields: Any) -> StudySpec:
    return StudySpec.model_validate(
        {
            "models": {"one": {"path": "one"}, "two": {"path": "two"}},
            "datasets": {"rows": {"path": "rows.jsonl"}},
            "score": {
                "detectors": ["loss", "answer_length", "random", {"name": "rank_average", "of": ["loss", "random"]}]
            },
            "selections": {
                "top": {"kind": "top", "detector": "loss", "count": 2},
                "top_large": {"kind": "top", "detector": "loss", "count": 3},
                "bottom": {"kind": "bottom", "detector": "loss", "count": 2},
                "long": {"kind": "top", "detector": "answer_length", "count": 2},
                "matched": {"kind": "random_matched_length", "detector": "loss", "count": 2},
                "filtered": {"kind": "filtered", "detector": "loss", "count": 4},
                "random": {"kind": "random", "count": 2, "draws": 2},
                "whole": "whole",
            },
            "recipes": {"plain": {"learning_rate": 1e-3, "epochs": 1, "batch": 2}},
            "seeds": [0, 1],
            "suites": ["placeholder"],
            "run": {"dir": "run"},
            **fields,
        }
    )


def rows_of(spec: StudySpec, given: Any) -> list[int]:
    return list(range(ROWS)) if audit_of(given, spec) is None else CHOSEN[selection_of(spec, given)]


def shares_of(scorer: str, rows: list[int]) -> dict[str, float]:
    """Mean normalised rank by detector, by scipy."""
    return {
        name: fmean(((scipy.stats.rankdata(scores) - 1) / (ROWS - 1))[rows]) for name, scores in SCORES[scorer].items()
    }


def written(folder: Path, spec: StudySpec, **headline: Any) -> tuple[RunDirectory, list[dict[str, Any]]]:
    """A finished study whose damage rises with the rank by loss; its cells as in study.json."""
    run, plan = RunDirectory(str(folder)), plan_study(spec)
    series = {**SERIES, **headline}
    for scorer, scores in SCORES.items():
        audit = f"audits/rows/{scorer}"
        table = pl.DataFrame({"row_index": range(ROWS), **{f"score.{name}": own for name, own in scores.items()}})
        run.write_table(f"{audit}/scores.parquet", table)
        # In another order they are another input: equal ones would be trained once.
        order = 1 if scorer == "one" else -1
        chosen = [(name, place, row) for name, rows in CHOSEN.items() for place, row in enumerate(rows[::order])]
        run.write_table(
            f"{audit}/selections/rows.parquet",
            pl.DataFrame(chosen, schema=["selection", "place", "row_index"], orient="row"),
        )
    rates: dict[str, list[dict[str, Any]]] = {target: [] for target in plan.targets}
    conditions: dict[Any, dict[str, float]] = {}
    for each in plan.trainings:
        name = condition_name(spec, each)
        own = shares_of(each.input.scorer or "one", rows_of(spec, each.input))
        noise = zlib.crc32(f"{each.cell.target} {name}".encode()) / 2**32 - 0.5
        value = float(scipy.special.expit(-3 + 4 * own["loss"] + (each.cell.target == "two") + 0.2 * noise))
        conditions.setdefault(each.cell, {})[name] = value
        rates[each.cell.target].append({**series, "condition": name, "value": value, "scored": PROMPTS})
        rates[each.cell.target].append({**series, "judge": "another", "condition": name, "value": 0.0, "scored": 1})
    for target, own_rates in rates.items():
        run.write_json(f"evaluations/{target}/metrics.json", {"rates": own_rates})
    return run, [
        {
            "id": cell_id(cell),
            **asdict(cell),
            "samples": 2,
            "conditions": list(own),
            "measured": [
                {**series, "judge": "another", "headline": False, "value": 0.0},
                {**series, "headline": True, "value": fmean(own.values())},
            ],
        }
        for cell, own in conditions.items()
    ]


def learned(folder: Path, spec: StudySpec, **headline: Any) -> dict[str, dict[str, Any]]:
    run, cells = written(folder, spec, **headline)
    found = calibration(spec, plan_study(spec), run, cells)
    assert found is not None
    return found


def test_every_cell_is_told_by_hand(tmp_path: Path) -> None:
    spec = study()
    run, cells = written(tmp_path, spec)
    found = calibration(spec, plan_study(spec), run, cells)
    assert found is not None
    assert list(found) == ["one", "two"]
    told = {each["id"]: each for each in found["one"]["cells"]}
    assert len(told) == 2 * len(spec.selections)
    assert told["one/rows.top.one+plain+none"]["features"] == {
        "loss": pytest.approx((1 + 10 / 11) / 2),
        # Rows 11 and 10 have 55 and 50 modulo 12, the eighth and the third of the values 0 to 11.
        "answer_length": pytest.approx((7 / 11 + 2 / 11) / 2),
    }
    whole = {"loss": pytest.approx(0.5), "answer_length": pytest.approx(0.5)}
    assert told["two/rows.whole+plain+none"]["features"] == whole
    by_id = {each["id"]: each for each in cells}
    for scorer in ("one", "two"):
        for each in found[scorer]["cells"]:
            assert each["measured"] == pytest.approx(by_id[each["id"]]["measured"][1]["value"])
            assert each["prompts"] == PROMPTS
        drawn = next(each for each in found[scorer]["cells"] if each["id"] == "one/rows.random+plain+none")
        draws = [shares_of(scorer, CHOSEN[f"random.draw-{draw}"]) for draw in (0, 1)]
        assert drawn["features"] == {name: pytest.approx(fmean(own[name] for own in draws)) for name in draws[0]}
        assert all(by_id[each["id"]]["scorer"] in (None, scorer) for each in found[scorer]["cells"])


def test_sizes_draws_seeds_and_targets_of_one_selection_are_left_out_together(tmp_path: Path) -> None:
    found = learned(tmp_path, study())["one"]
    families: dict[str, set[str]] = {}
    for each in found["cells"]:
        families.setdefault(each["family"], set()).add(each["id"])
    assert families["rows: top by loss"] == {
        f"{target}/rows.{name}.one+plain+none" for target in ("one", "two") for name in ("top", "top_large")
    }
    assert families["rows: random"] == {f"{target}/rows.random+plain+none" for target in ("one", "two")}
    assert found["families"] == len(families) == 7


def test_the_weights_are_those_of_the_cells_and_the_detector_reads_them(tmp_path: Path) -> None:
    found = learned(tmp_path, study())["one"]
    cells = found["cells"]
    shares = np.array([each["measured"] for each in cells])
    expected = calibrate(
        Cells(
            np.array([list(each["features"].values()) for each in cells]),
            shares * PROMPTS,
            np.full(len(cells), float(PROMPTS)),
            np.array([each["id"].partition("/")[0] for each in cells]),
            np.array([each["family"] for each in cells]),
        )
    )
    assert list(found["weights"].values()) == pytest.approx(expected.fit.weights_D)
    assert found["intercepts"] == pytest.approx(expected.fit.intercepts)
    assert [each["predicted"] for each in cells] == pytest.approx(expected.predicted_C)
    assert (found["ridge"], found["error"]) == pytest.approx((expected.ridge, expected.error))
    assert found["usable"]
    assert found["weights"]["loss"] > 2 > found["weights"]["answer_length"]

    RunDirectory(str(tmp_path)).write_json("calibration/one.json", found)
    read = read_learned_weights(str(tmp_path / "calibration" / "one.json"), "field")
    assert (read.weights, read.usable, read.reason) == (found["weights"], True, "")
    assert read.detectors == {"loss": "loss", "answer_length": "answer_length"}, "neither random nor made of others"


def test_cells_that_differ_in_more_than_rows_are_counted_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = {"learning_rate": 1e-4, "epochs": 1, "batch": 2}
    stage = {"data": {"path": "more.jsonl"}, "recipe": slow}
    spec = study()
    selections = {name: own.model_dump() for name, own in spec.selections.items()}
    mixed = {**selections["top"], "mix": {"into": {"path": "more.jsonl"}, "share": 0.5}}
    rest: dict[str, Any] = {"recipes": ["plain"], "mitigations": ["none"]}
    spec = study(
        selections={**selections, "mixed": mixed},
        recipes={"slow": slow, "plain": {**slow, "learning_rate": 1e-3}},
        mitigations={"none": {"method": "none"}, "ema": {"method": "ema"}},
        experiments={
            "main": {"selections": list(selections), **rest},
            "slow": {"selections": ["top"], "recipes": ["slow"], "mitigations": ["none"]},
            "ema": {"selections": ["top", "random"], "recipes": ["plain"], "mitigations": ["ema"]},
            "later": {"selections": ["long"], **rest, "then": [stage]},
            "mixed": {"selections": ["mixed"], **rest},
        },
    )
    monkeypatch.setitem(CHOSEN, "mixed", CHOSEN["top"])
    run, cells = written(tmp_path, spec)
    next(each for each in cells if each["id"] == "one/rows.bottom.two+plain+none")["measured"] = []
    found = calibration(spec, plan_study(spec), run, cells)
    assert found is not None
    assert {each["reason"]: each["cells"] for each in found["two"]["left_out"]} == {
        "a mitigation": 4,
        "another recipe": 2,
        "further stages": 2,
        "nothing measured": 1,
        "rows of another dataset mixed in": 2,
    }
    assert found["two"]["recipe"] == "plain"
    assert len(found["two"]["cells"]) == 15


def test_rows_without_a_score_are_passed_over_until_they_are_many(tmp_path: Path) -> None:
    spec = study()
    run, cells = written(tmp_path, spec)
    table = run.read_table("audits/rows/one/scores.parquet")
    holed = table.with_columns(pl.when(pl.col("row_index") != 0).then("score.loss").alias("score.loss"))
    run.write_table("audits/rows/one/scores.parquet", holed)
    found = calibration(spec, plan_study(spec), run, cells)
    assert found is not None
    told = {each["id"]: each["features"] for each in found["one"]["cells"]}
    assert told["one/rows.whole+plain+none"]["loss"] == pytest.approx(0.5), "of eleven rows, ranked among eleven"
    assert told["one/rows.top.one+plain+none"]["loss"] == pytest.approx((1 + 9 / 10) / 2)
    assert "one/rows.bottom.one+plain+none" not in told
    assert found["one"]["left_out"] == [{"reason": "less than 90% of the rows with scores", "cells": 6}]


def test_too_little_to_learn_from_is_said(tmp_path: Path) -> None:
    few = study(experiments={"all": {"selections": ["top", "top_large", "random", "whole"]}})
    found = learned(tmp_path / "few", few)["one"]
    assert (found["weights"], found["usable"]) == (None, False)
    assert found["reason"] == "3 kinds of selection were measured, and weights need 6 of them"
    assert [each["predicted"] for each in found["cells"]] == [None] * 8

    one_kind = study(experiments={"a": {"selections": ["top", "top_large"]}})
    found = learned(tmp_path / "one", one_kind)["one"]
    assert found["reason"].startswith("0 kinds of selection were measured")
    assert found["left_out"] == [{"reason": "of a target with fewer than 3 kinds of selection", "cells": 4}]

    rated = learned(tmp_path / "rated", study(), metric="harmfulness_score")["one"]
    assert rated["reason"].startswith("harmfulness_score is a rating")
    alone = learned(tmp_path / "alone", study(score={"detectors": ["loss", "random"]}))["one"]
    assert alone["reason"].startswith("weights need two detectors")


def test_a_study_that_measured_nothing_has_no_calibration(tmp_path: Path) -> None:
    spec = study()
    run, cells = written(tmp_path, spec)
    assert calibration(spec, plan_study(spec), run, [{**each, "measured": []} for each in cells]) is None
