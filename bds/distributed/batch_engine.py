"""Judging with vLLM through Ray Data's batch engine: shards are read and written as requests by one actor, continued by
a fixed pool of engines, and committed here as soon as every row of a shard is back.

Every row of a shard goes through, those that are not asked about past the engine, so that rows are counted out as they
were counted in. Ray Data replaces an engine whose process died and asks its rows again.
"""

import functools
import logging
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data.exceptions import ExecutionTimeoutError

from bds.distributed.engine_start import ERROR, NOT_STARTED, reporting_its_start
from bds.distributed.judging import JudgeTask, JudgeTools, load_tools, model_judge, prompts_of, tables_of_replies
from bds.distributed.scoring import WorkerPool, data_context
from bds.errors import BdsError
from bds.evaluation.judge_prompts import JudgePrompt
from bds.evaluation.judge_replies import alternatives_of, finish_reason
from bds.evaluation.judges import JudgeResponse
from bds.evaluation.moderation import rows_to_judge
from bds.runs.directory import RunDirectory
from bds.runs.execute import ShardFailure, give_up, try_shard
from bds.runs.messages import first_line
from bds.runs.plan import Shard, read_shard
from bds.runs.receipts import Receipt
from bds.spec.models import ModelSpec
from bds.spec.moderate import JudgeEngineSpec

_ENGINE_STAGE = "vLLMEngineStage"
_ROWS_AT_A_TIME = 32
_MEMORY_SHARE = 0.9
"""Of a GPU, or of an engine's part of one."""
_LONGEST_ERROR = 200
_NOTHING = JudgePrompt([], 1, 0)
_NOT_ASKED = "not asked"
_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM takes."""


def judge_shards(
    run: RunDirectory,
    shards: Sequence[Shard],
    task: JudgeTask,
    engine: JudgeEngineSpec,
    pool: WorkerPool,
    *,
    attempt: int,
    on_receipt: Callable[[Receipt], None],
    on_failure: Callable[[ShardFailure], None],
) -> None:
    """Judges the shards with `pool.actors` engines on the connected Ray; every one ends with a receipt.

    Raises:
        BdsError: the engine cannot start, or Ray ended without some shards. Finished shards are kept.
    """
    waiting = {shard.index: shard for shard in shards}
    back: dict[int, dict[int, JudgeResponse | None]] = {shard.index: {} for shard in shards}
    for index, row_index, reply in _replies(run, shards, task, engine, pool):
        back[index][row_index] = reply
        shard = waiting[index]
        if len(back[index]) < shard.rows:
            continue
        replies = {row: reply for row, reply in back.pop(index).items() if reply is not None}
        outcome = try_shard(run, shard, functools.partial(tables_of_replies, task, replies), attempt, tries=1)
        if isinstance(outcome, ShardFailure):
            on_failure(outcome)
            outcome = give_up(run, shard, outcome, attempt)
        del waiting[index]
        on_receipt(outcome)
    if waiting:
        raise BdsError(f"Ray ended without shards {sorted(waiting)}: run the same command again to judge them")


def _replies(
    run: RunDirectory, shards: Sequence[Shard], task: JudgeTask, engine: JudgeEngineSpec, pool: WorkerPool
) -> Iterator[tuple[int, int, JudgeResponse | None]]:
    """Shard, row_index and reply of every row; None where there was nothing to ask."""
    tools = load_tools(task)
    with ray.data.DataContext.current(data_context(pool)):
        requests = ray.data.from_items(
            [asdict(shard) for shard in shards], override_num_blocks=len(shards)
        ).map_batches(
            RequestWriter,
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=1),
            fn_constructor_args=(run, task),
            # The engines take every CPU there is: what stands before and behind them must not wait for one.
            num_cpus=0,
        )
        processor = _processor(task, engine, pool, tools)
        answered = processor(requests)
    try:
        for row in answered.iter_rows():
            yield row["shard"], row["row_index"], reply_of(task.name, row)
    except ExecutionTimeoutError as error:
        raise BdsError(
            f"judge {task.name}: no row came back for hours, so an engine dies over some row or the cluster has lost "
            "what it needs: check it and run the same command again; finished shards are kept"
        ) from error
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        raise BdsError(
            f"judge {task.name}: Ray stopped the judging ({first_line(cause)}): run the same command again; finished "
            "shards are kept"
        ) from error


def reply_of(name: str, row: Mapping[str, Any]) -> JudgeResponse | None:
    """What came back of one row. One that failed comes back as it was sent, without what `_judged` adds.

    Raises BdsError where no engine started.
    """
    error = row.get(ERROR) or ""
    if error == _NOT_ASKED:
        return None
    if error.startswith(NOT_STARTED):
        raise BdsError(
            f"judge {name}: {error}; correct the fields of engine in the spec, or set engine.name to transformers"
        )
    if error:
        return JudgeResponse(error=error.splitlines()[0][:_LONGEST_ERROR])
    reply: JudgeResponse = pickle.loads(row["reply"])
    return reply


class RequestWriter:
    """An actor that turns a shard into requests to the engine, one row each."""

    def __init__(self, run: RunDirectory, task: JudgeTask) -> None:
        self._run = run
        self._task = task
        self._tools = load_tools(task)

    def __call__(self, batch: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([row for fields in batch.to_pylist() for row in self._requests(Shard(**fields))])

    def _requests(self, shard: Shard) -> Iterator[dict[str, Any]]:
        rows = rows_to_judge(read_shard(self._run, shard))
        prompts, replies = prompts_of(self._task, self._tools, rows)
        _, model = model_judge(self._task)
        for index in range(shard.first_row, shard.first_row + shard.rows):
            prompt = prompts.get(index, _NOTHING)
            skipped = replies[index].error if index in replies else _NOT_ASKED
            yield {
                "shard": shard.index,
                "row_index": index,
                "tokenized_prompt": prompt.token_ids,
                "max_tokens": prompt.max_tokens,
                # Whole numbers in every row: a null turns the others into fractions, over which vLLM's engine stops
                # reading requests without a word.
                "sampling_params": {"temperature": 0.0, "max_tokens": prompt.max_tokens, "logprobs": prompt.logprobs},
                # Another name than the engine's own is that of an adapter.
                "model": model.adapter or model.path,
                ERROR: "" if index in prompts else skipped,
            }


def _processor(
    task: JudgeTask, engine: JudgeEngineSpec, pool: WorkerPool, tools: JudgeTools
) -> Callable[[ray.data.Dataset], ray.data.Dataset]:
    _, model = model_judge(task)
    between = {"num_cpus": 0, "compute": ray.data.TaskPoolStrategy(size=1)}
    with _quiet():
        from ray.data.llm import build_processor, vLLMEngineProcessorConfig

        config = vLLMEngineProcessorConfig(
            model_source=model.path,
            engine_kwargs=engine_arguments(model, engine, pool, tools.window),
            batch_size=_ROWS_AT_A_TIME,
            concurrency=(pool.actors, pool.actors),
            runtime_env={"env_vars": engine_environment(engine)},
            placement_group_config={"bundles": [{"CPU": pool.cpus, "GPU": pool.gpus}]},
            should_continue_on_error=True,
            log_engine_metrics=False,
            chat_template_stage=False,
            tokenize_stage=False,
            detokenize_stage=False,
        )
        processor = build_processor(
            config,
            postprocess=functools.partial(_judged, tools.stops),
            preprocess_map_kwargs=between,
            postprocess_map_kwargs=between,
        )
    stage = processor.get_stage_by_name(_ENGINE_STAGE)
    # A copy: to set a field of the stage would read its resources a second time, and wrongly.
    processor.stages[_ENGINE_STAGE] = stage.model_copy(update={"fn": reporting_its_start(stage.fn)})
    run: Callable[[ray.data.Dataset], ray.data.Dataset] = processor
    return run


def _judged(stops: frozenset[int], row: Mapping[str, Any]) -> dict[str, Any]:
    """A row that the engine answered, as its place and the reply."""
    tokens = [int(token) for token in row["generated_tokens"]]
    steps = row["logprobs"] or []
    reply = JudgeResponse(
        text=row["generated_text"],
        finish_reason=finish_reason(tokens, int(row["max_tokens"]), stops),
        alternatives=tuple(
            alternatives_of((entry["decoded_token"], entry["logprob"]) for entry in step.values()) for step in steps
        ),
    )
    return {"shard": row["shard"], "row_index": row["row_index"], "reply": pickle.dumps(reply)}


def engine_arguments(model: ModelSpec, engine: JudgeEngineSpec, pool: WorkerPool, window: int) -> dict[str, Any]:
    """Arguments of vLLM's engine. Those of `engine.engine_args` come last.

    Args:
        window: tokens of a prompt and its reply together.
    """
    arguments: dict[str, Any] = {"dtype": engine.dtype, "max_model_len": window}
    if pool.gpus:
        arguments["gpu_memory_utilization"] = _MEMORY_SHARE * min(1.0, pool.gpus)
    else:
        # Without a GPU vLLM would compile the model first, which takes longer than most datasets.
        arguments["enforce_eager"] = True
        if engine.dtype == "auto":
            arguments["dtype"] = "float32"
    if model.adapter is not None:
        from peft import PeftConfig

        rank = PeftConfig.from_pretrained(model.adapter).r
        arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": min(r for r in _LORA_RANKS if r >= rank)}
    return arguments | engine.engine_args


def engine_environment(engine: JudgeEngineSpec) -> dict[str, str]:
    """Variables of an engine's process: on the loopback interface only, and no reports of use."""
    return {
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": str(engine.kv_cache_gib),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray Data LLM and vLLM log to the terminal what they are about to do."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
