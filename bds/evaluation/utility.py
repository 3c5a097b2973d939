"""Utility: what a condition can still do, measured by lm-eval's tasks against the server that answers for it.

  OUT/TASK/lm-eval.json     what lm-eval was asked
  OUT/TASK/lm-eval.log      what it said
  OUT/TASK/MODEL/...        its results and every sample with its answer
  OUT/TASK/scores.json      the scores; the task is done where this file is

Prompts and answers are in OUT alone; scores leave it, and of what lm-eval says only how far it is. Its cache of answers
(--use_cache) is never used: it does not tell one model from another.
"""

import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from bds.errors import PreflightError
from bds.evaluation.lm_eval_output import Telling, explained, is_bar
from bds.evaluation.lm_eval_process import child_environment, program, run_program
from bds.evaluation.prompting import CHAT, COMPLETIONS
from bds.evaluation.utility_tasks import UtilityTask, find_tasks
from bds.runs.directory import RunDirectory
from bds.runs.messages import first_line

SCORES, CONFIG, LOG = "scores.json", "lm-eval.json", "lm-eval.log"

_UNSAFE = re.compile(r"[^\w.-]+")


@dataclass(frozen=True)
class UtilityScore:
    """One number of one task."""

    task: str
    metric: str
    filter: str
    """How lm-eval took the answer out of the reply (gsm8k: strict-match, flexible-extract); `none` where as it is."""
    value: float | None
    """None where lm-eval gives no finite number."""
    stderr: float | None
    """Standard error of `value`; None where lm-eval has none for the metric."""
    samples: int


@dataclass(frozen=True)
class Server:
    """Where a task's questions go."""

    base_url: str
    """Up to and with /v1."""
    model: str
    """The name that the server knows it by."""
    tokenizer: str | None
    chat: bool
    concurrent: int
    tries: int
    context: int | None = None
    """Tokens of prompt and answer together, where the server tells."""
    system_prompt: str | None = None


def run_utility(
    *,
    base_url: str,
    model: str,
    tasks: Sequence[str],
    out: Path,
    tokenizer: str | None,
    chat: bool,
    limit: int | None = None,
    include: Sequence[Path] = (),
    api_key_env: str | None = None,
    system_prompt: str | None = None,
    on_line: Callable[[str], None] = lambda line: None,
    concurrent: int = 16,
    tries: int = 12,
) -> list[UtilityScore]:
    """The scores of the tasks, in order. Each task is a run of lm-eval of its own, and done again only if unfinished.

    Tasks that are scored by log-probabilities ask /completions and get the prompt as it is, without a chat template.
    Tasks scored by answers, and those that do not tell, ask /chat/completions where `chat` is set.

    Args:
        base_url: up to and with /v1.
        tasks: names of lm-eval's or paths of YAML files, whose relative data files are found beside them.
        out: a private folder of this model and these settings only; made for its owner only where there is none.
        tokenizer: folder or hub name; needed for log-probabilities only.
        limit: only the first samples of each task.
        include: folders with more task files.
        api_key_env: the environment variable that holds the server's key.
        system_prompt: a system turn before every chat, as the suites' prompts get it.
        on_line: called with lines that anybody may read.
        concurrent: requests in flight. vLLM's CPU build needs 1 where it serves adapters and log-probabilities are
            asked for: its engine dies of two such prompts at a time.
        tries: of one request; 12 wait for 80 seconds in all.

    Raises:
        PreflightError: lm-eval, a task, the key, the tokenizer or the server is not there.
        BdsError: lm-eval failed; finished tasks are kept.
        Interrupted: SIGINT or SIGTERM; lm-eval is ended first.
    """
    found = find_tasks(tasks, include)
    unscorable = [task.name for task in found if task.asks == "log-probabilities"]
    if unscorable and tokenizer is None:
        raise PreflightError(
            f"utility tasks {', '.join(unscorable)} compare log-probabilities of tokens, which takes the model's "
            "tokenizer, and an endpoint has none to load; leave them out, or evaluate the model from its folder"
        )
    key = _key(api_key_env)
    context = _context(base_url, model, key)
    server = Server(base_url.rstrip("/"), model, tokenizer, chat, concurrent, tries, context, system_prompt)
    _make_private(out)
    scores = []
    for task in found:
        folder = out / _UNSAFE.sub("-", task.name)
        if not (folder / SCORES).is_file():
            _make_private(folder)
            config = lm_eval_config(task, server, folder, limit, include)
            _run_task(task, config, key, on_line)
        scores += [UtilityScore(**score) for score in RunDirectory(str(folder)).read_json(SCORES)]
    return scores


def lm_eval_config(
    task: UtilityTask, server: Server, folder: Path, limit: int | None, include: Sequence[Path]
) -> dict[str, Any]:
    """lm-eval's own configuration of a run, as its --config file has it."""
    chat = server.chat and task.asks != "log-probabilities"
    arguments: dict[str, Any] = {
        "model": server.model,
        "base_url": server.base_url + (CHAT if chat else COMPLETIONS),
        "num_concurrent": server.concurrent,
        "max_retries": server.tries,
        "timeout": 600,
        "tokenizer_backend": "none",
    }
    if task.asks == "log-probabilities":
        assert server.tokenizer is not None, "checked before"
        local = Path(server.tokenizer)
        tokenizer = str(local.absolute()) if local.is_dir() else server.tokenizer
        # With the special tokens that the tokenizer puts before a text, as lm-eval's own engine for such models does.
        arguments |= {"tokenizer_backend": "huggingface", "tokenizer": tokenizer, "add_bos_token": True}
        if server.context is not None:
            arguments["max_length"] = server.context
    return {
        "model": "local-chat-completions" if chat else "local-completions",
        "model_args": arguments,
        "apply_chat_template": chat,
        "system_instruction": server.system_prompt if chat else None,
        "tasks": [task.asked],
        "include_path": [str(path.absolute()) for path in include],
        "limit": limit,
        "log_samples": True,
        "output_path": str(folder.absolute()),
    }


def scores_of(results: Mapping[str, Any], task: str) -> list[UtilityScore]:
    """The scores of a task in an lm-eval results file: its own, or of its members where it has no mean over them."""
    entries: Mapping[str, Mapping[str, Any]] = results["results"]
    own = _scores(task, entries.get(task, {}))
    return own or [score for name, entry in entries.items() for score in _scores(name, entry)]


def _scores(task: str, entry: Mapping[str, Any]) -> list[UtilityScore]:
    found = []
    for key, value in entry.items():
        metric, comma, chosen = key.partition(",")
        if comma and not metric.endswith("_stderr"):
            stderr = _number(entry.get(f"{metric}_stderr,{chosen}"))
            found.append(UtilityScore(task, metric, chosen, _number(value), stderr, entry["sample_len"]))
    return found


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _run_task(task: UtilityTask, config: Mapping[str, Any], key: str | None, on_line: Callable[[str], None]) -> None:
    folder = Path(config["output_path"])
    _write(folder / CONFIG, config)
    before = set(folder.rglob("results_*.json"))
    told = Telling(task.name, on_line)
    with open(folder / LOG, "w", encoding="utf-8", opener=_owners_only) as log:

        def on_output(line: str) -> None:
            if not is_bar(line):
                # A failed request is logged with its headers.
                log.write((line if key is None else line.replace(key, "[key]")) + "\n")
                log.flush()
            told.hear(line)

        status = run_program(
            program("lm_eval", "run", "--config", str(folder / CONFIG)),
            folder=task.folder or folder,
            environment=child_environment(config["model_args"]["base_url"], key),
            on_output=on_output,
        )
    written = set(folder.rglob("results_*.json")) - before
    # lm-eval only logs that it could not write its results, and ends with 0.
    if status != 0 or not written:
        raise explained(task.name, status, folder / LOG)
    told.conclude()
    results = json.loads(max(written).read_text(encoding="utf-8"))
    _write(folder / SCORES, [asdict(score) for score in scores_of(results, task.name)])


def _write(file: Path, value: object) -> None:
    """Writes JSON whole or not at all, for its owner only."""
    RunDirectory(str(file.parent)).write_json(file.name, value)
    file.chmod(0o600)


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise PreflightError(f"the variable {variable} is not set; export the server's key under that name")
    return key


def _context(base_url: str, model: str, key: str | None) -> int | None:
    """What the server says of the model's length in its list of models (vLLM does), else None.

    Raises PreflightError where nobody answers or the key is refused.
    """
    url = base_url.rstrip("/")
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    try:
        reply = httpx.get(f"{url}/models", headers=headers, timeout=30.0, trust_env=False)
    except httpx.HTTPError as error:
        raise PreflightError(f"nobody answers at {url} ({first_line(error)}); check that the server is up") from error
    if reply.status_code in {401, 403}:
        raise PreflightError(f"{url} refuses the key; set the variable that api_key_env names")
    try:
        listed = reply.json()["data"]
        lengths = {each["id"]: each.get("max_model_len") for each in listed}
    except (ValueError, KeyError, TypeError):
        return None
    return lengths.get(model)


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
    except OSError as error:
        raise PreflightError(f"{folder} cannot be made for its owner only ({first_line(error)}); check it") from error


def _owners_only(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
