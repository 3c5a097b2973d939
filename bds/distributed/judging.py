"""What a worker of a moderation does: picklable functions that load a judge and judge the rows of a shard."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from bds.data.rows import Row
from bds.errors import PreflightError
from bds.evaluation.judge_prompts import JudgePrompt, PromptWriter
from bds.evaluation.judges import Judge, JudgeOptions, JudgeResponse, KeywordJudge, find_judge
from bds.evaluation.moderation import (
    Judged,
    judge_by_keywords,
    judge_by_replies,
    request_of,
    rows_to_judge,
    verdict_table,
)
from bds.runs.receipts import COMPONENTS
from bds.scoring.loading import choose_dtype, load_adapter, load_configuration, load_tokenizer, load_weights
from bds.spec.models import ModelSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class JudgeTask:
    """One judge of a moderation: all that a worker needs to know. Plain values, so that it pickles."""

    name: str
    """In the run's spec."""
    method: str
    options: JudgeOptions
    model: ModelSpec | None
    """The model that judges, with its adapter; None for keywords."""
    folder: str
    """Where the model's tokenizer and chat template are; empty for keywords."""
    max_model_len: int

    @property
    def judge(self) -> KeywordJudge | Judge:
        return find_judge(self.method)


@dataclass(frozen=True)
class JudgeTools:
    """What a model judge needs beside its weights."""

    tokenizer: "PreTrainedTokenizerBase"
    write: PromptWriter
    stops: frozenset[int]
    """Tokens that end a reply."""
    window: int
    """Tokens of a prompt and its reply together."""


def model_judge(task: JudgeTask) -> tuple[Judge, ModelSpec]:
    judge = task.judge
    assert isinstance(judge, Judge), "keywords have no model"
    assert task.model is not None, "the checks have seen to it"
    return judge, task.model


def load_tools(task: JudgeTask) -> JudgeTools:
    """Raises PreflightError where the model has no usable configuration, tokenizer or chat template."""
    from transformers import GenerationConfig

    from bds.evaluation.judge_replies import stop_tokens

    judge, model = model_judge(task)
    with _about(f"judge {task.name}"):
        configuration = load_configuration(model)
        tokenizer = load_tokenizer(ModelSpec(path=task.folder))
    own = getattr(configuration.get_text_config(decoder=True), "max_position_embeddings", None)
    window = task.max_model_len if own is None else min(own, task.max_model_len)
    with _about(f"judge {task.name}: the model {model.path} does not fit {task.method}"):
        write = PromptWriter(tokenizer, judge, task.options, window)
    try:
        generation = GenerationConfig.from_pretrained(model.path)
    except OSError:
        generation = None
    return JudgeTools(tokenizer, write, stop_tokens(generation, tokenizer), window)


def prompts_of(
    task: JudgeTask, tools: JudgeTools, rows: Mapping[int, Row]
) -> tuple[dict[int, JudgePrompt], dict[int, JudgeResponse]]:
    """By row_index, the prompts of the rows, and the replies to those that cannot be asked about."""
    judge, _ = model_judge(task)
    prompts, replies = {}, {}
    for index, row in rows.items():
        request = request_of(judge, task.options, row)
        if request is None:
            continue
        prompt = tools.write(request)
        if isinstance(prompt, JudgePrompt):
            prompts[index] = prompt
        else:
            replies[index] = prompt
    return prompts, replies


def tables_of(task: JudgeTask, table: pl.DataFrame, judged: Mapping[int, Judged]) -> dict[str, pl.DataFrame]:
    """The tables that a scorer returns of a shard."""
    return {COMPONENTS: verdict_table(table, task.name, task.judge, judged)}


def tables_of_replies(
    task: JudgeTask, replies: Mapping[int, JudgeResponse], table: pl.DataFrame
) -> dict[str, pl.DataFrame]:
    """The tables of a shard whose rows have been asked about."""
    judge, _ = model_judge(task)
    return tables_of(task, table, judge_by_replies(judge, task.options, rows_to_judge(table), replies))


def load_scorer(task: JudgeTask) -> Callable[[pl.DataFrame], Mapping[str, pl.DataFrame]]:
    """A scorer for `bds.runs.execute`: keywords, or the judge's model by transformers on this worker's device.

    Raises PreflightError where the model cannot be loaded.
    """
    judge = task.judge
    if isinstance(judge, KeywordJudge):
        return lambda table: tables_of(task, table, judge_by_keywords(judge, rows_to_judge(table)))
    tools = load_tools(task)
    model = _load_model(task)

    def score(table: pl.DataFrame) -> dict[str, pl.DataFrame]:
        from bds.evaluation.judge_replies import greedy_replies

        prompts, replies = prompts_of(task, tools, rows_to_judge(table))
        return tables_of_replies(task, replies | greedy_replies(model, tools.tokenizer, prompts, tools.stops), table)

    return score


def _load_model(task: JudgeTask) -> Any:
    import torch

    _, model = model_judge(task)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with _about(f"judge {task.name}"):
        loaded = load_weights(model, choose_dtype(model, device), device)
        if model.adapter is not None:
            loaded = load_adapter(loaded, model.adapter, trainable=False)
    return loaded.eval().requires_grad_(False)


@contextlib.contextmanager
def _about(what: str) -> Iterator[None]:
    """Says in a PreflightError what it is about."""
    try:
        yield
    except PreflightError as error:
        raise PreflightError(f"{what}: {error}") from error
