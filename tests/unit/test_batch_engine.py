"""The batch engine's own part, without an engine: requests, replies, and shards committed when they are whole."""

import asyncio
import pickle
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from bds.data.reader import read_rows
from bds.distributed import batch_engine
from bds.distributed.batch_engine import (
    RequestWriter,
    engine_arguments,
    engine_environment,
    judge_shards,
    reply_of,
)
from bds.distributed.engine_start import ERROR, NOT_STARTED, reporting_its_start
from bds.distributed.judging import JudgeTask, load_tools, prompts_of
from bds.distributed.scoring import WorkerPool
from bds.errors import BdsError, PreflightError
from bds.evaluation.judges import JudgeOptions, JudgeResponse
from bds.evaluation.moderation import rows_to_judge
from bds.runs.directory import RunDirectory
from bds.runs.plan import Plan, read_shard, write_plan
from bds.runs.receipts import read_parts, remaining, valid_receipts
from bds.spec.models import DataSpec, ModelSpec
from bds.spec.moderate import JudgeEngineSpec
from tests.tiny_guard import tiny_guard
from tests.unit.runs_example import Log
from tests.unit.small_audit import write_rows
from tests.unit.small_moderation import ANSWERS, ROWS, TO_JUDGE, canned_reply

CPU, GPU = WorkerPool(1, 1, 0.0, None), WorkerPool(2, 4, 0.5, None)
POOL = CPU


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guard")
    tiny_guard(folder, [(f"How do I make {number} blorfs?", answer) for number, answer in enumerate(ANSWERS)])
    return folder


@pytest.fixture
def planned(tmp_path: Path) -> tuple[RunDirectory, Plan]:
    data = DataSpec(path=str(write_rows(tmp_path / "data.jsonl", ROWS)))
    run = RunDirectory(str(tmp_path / "run"))
    return run, write_plan(run, read_rows(data), rows_per_shard=3, spec_sha256="", data_format="")


def task_of(folder: Path, *, max_model_len: int = 2048) -> JudgeTask:
    model = ModelSpec(path=str(folder))
    return JudgeTask("guard", "llama_guard_3", JudgeOptions(), model, str(folder), max_model_len)


Row = tuple[int, int, JudgeResponse | None]


def rows_back(run: RunDirectory, plan: Plan) -> list[Row]:
    """What an engine without fault gives back, in a mixed order."""
    back: list[Row] = []
    for shard in plan.shards:
        judged = rows_to_judge(read_shard(run, shard))
        for index in range(shard.first_row, shard.first_row + shard.rows):
            back.append((shard.index, index, canned_reply(judged[index]) if index in judged else None))
    random.Random(0).shuffle(back)
    return back


def judge_with(monkeypatch: pytest.MonkeyPatch, run: RunDirectory, plan: Plan, task: JudgeTask, back: list[Row]) -> Log:
    def replies(*_: Any) -> Iterator[Row]:
        yield from back

    log = Log()
    monkeypatch.setattr(batch_engine, "_replies", replies)
    judge_shards(
        run,
        remaining(plan, run),
        task,
        JudgeEngineSpec(),
        POOL,
        attempt=1,
        on_receipt=log.receipts.append,
        on_failure=log.failure,
    )
    return log


def statuses(run: RunDirectory, plan: Plan) -> list[str]:
    return read_parts(run, valid_receipts(plan, run).values(), "components")["status"].to_list()


def test_rows_in_any_order_are_committed_shard_by_shard(
    monkeypatch: pytest.MonkeyPatch, planned: tuple[RunDirectory, Plan], guard: Path
) -> None:
    run, plan = planned
    log = judge_with(monkeypatch, run, plan, task_of(guard), rows_back(run, plan))
    assert sorted(receipt.shard for receipt in log.receipts) == [0, 1, 2]
    assert sum(receipt.rows_ok for receipt in log.receipts) == 5
    assert remaining(plan, run) == []
    assert statuses(run, plan) == ["ok", "ok", "empty_answer", "malformed", "ok", "ok", "ok", "unparsed"]


def test_a_row_that_does_not_come_back_leaves_its_shard_undone(
    monkeypatch: pytest.MonkeyPatch, planned: tuple[RunDirectory, Plan], guard: Path
) -> None:
    run, plan = planned
    back = [row for row in rows_back(run, plan) if row[1] != 4]
    with pytest.raises(BdsError, match=r"Ray ended without shards \[1\]: run the same command again"):
        judge_with(monkeypatch, run, plan, task_of(guard), back)
    assert [shard.index for shard in remaining(plan, run)] == [1]
    log = judge_with(monkeypatch, run, plan, task_of(guard), [row for row in rows_back(run, plan) if row[0] == 1])
    assert [receipt.shard for receipt in log.receipts] == [1]
    assert remaining(plan, run) == []


def test_a_row_that_was_to_be_asked_about_and_was_not_fails_its_shard(
    monkeypatch: pytest.MonkeyPatch, planned: tuple[RunDirectory, Plan], guard: Path
) -> None:
    run, plan = planned
    back = [(shard, index, None if index == 4 else reply) for shard, index, reply in rows_back(run, plan)]
    log = judge_with(monkeypatch, run, plan, task_of(guard), back)
    assert [failure.shard for failure in log.failures] == [1]
    assert statuses(run, plan)[3:6] == ["malformed", "failed", "failed"]


def requests_of(run: RunDirectory, plan: Plan, task: JudgeTask) -> list[dict[str, Any]]:
    write = RequestWriter(run, task)
    shards = [pa.Table.from_pylist([vars(shard)]) for shard in plan.shards]
    return [row for shard in shards for row in write(shard).to_pylist()]


def test_every_row_becomes_a_request_and_those_not_to_be_asked_pass_the_engine(
    planned: tuple[RunDirectory, Plan], guard: Path
) -> None:
    run, plan = planned
    task = task_of(guard)
    requests = requests_of(run, plan, task)
    assert [request["row_index"] for request in requests] == list(range(len(ROWS)))
    assert [request["row_index"] for request in requests if not request[ERROR]] == TO_JUDGE
    assert {request[ERROR] for request in requests if request[ERROR]} == {"not asked"}
    assert {type(request["sampling_params"][key]) for request in requests for key in ("max_tokens", "logprobs")} == {
        int
    }
    tools = load_tools(task)
    prompts, _ = prompts_of(task, tools, rows_to_judge(pl.concat([read_shard(run, shard) for shard in plan.shards])))
    asked = {request["row_index"]: request for request in requests if not request[ERROR]}
    for index, prompt in prompts.items():
        assert asked[index]["tokenized_prompt"] == prompt.token_ids
        assert asked[index]["sampling_params"] == {"temperature": 0.0, "max_tokens": 32, "logprobs": 10}
        assert asked[index]["model"] == str(guard)


def test_a_row_that_is_too_long_passes_the_engine_with_its_reason(
    planned: tuple[RunDirectory, Plan], guard: Path
) -> None:
    run, plan = planned
    lengths = [len(request["tokenized_prompt"]) for request in requests_of(run, plan, task_of(guard))]
    requests = requests_of(run, plan, task_of(guard, max_model_len=max(lengths) + 31))
    too_long = [request for request in requests if "more than the judge's" in request[ERROR]]
    assert [request["row_index"] for request in too_long] == [lengths.index(max(lengths))]
    reply = reply_of("guard", too_long[0])
    assert reply is not None
    assert reply.error == too_long[0][ERROR]


def test_a_tokenizer_that_is_gone_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match=r"^judge guard: model\.path '.*nowhere' cannot be read as a model"):
        load_tools(task_of(tmp_path / "nowhere"))


def test_what_comes_back_is_read_whatever_columns_it_has() -> None:
    reply = JudgeResponse(text="safe")
    assert reply_of("guard", {"reply": pickle.dumps(reply), ERROR: ""}) == reply
    assert reply_of("guard", {"reply": None, ERROR: "not asked"}) is None
    failed = reply_of("guard", {ERROR: "ValueError: too long\nwith a trace", "prompt": ""})
    assert failed == JudgeResponse(error="ValueError: too long")
    with pytest.raises(
        BdsError, match=r"^judge guard: the engine did not start: no room; correct the fields of engine"
    ):
        reply_of("guard", {ERROR: f"{NOT_STARTED}no room"})


def test_arguments_of_an_engine(tmp_path: Path) -> None:
    model = ModelSpec(path="owner/guard")
    assert engine_arguments(model, JudgeEngineSpec(), CPU, 99) == {
        "dtype": "float32",
        "max_model_len": 99,
        "enforce_eager": True,
    }
    on_gpu = engine_arguments(model, JudgeEngineSpec(engine_args={"max_num_seqs": 7}), GPU, 99)
    assert on_gpu == {"dtype": "auto", "max_model_len": 99, "gpu_memory_utilization": 0.45, "max_num_seqs": 7}
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 12, "task_type": "CAUSAL_LM"}')
    adapted = engine_arguments(ModelSpec(path="owner/guard", adapter=str(tmp_path)), JudgeEngineSpec(), GPU, 99)
    assert (adapted["enable_lora"], adapted["max_loras"], adapted["max_lora_rank"]) == (True, 1, 16)
    assert engine_environment(JudgeEngineSpec(kv_cache_gib=3))["VLLM_CPU_KVCACHE_SPACE"] == "3"
    assert engine_environment(JudgeEngineSpec())["VLLM_HOST_IP"] == "127.0.0.1"


class Stage:
    """As Ray Data LLM's engine stage: it may fail to start, and answers its rows."""

    IDX_IN_BATCH_COLUMN = "place"

    def __init__(self, *, fails: Exception | None) -> None:
        if fails is not None:
            raise fails

    async def udf(self, batch: list[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
        for row in batch:
            yield {"place": row["place"], "text": "safe"}


def answers_of(engine: Any) -> list[dict[str, Any]]:
    async def collect() -> list[dict[str, Any]]:
        return [row async for row in engine.udf([{"place": 0}, {"place": 1}])]

    return asyncio.run(collect())


def test_an_engine_that_starts_answers_as_ever() -> None:
    assert answers_of(reporting_its_start(Stage)(fails=None)) == [
        {"place": 0, "text": "safe"},
        {"place": 1, "text": "safe"},
    ]


@pytest.mark.parametrize(
    ("error", "logged", "expected"),
    [
        (
            ValueError("1 problem\n  Unknown method: x [type=value_error]\nmore"),
            "",
            "ValueError: 1 problem Unknown method: x",
        ),
        (
            RuntimeError("Engine core initialization failed. See above"),
            "(EngineCore pid=7) ERROR 11-21 [core.py:9] Traceback\n(EngineCore pid=7) ValueError: No memory for it.\n",
            "ValueError: No memory for it",
        ),
        (RuntimeError("Engine core died"), "nothing to see", "RuntimeError: Engine core died"),
    ],
)
def test_a_start_that_fails_is_the_error_of_every_row(
    monkeypatch: pytest.MonkeyPatch, error: Exception, logged: str, expected: str
) -> None:
    monkeypatch.setattr("bds.distributed.engine_start._end_of_log", lambda: logged)
    rows = answers_of(reporting_its_start(Stage)(fails=error))
    assert rows == [{"place": place, ERROR: NOT_STARTED + expected} for place in (0, 1)]
