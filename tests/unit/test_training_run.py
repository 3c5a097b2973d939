"""A fine-tune against a plain torch loop, and against itself after a kill at every step."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from bds.distributed.finetune import run_finetunes
from bds.errors import PreflightError
from bds.runs.directory import RunDirectory
from bds.training import run as run_module
from bds.training.curve import CurvePoint, read_curve
from bds.training.rates import learning_rate_factor
from bds.training.schedule import make_schedule
from tests.finetune_world import RECIPE, finetune_spec, result_of, samples_of, write_world

NAME = "tiny/rows/plain/none/seed-0"
STEPS = 6
LORA = {**RECIPE, "parameters": "lora", "lora": {"rank": 4, "dropout": 0.2}}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


def curve_of(run_dir: Path, name: str = NAME) -> list[CurvePoint]:
    return read_curve((run_dir / "models" / name / "curve.csv").read_text())


def plain_loop(world: Path, spec: Any) -> tuple[torch.nn.Module, list[float]]:
    """The same fine-tune with nothing of bds but its samples and its order: one padded batch a step, torch's AdamW."""
    recipe = spec.recipes["plain"]
    samples = samples_of(world)
    schedule = make_schedule(len(samples), recipe, seed=0)
    model: Any = AutoModelForCausalLM.from_pretrained(world / "model", dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.999), weight_decay=0.0)
    losses = []
    for number, step in enumerate(schedule.steps):
        chosen = [samples[index] for index in step.samples]
        longest = max(len(sample.input_ids) for sample in chosen)
        ids = torch.zeros((len(chosen), longest), dtype=torch.long)
        labels = torch.full_like(ids, -100)
        for row, sample in enumerate(chosen):
            ids[row, : len(sample.input_ids)] = torch.tensor(sample.input_ids)
            for place, weight in enumerate(sample.loss_weights):
                if weight:
                    labels[row, place] = sample.input_ids[place]
        logits = model(input_ids=ids, attention_mask=(ids != 0).long()).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * (1 - number / len(schedule.steps))
        optimizer.step()
        losses.append(loss.item())
    return model, losses


@pytest.mark.parametrize("micro_batch", [None, 2], ids=["whole batch", "accumulated"])
def test_a_finetune_is_adamw_on_the_mean_loss_of_each_steps_answer_tokens(
    world: Path, tmp_path: Path, micro_batch: int | None
) -> None:
    spec = finetune_spec(world, tmp_path / "run", recipes={"plain": {**RECIPE, "micro_batch": micro_batch}})
    expected, losses = plain_loop(world, spec)
    result = run_finetunes(spec, local=True)
    assert result.exit_error is None
    curve = curve_of(tmp_path / "run")
    assert [point.loss for point in curve] == pytest.approx(losses, rel=1e-5)
    assert [point.learning_rate for point in curve] == pytest.approx(
        [1e-3 * learning_rate_factor(spec.recipes["plain"], [0] * STEPS, step) for step in range(STEPS)]
    )
    trained = AutoModelForCausalLM.from_pretrained(result.runs["output"][0], dtype=torch.float32)
    for (name, ours), (_, theirs) in zip(trained.named_parameters(), expected.named_parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-5, msg=name)
    assert [point.samples_seen for point in curve] == [5, 10, 13, 18, 23, 26]
    assert [point.epoch for point in curve] == pytest.approx([5 / 13, 10 / 13, 1, 18 / 13, 23 / 13, 2])
    stage = result_of(tmp_path / "run")["stages"][0]
    assert (stage["steps"], stage["samples_seen"], stage["batch"]) == (STEPS, 26, 5)
    assert (stage["micro_batch"], stage["accumulation"]) == ((5, 1) if micro_batch is None else (2, 3))


class Killed(BaseException):
    """Stands for a kill -9: nothing catches it, nothing is cleaned up."""


@pytest.mark.parametrize(
    ("recipe", "kill_at"),
    [
        *(pytest.param(LORA, step, id=f"lora with dropout-{step}") for step in range(1, STEPS + 1)),
        *(
            pytest.param(RECIPE, step, id=f"full-{step}", marks=[] if step == 3 else pytest.mark.slow)
            for step in range(1, STEPS + 1)
        ),
    ],
)
def test_killed_at_any_step_and_run_again_the_weights_are_the_same_to_the_bit(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: dict[str, Any], kill_at: int
) -> None:
    steps: list[int] = []
    log = run_module._Attempt._log

    def logged(self: Any, index: int, told: Any) -> None:
        log(self, index, told)
        steps.append(told.step)
        if len(steps) == kill_at:
            raise Killed

    uninterrupted = finetune_spec(world, tmp_path / "whole", recipes={"plain": recipe})
    run_finetunes(uninterrupted, local=True)

    monkeypatch.setattr(run_module._Attempt, "_log", logged)
    spec = finetune_spec(world, tmp_path / "killed", recipes={"plain": recipe})
    with pytest.raises(Killed):
        run_finetunes(spec, local=True)
    assert not (tmp_path / "killed" / "models" / NAME / "receipt.json").exists()
    result = run_finetunes(spec, local=True)

    last_checkpoint = (kill_at - 1) // 2 * 2
    assert steps == [*range(1, kill_at + 1), *range(last_checkpoint + 1, STEPS + 1)]
    assert result.runs["status"].to_list() == ["finished"]
    whole, resumed = result_of(tmp_path / "whole"), result_of(tmp_path / "killed")
    assert resumed["weights_sha256"] == whole["weights_sha256"]
    assert resumed["resumed_from_steps"] == ([last_checkpoint] if last_checkpoint else [])
    assert curve_of(tmp_path / "killed") == curve_of(tmp_path / "whole")
    left = RunDirectory(str(tmp_path / "killed")).list(f"models/{NAME}")
    assert not [name for name in left if "checkpoint" in name or "progress" in name]


def test_a_finished_finetune_is_not_trained_again_and_a_new_seed_is(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    train = run_module._Attempt.train

    def counted(self: Any) -> Any:
        trained.append(self.task.id)
        return train(self)

    monkeypatch.setattr(run_module._Attempt, "train", counted)
    run_finetunes(finetune_spec(world, tmp_path / "run"), local=True)
    run_finetunes(finetune_spec(world, tmp_path / "run"), local=True)
    result = run_finetunes(finetune_spec(world, tmp_path / "run", seeds=[0, 1]), local=True)
    assert trained == [NAME, "tiny/rows/plain/none/seed-1"]
    assert result.runs["status"].to_list() == ["finished", "finished"]
    by_seed = [result_of(tmp_path / "run", f"tiny/rows/plain/none/seed-{seed}")["weights_sha256"] for seed in (0, 1)]
    assert by_seed[0] != by_seed[1]


def test_a_second_stage_trains_the_first_ones_output(world: Path, tmp_path: Path) -> None:
    """Continual learning in one run equals two runs, the second of which starts from the first one's model."""
    second = {"learning_rate": 5e-4, "epochs": 1, "batch": 4}
    chained = finetune_spec(world, tmp_path / "chained", then=[{"data": str(world / "data.jsonl"), "recipe": second}])
    run_finetunes(chained, local=True)
    first = run_finetunes(finetune_spec(world, tmp_path / "first"), local=True)
    apart = finetune_spec(
        world, tmp_path / "apart", models={"tiny": first.runs["output"][0]}, recipes={"plain": second}
    )
    run_finetunes(apart, local=True)
    result = result_of(tmp_path / "chained")
    assert result["weights_sha256"] == result_of(tmp_path / "apart")["weights_sha256"]
    assert [(stage["name"], stage["steps"]) for stage in result["stages"]] == [("first", 6), ("then 1", 4)]


def test_a_failed_finetune_is_reported_and_the_others_finish(world: Path, tmp_path: Path) -> None:
    recipes = {"plain": RECIPE, "exploding": {**RECIPE, "learning_rate": 1e30, "clip": None}}
    spec = finetune_spec(world, tmp_path / "run", recipes=recipes)
    result = run_finetunes(spec, local=True)
    assert dict(result.runs.select("recipe", "status").iter_rows()) == {"plain": "finished", "exploding": "failed"}
    assert result.exit_error is not None
    assert result.exit_error.exit_code == 4
    assert str(result.exit_error).startswith(
        "1 of 2 fine-tunes failed, the first of them tiny/rows/exploding/none/seed-0: the loss is nan at step"
    )


def test_rows_that_cannot_be_trained_on_are_counted_and_too_many_refused(world: Path, tmp_path: Path) -> None:
    data = tmp_path / "some_bad.jsonl"
    data.write_text(
        (world / "data.jsonl").read_text() + '{"instruction": "silent", "input": "", "output": ""}\nnot json\n'
    )
    strict = run_finetunes(finetune_spec(world, tmp_path / "strict", datasets={"rows": str(data)}), local=True)
    assert strict.runs["reason"][0].startswith(f"2 of 15 rows of {data} cannot be trained on ({data}:14 is empty")
    lenient = finetune_spec(
        world,
        tmp_path / "lenient",
        datasets={"rows": str(data)},
        run={"dir": str(tmp_path / "lenient"), "max_unusable_fraction": 0.2},
    )
    run_finetunes(lenient, local=True)
    result = result_of(tmp_path / "lenient")
    assert result["data"]["statuses"] == {"ok": 13, "empty_answer": 1, "malformed": 1}
    assert result["data"]["samples"] == 13
    assert "2 of 15 rows cannot be trained on and are left out" in result["warnings"]


def test_a_model_with_a_tied_head_is_not_sharded(world: Path, tmp_path: Path) -> None:
    spec = finetune_spec(world, tmp_path / "run", resources={"workers": 2, "sharding": "fsdp2"})
    with pytest.raises(PreflightError, match=r"^model tiny ties its output head to its embedding.*sharding to ddp$"):
        run_finetunes(spec)
