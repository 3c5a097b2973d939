"""Times bds answering through Ray Serve against vLLM's own offline `generate`: same model, prompts, engine, in one run.

    python benchmarks/serving_throughput.py [--prompts 330] [--tokens 208] [--threads 1] [--out FILE.json]

The baseline is `vllm.LLM(...).generate` over all rendered prompts at once, in a process of its own, timed from the call
to its return. bds is timed from the first request to the last row on disk, by the product's own path: prompts rendered
by the model's template, HTTP, Ray Serve, the engine, one row an answer. Both engines have the same settings and number
of threads and start before their clock does; what starting takes is told beside it. The model is a random Llama of the
size given, large enough that a job takes the offline engine a minute or more. With as many threads as cores the server,
its client and Ray share cores with the engine; --threads says how many it has.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tiny_model import RESULTS, write_record

from bds.distributed.engines import open_engines
from bds.distributed.identity import identified
from bds.evaluation.answers import ask_all, questions, request_of
from bds.evaluation.conditions import conditions_of
from bds.evaluation.engines.plan import EngineSettings, ServedModel, engine_plans
from bds.evaluation.engines.vllm_arguments import engine_arguments
from bds.evaluation.private import open_private, row_log
from bds.evaluation.prompting import Renderer
from bds.evaluation.suites.asked import suites_asked
from bds.organism.architecture import new_model, save_model, small_config
from bds.organism.tokenizer import make_tokenizer
from bds.organism.world import make_world
from bds.runs.directory import RunDirectory
from bds.spec.evaluate import EvaluateSpec

CONTEXT = 1024
IN_FLIGHT = 64
ENGINE_ARGUMENTS = (
    *("model", "dtype", "max_model_len", "max_num_seqs", "seed", "generation_config"),
    *("enforce_eager", "kv_cache_memory_bytes", "disable_log_stats"),
)
"""What the served engine is given that decides how it computes; the offline one gets the same."""

_OFFLINE = """
import json, sys, time
from vllm import LLM, SamplingParams, TokensPrompt
asked = json.load(open(sys.argv[1]))
started = time.monotonic()
engine = LLM(**asked["engine"])
up = time.monotonic()
prompts = [TokensPrompt(prompt_token_ids=ids) for ids in asked["prompts"]]
sampling = SamplingParams(temperature=0.0, max_tokens=asked["max_tokens"], stop_token_ids=asked["stop"])
engine.generate(prompts[:2], sampling, use_tqdm=False)
ready = time.monotonic()
found = engine.generate(prompts, sampling, use_tqdm=False)
seconds = time.monotonic() - ready
tokens = sum(len(one.outputs[0].token_ids) for one in found)
json.dump({"start_seconds": up - started, "seconds": seconds, "answer_tokens": tokens}, open(sys.argv[2], "w"))
"""


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        parameters = _save_random_model(folder / "model", arguments.hidden, arguments.layers)
        spec = EvaluateSpec.model_validate(
            {
                "models": {"model": str(folder / "model")},
                "suites": [{"format": "placeholder", "limit": -(-arguments.prompts // 2)}],
                "sampling": {"max_tokens": arguments.tokens},
                "serving": {
                    "engine": "vllm",
                    "max_model_len": CONTEXT,
                    "max_concurrent": IN_FLIGHT,
                    "cpus_per_replica": arguments.threads,
                },
                "run": {"dir": str(folder / "run")},
            }
        )
        ours, prompts, stop = _through_serve(spec)
        offline = _offline(folder, prompts, stop, arguments)
    requests = len(prompts)
    ratio = offline["seconds"] / ours["seconds"]
    overhead = 1000 * (ours["seconds"] - offline["seconds"]) / requests
    print(f"{requests} requests, {parameters:,} parameters")
    print(f"vLLM offline: {offline['seconds']:.1f} s, {offline['answer_tokens']:,} tokens")
    print(f"bds on Serve: {ours['seconds']:.1f} s, {ours['answer_tokens']:,} tokens")
    print(f"ratio of throughput {ratio:.3f}, {overhead:.1f} ms a request more")
    content: dict[str, Any] = {
        "parameters": parameters,
        "requests": requests,
        "max_tokens": arguments.tokens,
        "in_flight": IN_FLIGHT,
        "threads": arguments.threads,
        "offline": offline,
        "bds": ours,
        "throughput_ratio": ratio,
        "overhead_ms_a_request": overhead,
    }
    write_record(arguments.out, content)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=330)
    parser.add_argument("--tokens", type=int, default=208)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "serving_throughput.json")
    return parser.parse_args()


def _save_random_model(folder: Path, hidden: int, layers: int) -> int:
    """Writes it and returns its number of parameters."""
    tokenizer = make_tokenizer(make_world(0))
    model = new_model(small_config("llama", tokenizer, hidden_size=hidden, layers=layers, context=CONTEXT), 0)
    folder.mkdir(parents=True)
    save_model(model, tokenizer, folder)
    return sum(parameter.numel() for parameter in model.parameters())


def _through_serve(spec: EvaluateSpec) -> tuple[dict[str, Any], list[list[int]], list[int]]:
    """What bds took, the rendered prompts, and what ends an answer."""
    (condition,) = (identified(each) for each in conditions_of(spec))
    suites = suites_asked(spec.suites).suites
    asked = questions([condition], suites, spec.sampling, lambda each: "benchmark")
    renderer = Renderer(condition, CONTEXT)
    requests = [request_of(each, spec.sampling, renderer) for each in asked]
    run = RunDirectory(spec.run.dir)
    open_private(run)
    rows: list[dict[str, Any]] = []
    started = time.monotonic()
    with open_engines(spec, local=False) as engines:
        (plan,) = engines.plans([condition])
        with engines.serve(plan) as up:
            ready = time.monotonic()

            async def warm_and_ask() -> float:
                async with up.client() as client:
                    for each in requests[:2]:
                        await client.post(each.route, each.body)
                    begun = time.monotonic()
                    with row_log(run, "generations") as log:
                        await ask_all(
                            asked, client, lambda each: request_of(each, spec.sampling, renderer), log, rows.append
                        )
                    return time.monotonic() - begun

            seconds = asyncio.run(warm_and_ask())
    told = {
        "start_seconds": ready - started,
        "seconds": seconds,
        "answer_tokens": sum(row["answer_tokens"] for row in rows),
    }
    return told, [list(each.body["prompt"]) for each in requests], renderer.stop_ids


def _offline(folder: Path, prompts: list[list[int]], stop: list[int], arguments: argparse.Namespace) -> dict[str, Any]:
    """What the same engine takes without a server."""
    (plan,) = engine_plans(
        [ServedModel("model", str(folder / "model"), None, "")],
        EngineSettings(max_model_len=CONTEXT, max_concurrent=IN_FLIGHT),
    )
    served = engine_arguments(plan, cpu=True)
    engine = {name: served[name] for name in ENGINE_ARGUMENTS}
    asked, told = folder / "asked.json", folder / "told.json"
    asked.write_text(json.dumps({"engine": engine, "prompts": prompts, "stop": stop, "max_tokens": arguments.tokens}))
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(arguments.threads),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    script = folder / "offline.py"
    script.write_text(f"def main():\n{_indented(_OFFLINE)}\n\nif __name__ == '__main__':\n    main()\n")
    subprocess.run([sys.executable, str(script), str(asked), str(told)], check=True, env=environment)
    found: dict[str, Any] = json.loads(told.read_text())
    return found


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.strip().splitlines())


if __name__ == "__main__":
    main()
