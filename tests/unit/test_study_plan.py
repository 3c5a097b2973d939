"""The steps that a study stands for, counted by hand."""

from pathlib import Path
from typing import Any

import pytest

from bds.checks_study import check_study_spec
from bds.errors import BdsError
from bds.studies.plan import Cell, control_cell, control_of, finetune_spec, plan_study
from bds.studies.steps import steps_of
from bds.training.plan import expand
from tests.study_world import study_spec, study_value


def test_what_experiments_have_in_common_is_done_once(tmp_path: Path) -> None:
    plan = plan_study(study_spec(tmp_path))
    assert plan.audits == [("rows", "first"), ("rows", "second")]
    # transfer: 2 targets x (2 scorers' tops + 1 random) = 6 cells; rates: its slow top, the fast one is transfer's;
    # filtering: whole, and filtered by two scorers, of one target.
    assert len(plan.cells) == 6 + 1 + 3
    # Tops have 2 seeds, random 2 draws x 2 seeds; filtering has one seed.
    assert len(plan.trainings) == 2 * (2 * 2 + 4) + 2 + 3
    shared = Cell("first", "rows", "top", "first", "fast", "none")
    assert [name for name, cells in plan.experiments.items() if shared in cells] == ["transfer", "rates"]


def test_the_fine_tunes_of_a_target_are_those_planned_and_no_more(tmp_path: Path) -> None:
    spec = study_spec(tmp_path)
    plan = plan_study(spec)
    for run in plan.runs:
        trainings = plan.of_run(run)
        expanded = expand(finetune_spec(spec, run, trainings, "study"))
        assert len(expanded) == len(trainings)
        assert {(each.recipe, each.seed) for each in expanded} == {(each.cell.recipe, each.seed) for each in trainings}


def test_each_step_waits_for_what_it_needs_and_for_nothing_else(tmp_path: Path) -> None:
    experiments = {"own": {"selections": ["top"], "scorers": ["first"], "recipes": ["fast"]}}
    spec = study_spec(tmp_path, experiments=experiments)
    after = {step.id: step.after for step in steps_of(spec, plan_study(spec))}
    assert after == {
        "audit rows by first": (),
        "finetune first": ("audit rows by first",),
        "finetune second": ("audit rows by first",),
        "evaluate first": ("finetune first",),
        "evaluate second": ("finetune second",),
    }


def test_a_whole_dataset_needs_no_audit(tmp_path: Path) -> None:
    plan = plan_study(study_spec(tmp_path, experiments={"all": {"selections": ["whole"]}}))
    assert plan.audits == []
    assert {each.input.scorer for each in plan.trainings} == {None}


def test_further_stages_are_runs_of_their_own_and_equal_ones_are_one(tmp_path: Path) -> None:
    then = [{"data": "data.jsonl", "recipe": study_value()["recipes"]["slow"]}]
    one = {"selections": ["top"], "scorers": ["first"], "targets": ["first"], "recipes": ["fast"]}
    plan = plan_study(
        study_spec(tmp_path, experiments={"plain": one, "a": {**one, "then": then}, "b": {**one, "then": then}})
    )
    assert [run.name for run in plan.runs] == ["first", "first+a"]
    assert plan.experiments["a"] == plan.experiments["b"] != plan.experiments["plain"]


def test_a_control_has_the_size_of_what_it_controls(tmp_path: Path) -> None:
    more = {
        "top_3": {"kind": "top", "detector": "representation", "count": 3},
        "random_3": {"kind": "random", "count": 3},
    }
    spec = study_spec(tmp_path, selections={**study_value()["selections"], **more})
    assert {name: control_of(spec, name) for name in spec.selections} == {
        "top": "random",
        "random": None,
        "whole": None,
        "filtered": "whole",
        "top_3": "random_3",
        "random_3": None,
    }
    cell = Cell("second", "rows", "top", "first", "fast", "none")
    assert control_cell(spec, cell) == Cell("second", "rows", "random", None, "fast", "none")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"targets": ["third"]}, "field targets: there is no model 'third' in this study"),
        (
            {"experiments": {"all": {"selections": ["tpo"]}}},
            "field experiments.all.selections: there is no selection 'tpo' in this study; did you mean `top`?",
        ),
        (
            {"selections": {"top": {"kind": "top", "count": 3, "detector": "x"}}, "experiments": {"all": {}}},
            "selections.top",
        ),
        ({"selections": {"top": {"kind": "top", "count": 3, "detector": "random", "draws": 2}}}, "leave out draws"),
        ({"selections": {"whole": {"kind": "whole", "count": 3}}}, "whole is every row"),
        ({"models": {"first": "nowhere/at/all"}, "experiments": {"all": {}}}, "field models.first.path"),
        ({"datasets": {"rows": "nowhere.jsonl"}}, "field datasets.rows.path"),
        ({"judges": {"one": "unheard_of"}}, "unheard_of"),
        (
            {
                "selections": {"top": {"kind": "top", "count": 3, "detector": "representation", "control": "tap"}},
                "experiments": {"all": {}},
            },
            "field selections.top.control: there is no other selection 'tap'",
        ),
        ({"run": {"dir": "s3://bucket/run"}}, "no local folder"),
    ],
)
def test_mistakes_are_told_in_the_words_of_the_study(world: Path, fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BdsError) as told:
        check_study_spec(study_spec(world, **fields))
    assert sentence in str(told.value)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.study_world import write_study_world

    return write_study_world(tmp_path_factory.mktemp("study"))
