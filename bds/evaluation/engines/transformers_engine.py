"""A transformers model that answers to several names: weights are switched, adapters are attached by PEFT."""

import asyncio
import contextlib
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bds.errors import PreflightError
from bds.evaluation.engines.plan import EnginePlan, ServedModel
from bds.evaluation.engines.turns import Turns
from bds.runs.messages import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from bds.evaluation.engines.sampling import Answer, Rules, Step

_LARGEST_BATCH = 32
_GATHER_SECONDS = 0.005
"""Requests that arrive together share a batch."""


@dataclass(eq=False)
class _Job:
    model: ServedModel
    prompt: Sequence[int]
    rules: "Rules"
    echo: bool
    done: "asyncio.Future[tuple[Answer, list[Step]]]"


class TransformersEngine:
    """Loads the plan's first model at once, and others when they are asked for.

    Raises PreflightError where a model or an adapter cannot be loaded.
    """

    def __init__(self, plan: EnginePlan) -> None:
        import torch

        settings = plan.settings
        self.plan = plan
        self._device = "cuda" if torch.cuda.is_available() and settings.gpus_per_replica != 0 else "cpu"
        dtype = settings.dtype if settings.dtype != "auto" else "float32" if self._device == "cpu" else "bfloat16"
        self._dtype = getattr(torch, dtype)
        self._tokenizers = {model.name: _tokenizer(model) for model in plan.models}
        self._ends = {model.name: _ends(model, self._tokenizers[model.name]) for model in plan.models}
        self._model = self._load(plan.models[0].weights)
        self._turns = Turns(plan.models[0].weights, self._switch)
        self._waiting: list[_Job] = []
        self._working: asyncio.Task[None] | None = None
        positions = getattr(self._model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        lengths = [length for length in (positions, settings.max_model_len) if length is not None]
        self.context: int | None = min(lengths) if lengths else None
        """Tokens of prompt and answer together; None where the model sets no limit."""

    def tokenizer(self, model: ServedModel) -> "PreTrainedTokenizerBase":
        return self._tokenizers[model.name]

    def ends(self, model: ServedModel) -> frozenset[int]:
        """The tokens that end an answer: the checkpoint's and the tokenizer's own, as in vLLM."""
        return self._ends[model.name]

    async def answer(
        self, model: ServedModel, prompt: Sequence[int], rules: "Rules", *, echo: bool
    ) -> "tuple[Answer, list[Step]]":
        """The continuation of a prompt and, where `echo`, what was found likely at its own places but the first."""
        async with self._turns.turn(model.weights, None):
            job = _Job(model, prompt, rules, echo, asyncio.get_running_loop().create_future())
            self._waiting.append(job)
            if self._working is None or self._working.done():
                self._working = asyncio.create_task(self._work())
            return await job.done

    async def _work(self) -> None:
        """Batch after batch until nobody waits."""
        while self._waiting:
            await asyncio.sleep(_GATHER_SECONDS)
            batch = self._next_batch()
            if not batch:
                continue
            try:
                results = await asyncio.to_thread(self._compute, batch)
            except Exception as error:
                for job in batch:
                    if not job.done.done():
                        job.done.set_exception(error)
                continue
            for job, result in zip(batch, results, strict=True):
                if not job.done.done():
                    job.done.set_result(result)

    def _next_batch(self) -> list[_Job]:
        """Those that can be computed with the first one; jobs that nobody waits for any more are dropped."""
        self._waiting = [job for job in self._waiting if not job.done.done()]
        groups: dict[tuple[str | None, int, bool], list[_Job]] = defaultdict(list)
        for job in self._waiting:
            groups[job.model.adapter, len(job.prompt), job.echo].append(job)
        batch = next(iter(groups.values()), [])[:_LARGEST_BATCH]
        self._waiting = [job for job in self._waiting if job not in batch]
        return batch

    def _compute(self, batch: Sequence[_Job]) -> "list[tuple[Answer, list[Step]]]":
        from bds.evaluation.engines.sampling import continue_batch, steps_of_prompts

        prompts = [job.prompt for job in batch]
        told: list[list[Step]] = [[] for _ in batch]
        with self._adapted(batch[0].model) as model:
            if batch[0].echo:
                told = steps_of_prompts(model, prompts, max(job.rules.alternatives or 0 for job in batch))
            answers = continue_batch(model, prompts, [job.rules for job in batch])
        return list(zip(answers, told, strict=True))

    @contextlib.contextmanager
    def _adapted(self, served: ServedModel) -> Iterator[Any]:
        """The loaded model, with the adapter of the served one or with none."""
        if not any(other.weights == served.weights for other in self.plan.adapters):
            yield self._model
        elif served.adapter is None:
            with self._model.disable_adapter():
                yield self._model
        else:
            self._model.set_adapter(_peft_name(served))
            yield self._model

    async def _switch(self, weights: tuple[str, str | None]) -> None:
        self._model = None
        self._model = await asyncio.to_thread(self._load, weights)

    def _load(self, weights: tuple[str, str | None]) -> Any:
        """The model with every adapter that stands on it."""
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        path, revision = weights
        try:
            model = AutoModelForCausalLM.from_pretrained(path, revision=revision, dtype=self._dtype).to(self._device)
        except Exception as error:  # damaged files, a missing hub and too little memory are a dozen kinds of errors
            raise PreflightError(f"the model {path} cannot be loaded: {first_line(error)}") from error
        for served in self.plan.adapters:
            if served.weights == weights:
                model = _with_adapter(model, served)
        return model.eval()


def _with_adapter(model: Any, served: ServedModel) -> Any:
    from peft import PeftModel

    try:
        if isinstance(model, PeftModel):
            model.load_adapter(served.adapter, _peft_name(served))
            return model
        return PeftModel.from_pretrained(model, served.adapter, _peft_name(served))
    except Exception as error:  # of PEFT's, torch's or the file system's own
        raise PreflightError(f"the adapter {served.adapter} does not fit its model: {first_line(error)}") from error


def _peft_name(served: ServedModel) -> str:
    """PEFT makes it a name of modules, which has no dots."""
    return hashlib.sha256(str(served.adapter).encode()).hexdigest()


def _ends(model: ServedModel, tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    """Read from the model's files: other weights may be in memory when a request comes."""
    from transformers import AutoConfig, GenerationConfig

    try:
        checkpoint = GenerationConfig.from_pretrained(model.path, revision=model.revision).eos_token_id
    except OSError:  # a model without a generation_config.json
        configuration = AutoConfig.from_pretrained(model.path, revision=model.revision)
        checkpoint = GenerationConfig.from_model_config(configuration).eos_token_id
    ends = {tokenizer.eos_token_id}
    ends |= set(checkpoint) if isinstance(checkpoint, list) else {checkpoint}
    return frozenset(ends - {None})


def _tokenizer(model: ServedModel) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    revision = model.revision if model.folder == model.path else None
    try:
        return AutoTokenizer.from_pretrained(model.folder, revision=revision)
    except Exception as error:  # as with models
        raise PreflightError(f"{model.folder} has no usable tokenizer: {first_line(error)}") from error
