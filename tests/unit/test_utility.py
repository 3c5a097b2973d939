"""lm-eval against made-up servers: its scores, what leaves it, and how its failures read."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from bds.errors import BdsError, PreflightError
from bds.evaluation import lm_eval_process
from bds.evaluation.lm_eval_output import Telling, explained
from bds.evaluation.lm_eval_process import child_environment
from bds.evaluation.utility import Server, UtilityScore, lm_eval_config, run_utility, scores_of
from bds.evaluation.utility_tasks import Asks, UtilityTask, find_tasks
from tests.fake_endpoint import FakeEndpoint, fake_endpoint
from tests.unit.lm_eval_server import MODEL, scoring_server

SENTINEL = "zwibbelfax"
"""Stands in every prompt and every answer, and nowhere else."""

SUMS = """
task: bds_sums
dataset_path: json
dataset_kwargs: {data_files: {test: sums.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], do_sample: false, max_gen_toks: 8}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""

COLOURS = """
task: bds_colours
dataset_path: json
dataset_kwargs: {data_files: {test: colours.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: ["red", "green", "blue"]
doc_to_target: gold
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture
def sums(tmp_path: Path) -> str:
    """A local task of six sums, its data beside it."""
    rows = [{"question": f"{SENTINEL} {number} plus 1", "answer": f"{SENTINEL} {number + 1}"} for number in range(6)]
    return _task(tmp_path / "sums.yaml", SUMS, rows)


@pytest.fixture
def colours(tmp_path: Path) -> str:
    rows = [{"question": f"berry {number}", "gold": number % 3} for number in range(5)]
    return _task(tmp_path / "colours.yaml", COLOURS, rows)


def _task(file: Path, description: str, rows: Sequence[dict[str, object]]) -> str:
    file.write_text(description)
    file.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def _adds(model: str, prompt: str) -> str | None:
    """Right up to 3, wrong for 4, nothing for 5."""
    number = int(prompt.split()[1])
    return None if number == 5 else f"{SENTINEL} {number + 1 if number < 4 else 0}"


def test_a_local_task_gives_scores_and_keeps_texts_private(
    sums: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out, lines = tmp_path / "private" / "utility", []
    with fake_endpoint(
        _adds, fault=lambda prompt, before: "503" if " 2 " in prompt and before == 0 else None
    ) as server:

        def scores() -> list[UtilityScore]:
            return run_utility(
                base_url=server.url,
                model="base@1",
                tasks=[sums],
                out=out,
                tokenizer=None,
                chat=True,
                on_line=lines.append,
            )

        first = scores()
        asked = len(server.bodies)
        again = scores()
    # Four of six right: a share of 2/3 with the standard error of a mean.
    (score,) = first
    assert (score.task, score.metric, score.filter, score.samples) == ("bds_sums", "exact_match", "none", 6)
    assert score.value == pytest.approx(4 / 6)
    assert score.stderr == pytest.approx((4 / 6 * 2 / 6 / 5) ** 0.5)
    assert again == first
    assert asked == len(server.bodies) == 7, "six sums and one after a fault; nothing for the second call"
    assert all(body["messages"][0]["content"].startswith(SENTINEL) for body in server.bodies)
    assert {(body["model"], body["temperature"], body["max_tokens"]) for body in server.bodies} == {("base@1", 0, 8)}
    assert SENTINEL not in "".join(lines)
    assert lines[-1] == "warning: bds_sums: 1 replies without an answer count as wrong"
    files = [path for path in out.rglob("*") if path.is_file()]
    assert any(SENTINEL in path.read_text() for path in files), "the samples are kept for their owner"
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE(out.stat().st_mode) == 0o700


@pytest.mark.slow
def test_plain_completions_are_asked_without_chat(sums: str, tmp_path: Path) -> None:
    with fake_endpoint(_adds) as server:
        (score,) = run_utility(
            base_url=server.url, model="m", tasks=[sums], out=tmp_path / "out", tokenizer=None, chat=False, limit=4
        )
    assert (score.value, score.samples) == (1.0, 4)
    assert sorted(body["prompt"] for body in server.bodies) == [f"{SENTINEL} {number} plus 1" for number in range(4)]


@pytest.mark.slow
@pytest.mark.parametrize("concurrent", [1, 16])
def test_log_probabilities_are_of_the_tokens_after_the_prompt(
    colours: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, concurrent: int
) -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = _word_tokenizer(tmp_path / "tokenizer")
    ids = PreTrainedTokenizerFast.from_pretrained(tokenizer).get_vocab()
    colour_of = {ids["red"]: 0, ids["green"]: 1, ids["blue"]: 2}

    def logprob(tokens: Sequence[int], position: int) -> float:
        if tokens[position] not in colour_of:
            return -100.0 * tokens[position]  # must not count: it is the prompt
        number = next(number for number in range(5) if ids[str(number)] in tokens)
        # The model is right of berries 0 to 3 and takes berry 4 for red.
        return -1.0 if colour_of[tokens[position]] == (number % 3 if number < 4 else 0) else -2.0

    monkeypatch.setenv("MADE_UP_KEY", "k-4711")
    with scoring_server(logprob, max_model_len=64) as server:
        scores = run_utility(
            base_url=server.url,
            model=MODEL,
            tasks=[colours],
            out=tmp_path / "out",
            tokenizer=tokenizer,
            chat=True,
            api_key_env="MADE_UP_KEY",
            concurrent=concurrent,
        )
    assert [(score.metric, score.value, score.samples) for score in scores] == [("acc", 0.8, 5)]
    assert len(server.bodies) == 5 * 3
    assert {body["prompt"][0][0] for body in server.bodies} == {ids["<bos>"]}
    assert {(body["echo"], body["logprobs"], body["max_tokens"]) for body in server.bodies} == {(True, 1, 1)}
    assert set(server.keys) == {"Bearer k-4711"}
    config = json.loads((tmp_path / "out" / "bds_colours" / "lm-eval.json").read_text())
    assert config["model_args"]["max_length"] == 64
    assert "use_cache" not in config


def _word_tokenizer(folder: Path) -> str:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<bos>", "<eos>", "berry", "red", "green", "blue", *map(str, range(5))]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<bos>", eos_token="<eos>", pad_token="<eos>"
    )
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
def test_a_server_that_dies_is_told_without_texts(sums: str, tmp_path: Path) -> None:
    with (
        fake_endpoint(_adds, fault=lambda prompt, before: "half" if " 3 " in prompt else None) as server,
        pytest.raises(BdsError, match=r"^utility task bds_sums: the server stopped answering") as caught,
    ):
        _run(server, sums, tmp_path / "out")
    assert SENTINEL not in str(caught.value)
    assert not (tmp_path / "out" / "bds_sums" / "scores.json").exists()


@pytest.mark.slow
def test_a_refusing_server_and_a_missing_file_are_told_and_no_file_has_the_key(
    sums: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MADE_UP_KEY", "k-4711")
    with fake_endpoint(_adds, fault=lambda prompt, before: "400") as server:
        with pytest.raises(BdsError, match="refuses its requests with status 400"):
            _run(server, sums, tmp_path / "out", api_key_env="MADE_UP_KEY")
        Path(sums).with_suffix(".jsonl").unlink()
        with pytest.raises(PreflightError, match="a data file that the task names is not there"):
            _run(server, sums, tmp_path / "other")
    assert "Bearer [key]" in (tmp_path / "out" / "bds_sums" / "lm-eval.log").read_text(), "headers are logged"
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and "k-4711" in path.read_text()]


def _run(server: FakeEndpoint, task: str, out: Path, api_key_env: str | None = None) -> list[UtilityScore]:
    return run_utility(
        base_url=server.url,
        model="m",
        tasks=[task],
        out=out,
        tokenizer=None,
        chat=True,
        api_key_env=api_key_env,
        tries=2,
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_lm_eval_with_its_parent(sums: str, tmp_path: Path, number: signal.Signals) -> None:
    script = textwrap.dedent(
        f"""
        from pathlib import Path
        from bds.evaluation import lm_eval_process
        from bds.evaluation.utility import run_utility

        popen = lm_eval_process.subprocess.Popen
        def told(*arguments, **named):
            child = popen(*arguments, **named)
            print(child.pid, flush=True)
            return child
        lm_eval_process.subprocess.Popen = told
        out = Path({str(tmp_path / "out")!r})
        run_utility(base_url=URL, model="m", tasks=[{sums!r}], out=out, tokenizer=None, chat=True)
        """
    )
    with fake_endpoint(_adds, fault=lambda prompt, before: "hang") as server:
        parent = subprocess.Popen(
            [sys.executable, "-c", f"URL = {server.url!r}\n{script}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert parent.stdout is not None
        pids = [int(parent.stdout.readline()) for _ in range(2)]
        _wait_until(lambda: bool(server.bodies))
        parent.send_signal(number)
        assert parent.wait(30) != 0
        assert all(_gone(pid) for pid in pids)


def _wait_until(true: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.slow
def test_names_and_groups_of_lm_eval_are_found(sums: str) -> None:
    found = find_tasks(["gsm8k", "mmlu", "ifeval", sums])
    assert [(task.name, task.asks) for task in found] == [
        ("gsm8k", "answers"),
        ("mmlu", "log-probabilities"),
        ("ifeval", "answers"),
        ("bds_sums", "answers"),
    ]
    with pytest.raises(PreflightError, match=r"lm-eval has no task 'gsm9k'; did you mean `gsm8k`\?"):
        find_tasks(["gsm9k"])


def test_tasks_in_files_are_found_and_checked(sums: str, colours: str, tmp_path: Path) -> None:
    assert find_tasks([sums, colours]) == [
        UtilityTask(sums, "bds_sums", "answers"),
        UtilityTask(colours, "bds_colours", "log-probabilities"),
    ]
    with pytest.raises(PreflightError, match=r"none\.yaml: no such file"):
        find_tasks([str(tmp_path / "none.yaml")])
    with pytest.raises(PreflightError, match="no such folder"):
        find_tasks([sums], [tmp_path / "none"])
    twin = _task(tmp_path / "twin.yaml", SUMS, [])
    with pytest.raises(PreflightError, match="two of the utility tasks are named bds_sums"):
        find_tasks([sums, twin])
    nameless = _task(tmp_path / "nameless.yaml", "dataset_path: json", [])
    with pytest.raises(PreflightError, match="has no name"):
        find_tasks([nameless])


def test_what_is_missing_is_said_before_lm_eval_starts(
    sums: str, colours: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{free.getsockname()[1]}/v1"

    def run(task: str, api_key_env: str | None = None) -> None:
        run_utility(
            base_url=dead,
            model="m",
            tasks=[task],
            out=tmp_path / "out",
            tokenizer=None,
            chat=True,
            api_key_env=api_key_env,
        )

    with pytest.raises(PreflightError, match="nobody answers at http://127"):
        run(sums)
    with pytest.raises(PreflightError, match="bds_colours compare log-probabilities of tokens"):
        run(colours)
    with pytest.raises(PreflightError, match="the variable NO_SUCH_KEY is not set"):
        run(sums, "NO_SUCH_KEY")
    monkeypatch.setattr(lm_eval_process, "find_spec", lambda name: None if name == "tenacity" else object())
    with pytest.raises(PreflightError, match=r'tenacity is not installed: pip install "benign-data-safety\[lm-eval\]"'):
        run(sums)
    assert not (tmp_path / "out").exists()


def test_the_child_gets_no_secret_but_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {"AWS_SECRET_ACCESS_KEY": "a", "OPENAI_API_KEY": "b", "HF_TOKEN": "c", "RAY_AUTH_TOKEN_PATH": "d"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("NO_PROXY", "intern")
    online = child_environment("http://127.0.0.1:8000/v1")
    assert {name for name in secrets if name in online} == {"HF_TOKEN"}
    assert online["NO_PROXY"] == online["no_proxy"] == "intern,127.0.0.1"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    offline = child_environment("http://127.0.0.1:8000/v1", "own")
    assert {name: offline[name] for name in secrets if name in offline} == {"OPENAI_API_KEY": "own"}
    assert offline["HF_HUB_OFFLINE"] == "1"


def test_a_group_gives_its_mean_and_one_without_gives_its_members() -> None:
    members = {
        "m_law": {"alias": "law", "sample_len": 3, "acc,none": 0.5, "acc_stderr,none": "N/A"},
        "m_art": {"alias": "art", "sample_len": 2, "acc,none": float("nan"), "acc_stderr,none": 0.1},
    }
    mean = {"alias": "m", "sample_len": 5, "sample_count": {"acc,none": 5}, "acc,none": 0.75, "acc_stderr,none": 0.2}
    assert scores_of({"results": {"m": mean, **members}}, "m") == [UtilityScore("m", "acc", "none", 0.75, 0.2, 5)]
    assert scores_of({"results": {"m": {"alias": "m"}, **members}}, "m") == [
        UtilityScore("m_law", "acc", "none", 0.5, None, 3),
        UtilityScore("m_art", "acc", "none", None, 0.1, 2),
    ]


@pytest.mark.parametrize(("given", "found"), [("tokenizer", "{here}/tokenizer"), ("hub/name", "hub/name")])
def test_a_tokenizers_folder_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, found: str
) -> None:
    (tmp_path / "tokenizer").mkdir()
    monkeypatch.chdir(tmp_path)
    server = Server("http://127.0.0.1/v1", "m", given, chat=True, concurrent=1, tries=1)
    config = lm_eval_config(UtilityTask("mmlu", "mmlu", "log-probabilities"), server, tmp_path / "out", None, [])
    assert config["model_args"]["tokenizer"] == found.format(here=tmp_path)
    assert (config["model"], config["apply_chat_template"]) == ("local-completions", False)


@pytest.mark.parametrize(("asks", "told"), [("answers", "Be kind."), ("log-probabilities", None)])
def test_a_system_prompt_goes_before_chats_only(tmp_path: Path, asks: Asks, told: str | None) -> None:
    server = Server("http://127.0.0.1/v1", "m", "hub/name", chat=True, concurrent=1, tries=1, system_prompt="Be kind.")
    config = lm_eval_config(UtilityTask("gsm8k", "gsm8k", asks), server, tmp_path, None, [])
    assert config["system_instruction"] == told


def test_progress_is_told_in_tenths() -> None:
    lines: list[str] = []
    telling = Telling("sums", lines.append)
    for done in range(201):
        telling.hear(f"Requesting API: {done // 2:3d}%|####      | {done}/200 [00:01<00:09, 9.98it/s]")
    telling.hear("an answer about 3/5 of a zwibbelfax")
    telling.conclude()
    assert lines == [f"sums: {done} of 200 requests" for done in range(0, 201, 20)]


@pytest.mark.parametrize(
    ("last", "kind", "sentence"),
    [
        ("ModuleNotFoundError: No module named 'langdetect'", PreflightError, "needs the package langdetect"),
        ("  Resource 'tokenizers/punkt_tab/english/' not found.", PreflightError, "needs NLTK's punkt_tab"),
        ("  Resource punkt_tab not found.", PreflightError, "needs NLTK's punkt_tab"),
        (
            "ConnectionError: Couldn't reach 'a/b' on the Hub (OfflineModeIsEnabled)",
            PreflightError,
            "its dataset is not",
        ),
        ("aiohttp.ClientConnectorError: Cannot connect to host 127.0.0.1:1", BdsError, "the server stopped answering"),
        ("TimeoutError", BdsError, "no reply in time"),
        ("ValueError: zwibbelfax", BdsError, "lm-eval ended with status 1"),
    ],
)
def test_the_last_sign_in_the_log_says_why(tmp_path: Path, last: str, kind: type[BdsError], sentence: str) -> None:
    log = tmp_path / "lm-eval.log"
    log.write_text(f"ClientResponseError: 503 about zwibbelfax\nRetry attempt 1\nTraceback\n{last}\n")
    if sentence.startswith("lm-eval ended"):
        log.write_text(f"{last}\n")
    error = explained("sums", 1, log)
    assert type(error) is kind
    assert sentence in str(error)
    assert SENTINEL not in str(error)
