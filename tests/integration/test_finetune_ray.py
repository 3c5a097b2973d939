"""Fine-tunes on Ray Train: the same weights as in one process, through killed workers and drivers, and many at once."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file

from bds.distributed.finetune import run_finetunes
from bds.distributed.trainers import WorkerSize, _fit
from bds.runs.directory import RunDirectory
from bds.runs.events import read_events
from bds.training.curve import CurvePoint, read_curve
from bds.training.data import FrozenData
from bds.training.plan import Assignment, expand
from bds.training.several import Series
from tests.finetune_world import RECIPE, finetune_spec, result_of, write_world
from tests.integration.processes import descendants
from tests.integration.test_audit_identity import end, wait_until

NAME = "tiny/rows/plain/none/seed-0"
LONG = {"learning_rate": 1e-3, "epochs": 60, "batch": 5}
LONG_STEPS = 180
CHECKPOINT_STEPS = 4


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"), tied=False)


def curve_of(run_dir: Path, name: str = NAME) -> list[CurvePoint]:
    return read_curve((run_dir / "models" / name / "curve.csv").read_text())


def weights_of(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "models" / NAME / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def one_process(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fine-tune in this process, with one worker."""
    run_dir = tmp_path_factory.mktemp("one") / "run"
    run_finetunes(finetune_spec(world, run_dir), local=True)
    return run_dir


def test_one_worker_trains_one_after_the_other_to_the_bits_of_this_process_through_a_failing_one(
    ray_session: None, world: Path, tmp_path: Path, one_process: Path
) -> None:
    """Full and LoRA with dropout in turns: what one leaves in the process must not reach the next."""
    (tmp_path / "broken.jsonl").write_text('{"instruction": "no answer", "input": "", "output": ""}\n')
    data = str(world / "data.jsonl")
    blocks: dict[str, Any] = {
        "datasets": {"rows": data, "broken": str(tmp_path / "broken.jsonl"), "few": {"path": data, "limit": 7}},
        "recipes": {"lora": {**RECIPE, "parameters": "lora", "lora": {"dropout": 0.2}}, "plain": RECIPE},
    }
    said: list[str] = []
    result = run_finetunes(
        finetune_spec(world, tmp_path / "ray", **blocks, resources={"concurrent": 1}), report=said.append
    )
    here = run_finetunes(finetune_spec(world, tmp_path / "here", **blocks), local=True)
    assert "Ray Train: 1 fine-tune at a time, up to 6 of them by one trainer, workers of each: 1 of 1 CPU" in said
    assert result.runs.drop("seconds", "output").equals(here.runs.drop("seconds", "output"))
    failed = {name for name, status in result.runs.select("id", "status").iter_rows() if status == "failed"}
    assert failed == {"tiny/broken/lora/none/seed-0", "tiny/broken/plain/none/seed-0"}
    for name in set(result.runs["id"]) - failed:
        ours, theirs = (result_of(tmp_path / each, name) for each in ("ray", "here"))
        assert ours["weights_sha256"] == theirs["weights_sha256"]
        assert curve_of(tmp_path / "ray", name) == curve_of(tmp_path / "here", name)
    assert result_of(tmp_path / "ray")["weights_sha256"] == result_of(one_process)["weights_sha256"]
    assert ids_told(tmp_path / "ray") == list(result.runs["id"])
    assert len(list((tmp_path / "ray" / "ray_train").iterdir())) == 1


@pytest.mark.parametrize("fails", [False, True])
def test_a_trainer_that_has_ended_leaves_no_handler_that_holds_its_processes(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    class Trainer:
        """Handles SIGINT as Ray's own does, and never gives it back."""

        def __init__(self, train: Any, **settings: Any) -> None:
            pass

        def fit(self) -> None:
            signal.signal(signal.SIGINT, lambda number, frame: None)
            if fails:
                raise RuntimeError("no room")

    monkeypatch.setattr("ray.train.torch.TorchTrainer", Trainer)
    before = signal.getsignal(signal.SIGINT)
    run, spec = RunDirectory(str(tmp_path)), finetune_spec(world, tmp_path)
    (task,) = expand(spec)
    one = Assignment(task, "key", FrozenData("data/rows", "data.jsonl", "sha", 0, {}, None), ())
    failure = _fit(run, spec, Series(run, "ray_train", [one]), WorkerSize(1, 0.0, None))
    assert (failure is not None) == fails
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("sharding", [pytest.param("ddp", marks=pytest.mark.slow), "fsdp2"])
def test_two_workers_give_the_curve_of_one_and_see_every_sample_once_an_epoch(
    ray_session: None, world: Path, tmp_path: Path, one_process: Path, sharding: str
) -> None:
    recipe = {**RECIPE, "micro_batch": 1}
    spec = finetune_spec(
        world, tmp_path / "run", recipes={"plain": recipe}, resources={"workers": 2, "sharding": sharding}
    )
    result = run_finetunes(spec)
    assert result.exit_error is None
    ours, expected = curve_of(tmp_path / "run"), curve_of(one_process)
    assert [point.loss for point in ours] == pytest.approx([point.loss for point in expected], rel=1e-5)
    norms = [(point.gradient_norm, other.gradient_norm) for point, other in zip(ours, expected, strict=True)]
    assert [norm for norm, _ in norms] == pytest.approx([norm for _, norm in norms], rel=1e-4)
    assert [point.samples_seen for point in ours] == [5, 10, 13, 18, 23, 26]
    theirs = weights_of(one_process)
    for name, weight in weights_of(tmp_path / "run").items():
        torch.testing.assert_close(weight, theirs[name], rtol=1e-3, atol=2e-5, msg=name)
    stage = result_of(tmp_path / "run")["stages"][0]
    assert (stage["workers"], stage["micro_batch"], stage["accumulation"]) == (2, 1, 3)


def write_spec(world: Path, run_dir: Path, *, restarts: int = 2, **blocks: Any) -> Path:
    spec = finetune_spec(
        world,
        run_dir,
        recipes={"plain": LONG},
        run={"dir": str(run_dir), "checkpoint_steps": CHECKPOINT_STEPS, "restarts": restarts},
        **blocks,
    )
    file = run_dir.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(spec.model_dump(mode="json")))
    return file


@pytest.fixture(scope="module")
def long_run(world: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights of the longer fine-tune that is killed below, uninterrupted."""
    run_dir = tmp_path_factory.mktemp("long") / "run"
    spec = finetune_spec(world, run_dir, recipes={"plain": LONG})
    run_finetunes(spec, local=True)
    return str(result_of(run_dir)["weights_sha256"])


def checkpoint_step(run_dir: Path, name: str = NAME) -> int:
    try:
        return int(json.loads((run_dir / "models" / name / "checkpoints" / "latest.json").read_text())["step"])
    except FileNotFoundError:
        return 0


def training_processes(driver: int) -> list[psutil.Process]:
    """The driver's workers that train, the driver itself left out."""
    return descendants("RayTrainWorker", of=driver)


def test_a_killed_driver_costs_no_more_than_the_steps_since_the_last_checkpoint(
    world: Path, tmp_path: Path, long_run: str
) -> None:
    run_dir = tmp_path / "run"
    command = [sys.executable, "-m", "bds", "finetune", str(write_spec(world, run_dir))]
    driver = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    family = [psutil.Process(driver.pid)]
    try:
        wait_until(lambda: checkpoint_step(run_dir) >= 2 * CHECKPOINT_STEPS, driver)
        family += psutil.Process(driver.pid).children(recursive=True)
        driver.send_signal(signal.SIGKILL)
        driver.wait(timeout=60)
    finally:
        end(family)
    assert not (run_dir / "models" / NAME / "receipt.json").exists()
    again = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert again.returncode == 0, again.stderr
    assert result_of(run_dir)["weights_sha256"] == long_run
    expect_one_resume(run_dir, NAME)


def expect_one_resume(run_dir: Path, name: str) -> None:
    (resumed_from,) = result_of(run_dir, name)["resumed_from_steps"]
    assert resumed_from >= 2 * CHECKPOINT_STEPS
    assert resumed_from % CHECKPOINT_STEPS == 0
    assert len(curve_of(run_dir, name)) == LONG_STEPS


SEEDS = [f"tiny/rows/plain/none/seed-{seed}" for seed in range(3)]


@pytest.mark.slow
@pytest.mark.parametrize("restarts", [2, 0], ids=["one death", "too many deaths"])
def test_a_killed_worker_of_several_finetunes_costs_its_own_steps_or_only_the_one_that_it_dies_of(
    world: Path, tmp_path: Path, restarts: int
) -> None:
    """Killed in the second of three: once, or every time that it trains it."""
    run_dir, expected = tmp_path / "run", tmp_path / "expected"
    blocks: dict[str, Any] = {"seeds": [0, 1, 2], "recipes": {"plain": LONG}}
    run_finetunes(finetune_spec(world, expected, **blocks), local=True)
    file = write_spec(world, run_dir, restarts=restarts, seeds=[0, 1, 2], resources={"concurrent": 1})
    driver = subprocess.Popen([sys.executable, "-m", "bds", "finetune", str(file)], stderr=subprocess.PIPE, text=True)
    family = [psutil.Process(driver.pid)]
    step = 0
    try:
        for _ in range(1 if restarts else 2):
            # The first is told of while the second is under way.
            wait_until(lambda: ids_told(run_dir) == SEEDS[:1], driver)
            wait_until(lambda step=step: checkpoint_step(run_dir, SEEDS[1]) >= step + 2 * CHECKPOINT_STEPS, driver)
            family += psutil.Process(driver.pid).children(recursive=True)
            (worker,) = training_processes(driver.pid)
            worker.kill()
            step = checkpoint_step(run_dir, SEEDS[1])
            first = (run_dir / "models" / SEEDS[0] / "receipt.json").stat().st_mtime_ns
        _, errors = driver.communicate(timeout=240)
        assert driver.returncode == (0 if restarts else 4), errors
    finally:
        end(family)
    finished = SEEDS if restarts else [SEEDS[0], SEEDS[2]]
    for name in finished:
        assert result_of(run_dir, name)["weights_sha256"] == result_of(expected, name)["weights_sha256"]
    assert (run_dir / "models" / SEEDS[0] / "receipt.json").stat().st_mtime_ns == first
    assert result_of(run_dir, SEEDS[0])["resumed_from_steps"] == []
    assert sorted(ids_told(run_dir)) == SEEDS
    if restarts:
        expect_one_resume(run_dir, SEEDS[1])
        return
    assert not (run_dir / "models" / SEEDS[1] / "receipt.json").exists()
    (failure,) = (event for event in events_of(run_dir) if event["event"] == "failure")
    assert failure["id"] == SEEDS[1]
    assert "died" in failure["reason"]


def events_of(run_dir: Path) -> list[dict[str, Any]]:
    """What the first attempt has told of its fine-tunes."""
    try:
        events = read_events(RunDirectory(str(run_dir)), 1)
    except FileNotFoundError:
        return []
    return [event for event in events if event["event"] in {"finetune", "failure"}]


def ids_told(run_dir: Path) -> list[str]:
    return [str(event["id"]) for event in events_of(run_dir)]


@pytest.mark.slow
def test_a_killed_sharded_worker_resumes_in_two_stages(world: Path, tmp_path: Path) -> None:
    """FSDP2 has checkpoints of its own; the second stage begins from the sharded model of the first."""
    then = [{"data": str(world / "data.jsonl"), "recipe": {"learning_rate": 5e-4, "epochs": 1, "batch": 4}}]
    expected = tmp_path / "expected"
    run_finetunes(finetune_spec(world, expected, recipes={"plain": LONG}, then=then), local=True)

    run_dir = tmp_path / "run"
    file = write_spec(world, run_dir, then=then, resources={"workers": 2, "sharding": "fsdp2"})
    driver = subprocess.Popen([sys.executable, "-m", "bds", "finetune", str(file)], stderr=subprocess.PIPE, text=True)
    family = [psutil.Process(driver.pid)]
    try:
        wait_until(lambda: checkpoint_step(run_dir) >= 2 * CHECKPOINT_STEPS, driver)
        family += psutil.Process(driver.pid).children(recursive=True)
        training_processes(driver.pid)[0].kill()
        _, errors = driver.communicate(timeout=400)
        assert driver.returncode == 0, errors
    finally:
        end(family)
    ours, theirs = curve_of(run_dir), curve_of(expected)
    assert [(point.stage, point.step) for point in ours] == [(point.stage, point.step) for point in theirs]
    assert [point.loss for point in ours] == pytest.approx([point.loss for point in theirs], rel=1e-3)
    assert result_of(run_dir)["resumed_from_steps"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_finetunes_share_two_cpus_survive_a_failing_one_and_only_it_is_tried_again(
    world: Path, tmp_path: Path
) -> None:
    """3 models x 3 datasets x 2 seeds through the command line; one dataset has no answers until it is mended."""
    data, broken, run_dir = world / "data.jsonl", tmp_path / "broken.jsonl", tmp_path / "run"
    broken.write_text('{"instruction": "no answer", "input": "", "output": ""}\n')
    spec = finetune_spec(
        world,
        run_dir,
        models={name: str(world / "model") for name in ("one", "two", "three")},
        datasets={"top": str(data), "random": {"path": str(data), "limit": 7}, "broken": str(broken)},
        recipes={"plain": {**RECIPE, "epochs": 1}},
        seeds=[0, 1],
    )
    file = tmp_path / "spec.yaml"
    file.write_text(yaml.safe_dump(spec.model_dump(mode="json")))
    command = [sys.executable, "-m", "bds", "finetune", str(file), "--json"]

    first = subprocess.run(command, capture_output=True, text=True, timeout=550, check=False)
    assert first.returncode == 4, first.stderr
    runs = json.loads(first.stdout)["runs"]
    assert len(runs) == 18
    failed = {each["id"] for each in runs if each["status"] == "failed"}
    assert failed == {f"{model}/broken/plain/none/seed-{seed}" for model in ("one", "two", "three") for seed in (0, 1)}
    assert "6 of 18 fine-tunes failed" in first.stderr
    receipts = {name: (run_dir / name).read_bytes() for name in RunDirectory(str(run_dir)).list() if "receipt" in name}
    assert len(receipts) == 12

    broken.write_text(data.read_text())
    again = subprocess.run(command, capture_output=True, text=True, timeout=550, check=False)
    assert again.returncode == 0, again.stderr
    assert "18 fine-tunes, 12 of them finished already" in again.stderr
    assert {name: (run_dir / name).read_bytes() for name in receipts} == receipts
