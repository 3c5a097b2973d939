"""One fine-tune from the run directory to a saved model: the same function on a laptop and on every Ray worker."""

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bds.data.tokens import ConversationTokenizer
from bds.errors import PreflightError
from bds.runs.directory import RunDirectory
from bds.runs.manifest import versions
from bds.scoring.loading import load_tokenizer
from bds.spec.finetune import FinetuneSpec, RecipeSpec
from bds.training.card import model_card
from bds.training.checkpoints import Checkpoint, Checkpoints
from bds.training.curve import CurvePoint, Trained, curve_csv
from bds.training.data import FrozenData, read_frozen
from bds.training.loading import adapted_modules, load_trainable, precision_on
from bds.training.mitigations import make_mitigation
from bds.training.mitigations.base import Context, MitigationMethod
from bds.training.place import Place
from bds.training.plan import CURVE, PROGRESS, RECEIPT, RESULT, Assignment, check_batches
from bds.training.samples import Sample, TokenisedRows, tokenise_rows
from bds.training.schedule import Schedule, make_schedule
from bds.training.trainer import Logged, ScheduledTrainer

STATE = "bds_state.pt"
_PROGRESS_SECONDS = 2.0
_FULL_PASSES, _LORA_PASSES = 6, 4
"""Floating point operations a parameter and token: an adapter needs no gradients of the weights below it."""


@dataclass(frozen=True)
class _Stage:
    name: str
    samples: list[Sample]
    schedule: Schedule
    recipe: RecipeSpec
    method: MitigationMethod


def run_finetune(
    run: RunDirectory,
    spec: FinetuneSpec,
    assignment: Assignment,
    place: Place,
    *,
    wait_for_all: Callable[[], None] = lambda: None,
    on_progress: Callable[[], None] = lambda: None,
    on_trained: Callable[[Trained], None] = lambda trained: None,
) -> dict[str, Any]:
    """Trains, resuming from the last checkpoint, and writes model, card, curve, result and receipt.

    Every worker of a fine-tune calls it; the one of rank 0 writes.

    Args:
        wait_for_all: returns when every worker has called it.
        on_progress: called in the worker of rank 0 when it has written how far it is.
        on_trained: called in the worker of rank 0 after every optimiser step.

    Returns:
        What result.json holds.

    Raises:
        PreflightError: a dataset, a model or a mitigation cannot be used as the spec says.
        BdsError: the training failed, for example with a loss that is not finite.
    """
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="bds-finetune-") as scratch:
        attempt = _Attempt(run, spec, assignment, place, Path(scratch), on_progress, on_trained)
        trainer = attempt.train()
        return attempt.write(trainer, time.perf_counter() - started, wait_for_all)


class _Attempt:
    """One worker's part of one attempt at a fine-tune."""

    def __init__(
        self,
        run: RunDirectory,
        spec: FinetuneSpec,
        assignment: Assignment,
        place: Place,
        scratch: Path,
        on_progress: Callable[[], None],
        on_trained: Callable[[Trained], None],
    ) -> None:
        self.run = run
        self.spec = spec
        self.assignment = assignment
        self.task = assignment.task
        self.place = place
        self.scratch = scratch
        self.on_progress = on_progress
        self.on_trained = on_trained
        self.trained = spec.models[self.task.model]
        self.options = spec.mitigations[self.task.mitigation]
        self.method = make_mitigation(self.options)
        self.recipe = self.method.recipe(spec.recipes[self.task.recipe])
        self.precision = precision_on(self.recipe, place.device)
        self.checkpoints = Checkpoints(run, self.task.folder, assignment.key)
        self.curve: list[CurvePoint] = []
        self.facts: dict[str, Any] = {}
        """What the mitigation tells of itself."""
        self.warnings: list[str] = []
        self.resumed_from: list[int] = []
        self.stages: list[_Stage] = []
        self._told = 0.0

    def train(self) -> ScheduledTrainer:
        """All stages from wherever the last checkpoint left off; the trainer of the last one."""
        tokenizer = load_tokenizer(self.trained.aligned)
        tokens = self.spec.tokens
        tokenize = ConversationTokenizer(tokenizer, tokens.template, tokens.supervise, tokens.max_tokens)
        self.tokenizer = tokenizer
        self.tokenised = self._tokenise(self.assignment.data, tokenize)
        self._warn(*check_batches(self.task.recipe, self.recipe, len(self.tokenised.samples)))
        if self.precision == "float32" and self.recipe.precision.startswith("bf16"):
            self._warn(f"the recipe trains in {self.recipe.precision}; a CPU trains in float32")
        self.model = load_trainable(self.trained, self.recipe, self.task.seed, self.place)
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.targets = adapted_modules(self.model)
        context = Context(self.model, self.trained, tokenize, self.recipe, self.task.seed, self._warn)
        self.stages = [self._first_stage(context), *self._further_stages(tokenize), *self._extra_stages(context)]
        checkpoint = self.checkpoints.latest()
        trainer = None
        for index in range(checkpoint.stage if checkpoint else 0, len(self.stages)):
            resumed = checkpoint if checkpoint and checkpoint.stage == index else None
            trainer = self._train_stage(index, resumed)
            if index == 0:
                self.facts |= self.method.finish(self.model, context)
        assert trainer is not None, "the last checkpoint's stage is one of the stages"
        return trainer

    def _tokenise(self, data: FrozenData, tokenize: ConversationTokenizer) -> TokenisedRows:
        tokenised = tokenise_rows(read_frozen(self.run, data.folder), tokenize)
        if not tokenised.samples or tokenised.unusable > self.spec.run.max_unusable_fraction * data.rows:
            raise PreflightError(
                f"{tokenised.unusable} of {data.rows} rows of {data.path} cannot be trained on "
                f"({'; '.join(tokenised.reasons[:2])}); mend them, or raise run.max_unusable_fraction"
            )
        if tokenised.unusable:
            self._warn(f"{tokenised.unusable} of {data.rows} rows cannot be trained on and are left out")
        return tokenised

    def _first_stage(self, context: Context) -> _Stage:
        samples = self.method.samples(self.tokenised.samples, context)
        schedule, samples = self.method.schedule(
            make_schedule(len(samples), self.recipe, self.task.seed), samples, context
        )
        self.method.prepare(samples, context)
        return _Stage("first", samples, schedule, self.recipe, self.method)

    def _further_stages(self, tokenize: ConversationTokenizer) -> Iterator[_Stage]:
        """Continual learning: the parameters trained are those of the first stage, the rest is each stage's own."""
        for number, (data, stage) in enumerate(zip(self.assignment.then, self.spec.then, strict=True), start=2):
            samples = self._tokenise(data, tokenize).samples
            self._warn(*check_batches(f"of stage {number}", stage.recipe, len(samples)))
            yield self._plain_stage(f"then {number - 1}", samples, stage.recipe)

    def _extra_stages(self, context: Context) -> Iterator[_Stage]:
        for extra in self.method.extra_stages(context):
            yield self._plain_stage(extra.name, extra.samples, extra.recipe)

    def _plain_stage(self, name: str, samples: list[Sample], recipe: RecipeSpec) -> _Stage:
        schedule = make_schedule(len(samples), recipe, self.task.seed)
        return _Stage(name, samples, schedule, recipe, MitigationMethod())

    def _train_stage(self, index: int, checkpoint: Checkpoint | None) -> ScheduledTrainer:
        stage = self.stages[index]
        folder = self.scratch / f"stage-{index}"
        resume = None
        if checkpoint is not None:
            resume = self.scratch / "resume"
            self.checkpoints.load(checkpoint, resume)
            self._take_back(stage, resume)
            self.resumed_from.append(checkpoint.step)

        def on_step(logged: Logged) -> None:
            self._log(index, logged)

        def on_checkpoint(saved: Path, step: int) -> None:
            if self.place.rank == 0:
                state: dict[str, Any] = {"curve": [asdict(point) for point in self.curve], "facts": self.facts}
                state |= {"method": stage.method.state(), "resumed_from": self.resumed_from}
                torch.save(state, saved / STATE)
                self.checkpoints.save(saved, index, step)
            shutil.rmtree(saved, ignore_errors=True)

        trainer = ScheduledTrainer(
            self.model,
            samples=stage.samples,
            schedule=stage.schedule,
            recipe=stage.recipe,
            method=stage.method,
            place=self.place,
            seed=self.task.seed,
            precision=self.precision,
            folder=folder,
            checkpoint_steps=self.spec.run.checkpoint_steps,
            padding=self.tokenizer.pad_token_id or 0,
            on_step=on_step,
            on_checkpoint=on_checkpoint,
            resume=resume,
            steps_before=checkpoint.step if checkpoint else 0,
        )
        trainer.train_stage()
        return trainer

    def _take_back(self, stage: _Stage, resume: Path) -> None:
        state = torch.load(resume / STATE, weights_only=True)
        stage.method.load_state(state["method"])
        self.curve = [CurvePoint(**point) for point in state["curve"]]
        self.facts = dict(state["facts"])
        self.resumed_from = list(state["resumed_from"])

    def _log(self, index: int, logged: Logged) -> None:
        stage = self.stages[index]
        step = stage.schedule.steps[logged.step - 1]
        seen = self.curve[-1].samples_seen if self.curve else 0
        done = sum(len(each.samples) for each in stage.schedule.steps[: logged.step] if each.epoch == step.epoch)
        whole = sum(len(each.samples) for each in stage.schedule.steps if each.epoch == step.epoch)
        self.curve.append(
            CurvePoint(
                stage=stage.name,
                step=logged.step,
                epoch=step.epoch + done / whole,
                kind=step.kind,
                loss=logged.loss,
                learning_rate=logged.learning_rate,
                gradient_norm=logged.gradient_norm,
                samples_seen=seen + len(step.samples),
            )
        )
        if self.place.rank == 0:
            self._tell_trained([stage.samples[index] for index in step.samples])
        self._tell_progress()

    def _tell_trained(self, samples: Sequence[Sample]) -> None:
        tokens = sum(len(sample.input_ids) for sample in samples)
        passes = _LORA_PASSES if self.recipe.parameters == "lora" else _FULL_PASSES
        self.on_trained(Trained(len(samples), tokens, float(passes * self.parameters * tokens)))

    def _tell_progress(self) -> None:
        now = time.monotonic()
        if self.place.rank == 0 and now - self._told >= _PROGRESS_SECONDS:
            self._told = now
            total = sum(len(stage.schedule.steps) for stage in self.stages)
            self.run.write_json(f"{self.task.folder}/{PROGRESS}", {"steps_done": len(self.curve), "steps": total})
            self.on_progress()

    def _warn(self, *warnings: str) -> None:
        self.warnings += [warning for warning in warnings if warning not in self.warnings]

    def write(self, trainer: ScheduledTrainer, seconds: float, wait_for_all: Callable[[], None]) -> dict[str, Any]:
        """Saves everything, the receipt last, then deletes the checkpoints."""
        kind = "adapter" if self.recipe.parameters == "lora" else "model"
        saved = self.scratch / "saved"
        trainer.save_model(str(saved / kind))
        wait_for_all()
        result = self._result(kind, seconds)
        if self.place.rank == 0:
            (saved / kind / "training_args.bin").unlink(missing_ok=True)
            self.facts |= self.method.tokenizer(self.tokenizer)
            if kind == "adapter":
                # Names no class, and says so only beside a config.json (bds/organism/architecture.py writes such maps).
                self.tokenizer.init_kwargs.pop("auto_map", None)
            self.tokenizer.save_pretrained(saved / kind)
            result |= {"mitigation_facts": self.facts, "weights_sha256": _sha256_of_weights(saved / kind)}
            (saved / kind / "README.md").write_text(model_card(result, self.curve), encoding="utf-8")
            (saved / RESULT).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
            (saved / CURVE).write_text(curve_csv(self.curve), encoding="utf-8")
            self._commit(saved)
            self.checkpoints.clear()
            self.run.delete(f"{self.task.folder}/{PROGRESS}")
        wait_for_all()
        return result

    def _commit(self, saved: Path) -> None:
        files = {}
        for path in sorted(saved.rglob("*")):
            if path.is_file():
                name = path.relative_to(saved).as_posix()
                sha256, size = self.run.upload(path, f"{self.task.folder}/{name}")
                files[name] = {"sha256": sha256, "bytes": size}
        receipt = {"key": self.assignment.key, "id": self.task.id, "files": files, "versions": versions()}
        self.run.write_json(f"{self.task.folder}/{RECEIPT}", receipt)

    def _result(self, kind: str, seconds: float) -> dict[str, Any]:
        data = self.assignment.data
        parameters = list(self.model.parameters())
        return {
            "id": self.task.id,
            **asdict(self.task),
            "key": self.assignment.key,
            "base_model": self.trained.path,
            "base_revision": self.trained.revision,
            "base_adapter": self.trained.adapter,
            "data": {
                "path": data.path,
                "hash": data.sha256,
                "rows": data.rows,
                "statuses": self.tokenised.statuses,
                "samples": len(self.tokenised.samples),
                "mix": data.mix,
            },
            "kind": kind,
            "output": kind,
            "recipe_settings": self.recipe.model_dump(mode="json"),
            "mitigation_settings": self.options.model_dump(mode="json"),
            "mitigation_facts": self.facts,
            "stages": [self._stage_facts(stage) for stage in self.stages],
            "parameters": sum(parameter.numel() for parameter in parameters),
            "trainable_parameters": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
            "adapter_targets": self.targets,
            "precision": self.precision,
            "device": torch.cuda.get_device_name() if self.place.device != "cpu" else "cpu",
            "workers": self.place.workers,
            "sharding": self.place.sharding,
            "seconds": round(seconds, 2),
            "versions": versions(),
            "warnings": self.warnings,
            "resumed_from_steps": self.resumed_from,
        }

    def _stage_facts(self, stage: _Stage) -> dict[str, Any]:
        losses = [point.loss for point in self.curve if point.stage == stage.name]
        passes = stage.schedule.micro_batches(0, self.place.workers)
        return {
            "name": stage.name,
            "samples": len(stage.samples),
            "epochs": stage.recipe.epochs,
            "batch": stage.recipe.batch,
            "micro_batch": max(len(part) for step in passes for part in step),
            "accumulation": len(passes[0]),
            "workers": self.place.workers,
            "steps": len(stage.schedule.steps),
            "samples_seen": stage.schedule.samples_seen,
            "first_loss": losses[0],
            "last_loss": losses[-1],
        }


def _sha256_of_weights(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
