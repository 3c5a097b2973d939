"""What the plan of a study counts, what it assumes, and what it takes from steps that have been done."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

from bds.checks_study import check_study_spec
from bds.cli import main
from bds.data.rows import Row
from bds.errors import PreflightError, SpecError
from bds.planning_study import plan_study_steps, study_plan_text
from bds.runs.directory import RunDirectory
from bds.runs.events import EventLog
from bds.runs.plan import write_plan
from bds.runs.receipts import Receipt, Worker, write_receipt
from bds.spec.load import load_study_spec
from bds.spec.study import StudySpec
from bds.studies.conditions import condition_name, own_trainings
from bds.studies.plan import audit_folder, evaluation_folder, finetunes_folder, input_name, plan_study
from tests.unit.small_study import POOL_ROWS, write_small_study


def planned(spec: StudySpec) -> dict[str, Any]:
    plan = plan_study_steps(spec)
    assert json.loads(json.dumps(plan)) == plan
    return plan


def small(folder: Path, *settings: str, **blocks: Any) -> StudySpec:
    return load_study_spec(str(write_small_study(folder, **blocks)), settings)


def steps(plan: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {step["id"]: step for step in plan["steps"]}


def test_steps_stand_in_order_with_what_each_waits_for(tmp_path: Path) -> None:
    plan = planned(small(tmp_path))
    assert [(step["number"], step["id"], step["after"]) for step in plan["steps"]] == [
        (1, "audit pool by one", []),
        (2, "audit pool by two", []),
        (3, "finetune one", ["audit pool by one", "audit pool by two"]),
        (4, "finetune two", ["audit pool by one", "audit pool by two"]),
        (5, "evaluate one", ["finetune one"]),
        (6, "evaluate two", ["finetune two"]),
    ]
    assert "(after 1, 2)" in study_plan_text(plan)
    assert not any(step["done"] for step in plan["steps"])


def test_what_experiments_share_is_counted_once(tmp_path: Path) -> None:
    """transfer: 2 scorers' tops and 2 draws on 2 targets, 2 seeds; rates: top and 2 draws, 2 rates, 2 seeds, on one."""
    plan = planned(small(tmp_path))
    prompts = sum(suite["prompts"] for suite in plan["suites"])
    asked, distinct = plan["shared"]["asked"], plan["shared"]["distinct"]
    assert (asked["audits"], asked["finetunes"], asked["evaluations"]) == (3, 16 + 12, 3)
    assert (distinct["audits"], distinct["finetunes"], distinct["evaluations"]) == (2, 16 + 6, 2)
    assert asked["answers"] == (16 + 2 + 12 + 1) * prompts
    assert distinct["answers"] == (22 + 2) * prompts
    assert (plan["shared"]["engines"], plan["shared"]["judge_engines"]) == (2, 0)
    text = study_plan_text(plan)
    assert "together they ask for 3 audits, 28 fine-tunes" in text
    assert "each distinct one is done once: 2 audits, 22 fine-tunes" in text


def test_one_base_model_under_two_names_is_one_engine(tmp_path: Path) -> None:
    assert planned(small(tmp_path, f"models.two.path={tmp_path / 'one'}"))["shared"]["engines"] == 1


def test_rows_samples_steps_answers_and_requests_are_counted(tmp_path: Path) -> None:
    blocks = {"score": {"detectors": ["gradient_bidirectional"]}, "sampling": {"max_tokens": 7}}
    judges = {"words": "refusal_prefixes", "model": {"method": "granite_guardian_4", "model": "owner/judge"}}
    plan = planned(small(tmp_path, judges=judges, **blocks))
    found = steps(plan)
    audit, trained, answered = found["audit pool by one"], found["finetune one"], found["evaluate one"]
    assert (audit["rows"], audit["shards"], audit["passes"]) == (POOL_ROWS, 3, "forward and backward")
    # 14 fine-tunes of 10 samples, 2 epochs in batches of 2.
    assert (trained["finetunes"], trained["samples"], trained["samples_seen"], trained["steps"]) == (14, 140, 280, 140)
    assert answered["answers"] == 15 * answered["prompts"]
    assert answered["judge_requests"] == answered["answers"]
    assert answered["verdicts"] == 2 * answered["answers"]
    assert answered["answer_tokens_at_most"] == 7 * answered["answers"]
    assert plan["shared"]["judge_engines"] == 1
    assert any("model, which judge as models" in assumption for assumption in plan["assumptions"])


def test_sizes_of_selections_follow_from_the_dataset(tmp_path: Path) -> None:
    experiments = {"all": {"selections": ["whole", "filtered"], "scorers": ["one"], "targets": ["one"], "seeds": [0]}}
    spec = small(tmp_path, experiments=experiments, recipes={"plain": "recipe.yaml"}, mitigations=["none"])
    assert steps(planned(spec))["finetune one"]["samples"] == POOL_ROWS + 30


def test_a_further_stage_on_a_selection_of_the_study_and_a_mixture_are_counted(tmp_path: Path) -> None:
    selections = {
        "top": {
            "kind": "top",
            "detector": "gradient_bidirectional",
            "count": 4,
            "mix": {"into": "pool.jsonl", "share": 0.2},
        },
        "later": {"kind": "random", "count": 8, "seed": 1},
    }
    stage = {"data": {"audit": "run/audits/pool/one", "selection": "later"}, "recipe": {"from": "recipe.yaml"}}
    experiments = {
        "continual": {"selections": ["top"], "scorers": ["one"], "targets": ["one"], "seeds": [0], "then": [stage]}
    }
    spec = small(
        tmp_path,
        selections=selections,
        experiments=experiments,
        recipes={"plain": "recipe.yaml"},
        mitigations=["none"],
    )
    check_study_spec(spec)
    found = steps(planned(spec))["finetune one+continual"]
    assert (found["samples"], found["samples_seen"]) == (20, 2 * (20 + 8))


def test_the_estimate_is_operations_over_the_assumed_rate(tmp_path: Path) -> None:
    estimate = {"teraflops": 100.0, "utilisation": 0.5, "price_per_gpu_hour": 2.0, "currency": "EUR"}
    plan = planned(small(tmp_path, estimate=estimate))
    audit = steps(plan)["audit pool by two"]
    assert audit["estimated_operations"] == pytest.approx(6 * 2e6 * audit["estimated_tokens"], rel=0.01)
    assert audit["estimated_device_hours"] == pytest.approx(audit["estimated_operations"] / 50e12 / 3600)
    assert audit["estimated_device_hours_left"] == audit["estimated_device_hours"]
    assert audit["estimated_from"] == "operations at the assumed rate"
    told = plan["estimate"]
    hours = sum(step["estimated_device_hours"] for step in plan["steps"])
    assert told["estimated_gpu_hours"] == pytest.approx(hours)
    assert told["estimated_cost"] == pytest.approx(2 * hours)
    assert "EUR at 2 an hour" in study_plan_text(plan)


def test_a_forward_pass_takes_a_third_of_the_operations(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    backward = steps(planned(small(tmp_path / "a")))["audit pool by one"]
    spec = small(
        tmp_path / "b",
        score={"detectors": ["representation"]},
        selections={"top": {"kind": "top", "detector": "representation", "count": 10}},
        experiments={"all": {"selections": ["top"]}},
    )
    forward = steps(planned(spec))["audit pool by one"]
    assert forward["passes"] == "forward only"
    assert backward["estimated_operations"] == pytest.approx(3 * forward["estimated_operations"])


def test_parameters_are_the_specs_or_read_from_the_headers_or_unknown(tmp_path: Path) -> None:
    import numpy

    spec = small(tmp_path, models={"one": "one", "two": "two", "three": {"path": "owner/model", "parameters": 5e9}})
    save_file({"a": numpy.zeros((3, 4)), "b": numpy.zeros(5)}, tmp_path / "one" / "model.safetensors")
    plan = planned(spec)
    told = {model["name"]: (model["parameters"], model["parameters_told"]) for model in plan["models"]}
    assert told["one"] == (17, "as its files say")
    assert told["two"] == (None, "not known (models.two.parameters would tell)")
    assert told["three"] == (5e9, "as the spec says")
    unknown = steps(plan)["audit pool by two"]
    assert unknown["estimated_operations"] is None
    assert unknown["estimated_device_hours"] is None
    assert unknown["estimated_from"] == "not known: parameters of two"
    assert "not in it: 3 steps whose time is not known" in study_plan_text(plan)


def test_what_is_not_on_this_machine_is_assumed_and_said_so(tmp_path: Path) -> None:
    estimate = {"rows_per_dataset": 1000, "tokens_per_row": 50, "prompts_per_suite": 30}
    spec = small(
        tmp_path,
        datasets={"pool": {"path": "hf://owner/name", "limit": 600}, "gone": "gone.jsonl"},
        suites=["no-suite.csv"],
        estimate=estimate,
    )
    plan = planned(spec)
    datasets = {each["name"]: each for each in plan["datasets"]}
    assert (datasets["pool"]["assumed"], datasets["pool"]["estimated_rows"]) == (True, 600)
    assert (datasets["gone"]["assumed"], datasets["gone"]["estimated_rows"]) == (True, 1000)
    assert steps(plan)["evaluate one"]["prompts"] == 30
    text = study_plan_text(plan)
    assert "pool has 600 rows of 50 tokens: hf://owner/name is not on this machine" in text
    assert f"the suite at {tmp_path}/no-suite.csv has 30 prompts of 50 tokens: it is not on this machine" in text


def test_a_plan_needs_no_files_and_a_run_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_small_study(tmp_path, datasets={"gone": "gone.jsonl"}, suites=["no-suite.csv"])
    spec = load_study_spec(str(file))
    with pytest.raises(PreflightError, match=r"^field datasets\.gone\.path: .*gone\.jsonl does not exist"):
        check_study_spec(spec)
    notes = check_study_spec(spec, may_lack_files=True)
    assert [note for note in notes if note.startswith("not there yet: field datasets.gone.path")]
    assert [note for note in notes if note.startswith("not there yet: field suites.0")]
    assert main(["plan", str(file)]) == 0
    assert "not there yet: field datasets.gone.path" in capsys.readouterr().err
    assert main(["validate", str(file)]) == 3


def test_a_mistake_is_refused_by_a_plan_as_well(tmp_path: Path) -> None:
    spec = small(tmp_path, "score.detectors=[gradient_bidirectionl]")
    with pytest.raises(SpecError, match="is not a detector"):
        check_study_spec(spec, may_lack_files=True)


def test_notes_are_told(tmp_path: Path) -> None:
    notes = {"source": "A paper", "reproduces": ["12 %"], "assumptions": ["blue lanterns"], "unknown": ["the batch"]}
    text = study_plan_text(planned(small(tmp_path, notes=notes)))
    for line in ("source: A paper", "  12 %", "  blue lanterns", "  the batch", "Does a smaller rate do less harm?"):
        assert line in text


def finish_audit(spec: StudySpec, dataset: str, scorer: str, *, shards: int, device: str = "cpu") -> None:
    """Leaves what an audit does that scored so many of its shards, a second and 100 tokens each."""
    run = RunDirectory(f"{spec.run.dir}/{audit_folder(dataset, scorer)}")
    rows = [Row(index, f"{index:016d}-0", "pool.jsonl", index, "ok", "", None, {}) for index in range(POOL_ROWS)]
    plan = write_plan(run, rows, rows_per_shard=16, spec_sha256="", data_format="auto")
    for shard in plan.shards[:shards]:
        receipt = Receipt(shard.index, shard.sha256, 1, shard.rows, 0, 100, 1.0, {}, Worker("host", 1, device), {})
        write_receipt(run, receipt)


def finish_finetunes(spec: StudySpec, target: str, number: int) -> None:
    """Leaves the first fine-tunes of a target, two seconds each."""
    (run,) = (each for each in plan_study(spec).runs if each.target == target)
    root = RunDirectory(spec.run.dir)
    for each in own_trainings(plan_study(spec).of_run(run), {})[:number]:
        names = (target, input_name(spec, each.input), each.cell.recipe, each.cell.mitigation, f"seed-{each.seed}")
        folder = f"{finetunes_folder(run)}/models/{'/'.join(names)}"
        root.write_json(f"{folder}/result.json", {"seconds": 2.0, "workers": 1, "device": "cpu"})
        root.write_json(f"{folder}/receipt.json", {})


def test_what_is_done_is_read_and_its_rate_is_used(tmp_path: Path) -> None:
    spec = small(tmp_path)
    finish_audit(spec, "pool", "one", shards=2)
    finish_finetunes(spec, "one", 7)
    plan = planned(spec)
    audit, other, trained = (steps(plan)[name] for name in ("audit pool by one", "audit pool by two", "finetune one"))
    assert (audit["finished_shards"], audit["shards"], audit["rows_finished"], audit["done"]) == (2, 3, 32, False)
    assert audit["estimated_from"] == "measured in this run"
    # 32 rows of 200 tokens took 2 seconds: 6.25 tokens a row, 250 in all.
    assert audit["estimated_tokens"] == 250
    assert audit["estimated_device_hours"] * 3600 == pytest.approx(2.5)
    assert audit["estimated_device_hours_left"] * 3600 == pytest.approx(0.5)
    # The other model has twice the parameters.
    assert other["estimated_from"] == "measured in this run on other models"
    assert other["estimated_device_hours"] * 3600 == pytest.approx(5.0)
    assert (trained["finished_finetunes"], trained["finetunes"]) == (7, 14)
    assert trained["estimated_device_hours"] * 3600 == pytest.approx(28.0)
    assert trained["estimated_device_hours_left"] * 3600 == pytest.approx(14.0)
    assert plan["estimate"]["estimated_cpu_hours_left"] > 0
    text = study_plan_text(plan)
    assert "(2 shards finished)" in text
    assert "(7 finished)" in text
    assert "CPU-seconds" in text


def test_seconds_of_a_gpu_are_gpu_hours(tmp_path: Path) -> None:
    spec = small(tmp_path)
    finish_audit(spec, "pool", "one", shards=1, device="cuda:0")
    plan = planned(spec)
    assert steps(plan)["audit pool by one"]["device"] == "cuda"
    assert plan["estimate"]["estimated_cpu_hours"] == 0
    assert plan["estimate"]["estimated_gpu_hours"] > 0


def test_answers_that_are_there_and_what_they_took(tmp_path: Path) -> None:
    spec = small(tmp_path)
    finish_finetunes(spec, "one", 14)
    plan = planned(spec)
    prompts = steps(plan)["evaluate one"]["prompts"]
    own = own_trainings([each for each in plan_study(spec).trainings if each.cell.target == "one"], {})
    names = ["one", *(condition_name(spec, each) for each in own[:4]), "of an earlier spec"]
    root = RunDirectory(spec.run.dir)
    answers = [{"condition": name, "asked": prompts, "failed": 0} for name in names]
    root.write_json(f"{evaluation_folder('one')}/metrics.json", {"answers": answers})
    log = EventLog(root, 1)
    log.add("step_ended", {"id": "evaluate one", "failure": "", "seconds": 50.0})
    found = steps(planned(spec))["evaluate one"]
    assert (found["answers_there"], found["answers"]) == (5 * prompts, 15 * prompts)
    assert found["estimated_from"] == "measured in this run"
    assert found["estimated_device_hours_left"] * 3600 == pytest.approx(100.0)


def test_answers_of_an_evaluation_that_was_stopped_are_counted_by_their_log(tmp_path: Path) -> None:
    spec = small(tmp_path)
    rows = [
        {"key": "a", "status": "ok", "condition": "one"},
        {"key": "b", "status": "failed", "condition": "one"},
        {"key": "c", "status": "empty", "condition": "one"},
        {"key": "d", "status": "ok", "condition": "of an earlier spec"},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    RunDirectory(spec.run.dir).write_bytes(f"{evaluation_folder('one')}/private/generations/00000.jsonl", text.encode())
    assert steps(planned(spec))["evaluate one"]["answers_there"] == 2


def test_a_model_may_take_other_resources_than_the_study(tmp_path: Path) -> None:
    from bds.studies.plan import evaluate_spec, finetune_spec

    models = {"one": "one", "two": {"path": "two", "training": {"workers": 4}, "serving": {"tensor_parallel": 2}}}
    spec = small(tmp_path, models=models)
    plan = plan_study(spec)
    workers = {
        run.target: finetune_spec(spec, run, plan.of_run(run), spec.run.dir).resources.workers for run in plan.runs
    }
    assert workers == {"one": 1, "two": 4}
    parallel = {name: evaluate_spec(spec, name, {}, spec.run.dir).serving.tensor_parallel for name in plan.targets}
    assert parallel == {"one": 1, "two": 2}
