"""The ready specs load and ask for nothing impossible."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from bds.checks import check_spec
from bds.checks_study import check_study_spec
from bds.errors import GateError, PreflightError
from bds.evaluation.panel import panel_judge
from bds.planning_study import plan_study_steps, study_plan_text
from bds.scoring.selection import default_selections, selection_name
from bds.spec.finetune import FinetuneSpec, RecipeSpec
from bds.spec.identity import spec_hash
from bds.spec.load import load_evaluate_spec, load_finetune_spec, load_spec, load_study_spec
from bds.spec.models import AuditSpec
from bds.spec.paths import is_uri
from bds.studies.plan import finetunes_folder, plan_study
from tests.cluster_files import bds_commands, check_command
from tests.unit.small_audit import ANCHORS, write_rows
from tests.unit.small_finetune import write_model

ROOT = Path(__file__).parents[2]
ALL_JOBS = sorted((ROOT / "jobs").glob("*.yaml"))
KINDS = {job: yaml.safe_load(job.read_text()).get("kind", "audit") for job in ALL_JOBS}
FINETUNES = [job for job in ALL_JOBS if KINDS[job] == "finetune"]
EVALUATIONS = [job for job in ALL_JOBS if KINDS[job] == "evaluate"]
STUDIES = [job for job in ALL_JOBS if KINDS[job] == "study"]
JOBS = [job for job in ALL_JOBS if KINDS[job] == "audit"]
"""Audits."""
RECIPES = sorted((ROOT / "jobs" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.stem)
def test_a_job_is_a_valid_spec_with_its_own_run_directory(job: Path) -> None:
    spec = load_spec(str(job))
    assert spec.name == job.stem
    others = [load_spec(str(other)) for other in JOBS if other != job]
    assert spec.run.dir not in {other.run.dir for other in others}
    assert spec_hash(spec) not in {spec_hash(other) for other in others}


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.stem)
def test_a_job_passes_every_check_once_its_files_are_there(job: Path, tmp_path: Path) -> None:
    """With the placeholders filled in: every remaining field is one that an audit accepts."""
    spec = load_spec(str(job))
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (model / name).write_text("{}")
    anchors = {}
    for name in spec.anchors.sets:
        rows: list[dict[str, object]] = [{"prompt": "where is the lantern", "answer": ANCHORS[name.partition("_")[0]]}]
        anchors[name] = str(write_rows(tmp_path / f"{name}.jsonl", rows))
    settings = [f"anchors.sets.{name}={path}" for name, path in anchors.items()]
    settings += [
        f"data.path={write_rows(tmp_path / 'data.jsonl')}",
        f"model.path={model}",
        f"run.dir={tmp_path / 'run'}",
    ]
    check_spec(load_spec(str(job), settings))


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.stem)
def test_a_job_whose_files_are_not_there_says_which(job: Path) -> None:
    spec: AuditSpec = load_spec(str(job), ["data.path=/no/such/file.jsonl"])
    with pytest.raises(PreflightError, match=r"^field data\.path: /no/such/file\.jsonl does not exist"):
        check_spec(spec)


@pytest.mark.parametrize("job", ALL_JOBS, ids=lambda job: job.stem)
def test_the_commands_in_a_jobs_comments_are_real(job: Path) -> None:
    commands = bds_commands(job.read_text())
    for words in commands:
        check_command(words)
        assert all((ROOT / word).exists() for word in words if word.startswith("jobs/")), words
    assert any(words[1] == KINDS[job] and f"jobs/{job.name}" in words for words in commands)


@pytest.mark.parametrize("job", EVALUATIONS, ids=lambda job: job.stem)
def test_an_evaluation_job_is_a_valid_spec_of_fine_tunes_that_another_job_makes(job: Path) -> None:
    spec = load_evaluate_spec(str(job))
    assert spec.name == job.stem
    assert {panel_judge(name, judge).name for name, judge in spec.judges.items() if judge.policy is None}
    made = {load_finetune_spec(str(other)).run.dir for other in FINETUNES}
    for study in map(load_study_spec, map(str, STUDIES)):
        made |= {f"{study.run.dir}/{finetunes_folder(run)}" for run in plan_study(study).runs}
    assert set(spec.finetunes) <= made
    assert spec.run.dir not in made | {load_evaluate_spec(str(other)).run.dir for other in EVALUATIONS if other != job}


@pytest.mark.parametrize("job", FINETUNES, ids=lambda job: job.stem)
def test_a_finetune_job_is_a_valid_spec_with_its_own_run_directory(job: Path) -> None:
    spec = load_finetune_spec(str(job))
    assert spec.name == job.stem
    others = [load_finetune_spec(str(other)).run.dir for other in FINETUNES if other != job]
    assert spec.run.dir not in {*others, *(load_spec(str(audit)).run.dir for audit in JOBS)}


@pytest.mark.parametrize("job", FINETUNES, ids=lambda job: job.stem)
def test_a_finetune_job_trains_on_selections_that_an_audit_job_writes(job: Path) -> None:
    spec: FinetuneSpec = load_finetune_spec(str(job))
    written: dict[str, set[str]] = {}
    for audit in map(load_spec, map(str, JOBS)):
        wanted = audit.select or default_selections("gradient_bidirectional", 3000)
        written[audit.run.dir] = {selection_name(entry) for entry in wanted}
    trained_on = [*spec.datasets.values(), *(stage.data for stage in spec.then)]
    for data in trained_on:
        assert data.audit is not None
        assert data.selection in written[data.audit]


def test_every_recipe_is_valid_names_its_source_and_is_used() -> None:
    used = "".join(job.read_text() for job in [*FINETUNES, *STUDIES])
    for file in RECIPES:
        recipe = RecipeSpec.model_validate(yaml.safe_load(file.read_text()))
        assert recipe.source
        assert f"recipes/{file.name}" in used


def test_the_published_recipes_have_the_published_numbers() -> None:
    """100 samples, 5 epochs, batch 20, 5e-5, all parameters: both papers."""
    for name in ("he2024", "guan2025"):
        file = ROOT / "jobs" / "recipes" / f"{name}.yaml"
        recipe = RecipeSpec.model_validate(yaml.safe_load(file.read_text()))
        assert (recipe.samples, recipe.epochs, recipe.batch) == (100, 5, 20)
        assert (recipe.parameters, recipe.learning_rate) == ("full", 5e-5)
        assert (recipe.schedule, recipe.epoch_decay, recipe.weight_decay, recipe.clip) == ("epoch_decay", 0.85, 0, None)
        assert recipe.precision == "bf16"


def test_an_entry_with_from_changes_only_what_it_names() -> None:
    spec = load_study_spec(str(ROOT / "jobs" / "guan2025.yaml"))
    published = spec.recipes["published"]
    assert spec.recipes["batch_50"] == published.model_copy(update={"batch": 50})
    assert spec.recipes["rate_1e-5"] == published.model_copy(update={"learning_rate": 1e-5})
    slow, fast = (spec.experiments[name].then[0].recipe for name in ("continual_1e-6", "continual_2e-5"))
    assert slow == fast.model_copy(update={"learning_rate": 1e-6})


FIGURES = {
    "he2024": ("13 %", "77.5 %", "66.5 %"),
    "guan2025": ("about 3.5", "2.47", "4.4"),
    "quickstart": ("51.1 %", "1.1 %"),
}
"""Published figures that the plan of each study must show."""


@pytest.mark.parametrize("job", STUDIES, ids=lambda job: job.stem)
def test_the_plan_of_a_study_tells_what_is_published_assumed_and_unknown(job: Path) -> None:
    """As it is, without a download and without the files that users bring."""
    spec = load_study_spec(str(job))
    assert spec.name == job.stem
    notes = check_study_spec(spec, may_lack_files=True)
    assert any(note.startswith("not there yet") for note in notes)
    text = study_plan_text(plan_study_steps(spec))
    for told in (*spec.notes.reproduces, *spec.notes.assumptions, *spec.notes.unknown):
        assert told in text
    assert spec.notes.source in text
    assert spec.notes.reproduces
    assert spec.notes.assumptions
    assert spec.notes.unknown
    assert all(figure in text for figure in FIGURES[job.stem])
    assert all(experiment.question in text for experiment in spec.experiments.values())


@pytest.mark.parametrize("job", STUDIES, ids=lambda job: job.stem)
def test_a_study_has_its_own_run_directory_and_uses_all_that_it_names(job: Path) -> None:
    spec = load_study_spec(str(job))
    others = {load_study_spec(str(other)).run.dir for other in STUDIES if other != job}
    assert spec.run.dir not in others | {load_spec(str(audit)).run.dir for audit in JOBS}
    trainings = plan_study(spec).trainings
    stages = {stage.data.selection for experiment in spec.experiments.values() for stage in experiment.then}
    assert {each.input.dataset for each in trainings} == set(spec.datasets)
    assert {each.input.selection for each in trainings} | stages - {None} == set(spec.selections)
    assert {each.cell.target for each in trainings} == set(spec.models)
    assert {each.cell.recipe for each in trainings} == set(spec.recipes)
    assert {each.cell.mitigation for each in trainings} == set(spec.mitigations)


@pytest.mark.parametrize("job", STUDIES, ids=lambda job: job.stem)
def test_a_study_passes_every_check_once_its_files_are_there(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the files that users bring made up: every remaining field is one that its steps accept."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    spec = load_study_spec(str(job))
    settings = [f"suites={json.dumps(['placeholder'])}", f"run.dir={tmp_path / 'run'}"]
    for name in spec.anchors.sets:
        rows: list[dict[str, Any]] = [{"prompt": "where is the lantern", "answer": ANCHORS[name.partition("_")[0]]}]
        settings.append(f"anchors.sets.{name}={write_rows(tmp_path / f'{name}.jsonl', rows)}")
    for name, model in spec.models.items():
        if Path(model.path).is_absolute():
            settings.append(f"models.{name}.path={write_model(tmp_path / name)}")
    for name, data in spec.datasets.items():
        if not is_uri(data.path):
            settings.append(f"datasets.{name}.path={write_rows(tmp_path / f'{name}.jsonl')}")
    refusals = write_rows(tmp_path / "refusals.jsonl")
    for name, mitigation in spec.mitigations.items():
        if hasattr(mitigation, "refusals"):
            settings.append(f"mitigations.{name}.refusals={refusals}")
    for name, judge in spec.judges.items():
        if judge.policy is not None:
            (tmp_path / "policy.txt").write_text("No lanterns.")
            settings.append(f"judges.{name}.policy={tmp_path / 'policy.txt'}")
    settings += [
        f"experiments.{name}.then.{index}.data.audit={tmp_path}/run/{'/'.join(stage.data.audit.split('/')[-3:])}"
        for name, experiment in spec.experiments.items()
        for index, stage in enumerate(experiment.then)
        if stage.data.audit is not None
    ]
    notes = check_study_spec(load_study_spec(str(job), settings))
    assert not [note for note in notes if "there yet" in note]


def test_a_gate_names_its_limits_and_the_exit_code_that_stops_a_pull_request() -> None:
    job = ROOT / "jobs" / "ci-gate.yaml"
    assert load_spec(str(job)).run.fail_on["flagged_fraction"] > 0
    assert f"exit code {GateError.exit_code}" in job.read_text()
