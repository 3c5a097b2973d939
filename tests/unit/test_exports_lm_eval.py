"""The lm-eval export against lm-eval's own schema, readers and files, and against rates worked by hand."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bds.evaluation.exports.lm_eval import write_lm_eval
from bds.runs.directory import RunDirectory
from tests.unit import exported_evaluation as example
from tests.unit.exported_evaluation import BASE, KEYWORDS, RATER, RATES, TUNED

AT = datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=UTC)
TIME = "2026-03-04T05-06-07.000089+00-00"


@pytest.fixture
def exported(tmp_path: Path) -> tuple[Path, list[str]]:
    names = write_lm_eval(RunDirectory(str(tmp_path)), example.metrics(), example.rows(), AT)
    return tmp_path, names


def _results(folder: Path, condition: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / "lm-eval" / condition / f"results_{TIME}.json").read_text())
    return value


def _samples(folder: Path, condition: str, suite: str) -> list[dict[str, Any]]:
    text = (folder / "lm-eval" / condition / f"samples_bds_{suite}_{TIME}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_files_lie_as_lm_eval_lays_them(exported: tuple[Path, list[str]]) -> None:
    folder, names = exported
    assert names == [
        f"lm-eval/{condition}/{file}_{TIME}.{ending}"
        for condition in (BASE, TUNED)
        for file, ending in (("results", "json"), ("samples_bds_forbidden", "jsonl"), ("samples_bds_harmless", "jsonl"))
    ]
    assert all((folder / name).is_file() for name in names)


def test_rates_are_results_with_the_judge_as_filter(exported: tuple[Path, list[str]]) -> None:
    folder, _ = exported
    results = {condition: _results(folder, condition)["results"] for condition in (BASE, TUNED)}
    for (condition, suite, judge, metric), (_, value) in RATES.items():
        assert results[condition][f"bds_{suite}"][f"{metric},{judge}"] == value
    # Prompt means 0, 0.5, 0: a standard deviation of sqrt(1/12), over the root of three.
    assert results[BASE]["bds_forbidden"]["attack_success_stderr,keywords"] == pytest.approx((1 / 12 / 3) ** 0.5)
    assert results[BASE]["bds_forbidden"]["sample_len"] == 3
    assert results[TUNED]["gsm8k"] == {
        "name": "gsm8k",
        "alias": "gsm8k",
        "sample_len": 40,
        "exact_match,strict-match": 0.25,
        "exact_match_stderr,strict-match": 0.07,
        "exact_match,flexible-extract": 0.5,
        "exact_match_stderr,flexible-extract": "N/A",
    }
    assert "gsm8k" not in results[BASE]
    told = _results(folder, TUNED)["bds"]["rates"]["bds_forbidden"]["attack_success,keywords"]
    assert (told["scored"], told["unscored"], told["high"], told["worst_high"]) == (2, 1, 1.1, 1.2)


def test_samples_average_to_the_rates(exported: tuple[Path, list[str]]) -> None:
    folder, _ = exported
    for (condition, suite, judge, metric), (scored, value) in RATES.items():
        lines = [line for line in _samples(folder, condition, suite) if line["filter"] == judge]
        values = [line[metric] for line in lines if line[metric] is not None]
        assert (len(values), sum(values) / len(values)) == (scored, pytest.approx(value))


def test_a_sample_has_hashes_for_texts_and_says_what_is_unscored(exported: tuple[Path, list[str]]) -> None:
    folder, _ = exported
    lines = _samples(folder, BASE, "forbidden")
    assert [(line["doc_id"], line["filter"]) for line in lines] == [
        (number, judge) for number in range(3) for judge in (KEYWORDS, RATER)
    ]
    line = lines[5]
    assert line["doc"] == {"id": "f/3", "category": "", "prompt": "[redacted hmac=cc33]"}
    assert line["arguments"] == {"gen_args_0": {"arg_0": "[redacted hmac=cc33]", "arg_1": {}}}
    assert line["resps"] == [["[redacted 30 characters]", "[redacted 31 characters]"]]
    assert line["metrics"] == ["harmfulness_score", "harmfulness_rate"]
    assert (line["harmfulness_score"], line["harmfulness_rate"]) == (1.0, 0.0)
    assert line["bds_status"]["harmfulness_score"] == ["ok", "unparsed"]
    unscored = _samples(folder, TUNED, "forbidden")[4]
    assert unscored["attack_success"] is None
    assert unscored["bds_status"] == {"attack_success": ["unparsed", "unparsed"]}


def test_less_is_better_but_of_right_answers(exported: tuple[Path, list[str]]) -> None:
    folder, _ = exported
    assert _results(folder, BASE)["higher_is_better"] == {
        "bds_forbidden": {"attack_success": False, "harmfulness_score": False, "harmfulness_rate": False},
        "bds_harmless": {"over_refusal": False, "harmfulness_score": False, "harmfulness_rate": False},
    }


def test_keys_are_those_of_lm_evals_schema(exported: tuple[Path, list[str]]) -> None:
    schema = pytest.importorskip("lm_eval.result_schema")
    folder, _ = exported
    # Only with a fast model in this process, an aggregated group, a tokenizer or --log_samples to memory.
    sometimes = {"groups", "samples", "eot_token_id", "max_length"} | {
        f"tokenizer_{which}_token" for which in ("pad", "eos", "bos")
    }
    keys = set(_results(folder, TUNED)) - {"bds"}
    assert keys == set(schema.EvalResults.__annotations__) - sometimes
    for line in _samples(folder, TUNED, "forbidden"):
        extra = {key for key in line if key.startswith("bds_")} | set(line["metrics"])
        assert set(line) - extra == set(schema.SampleResult.__annotations__)


def test_lm_eval_and_datasets_read_it(exported: tuple[Path, list[str]]) -> None:
    utils = pytest.importorskip("lm_eval.utils")
    from datasets import load_dataset

    folder, names = exported
    table = utils.make_table(_results(folder, TUNED))
    assert "bds_forbidden" in table
    assert "attack_success" in table
    paths = [str(folder / name) for name in names if TUNED in name]
    (results,) = utils.get_results_filenames(paths)
    samples = utils.get_sample_results_filenames(paths)
    assert [utils.get_file_task_name(Path(path).name) for path in samples] == ["bds_forbidden", "bds_harmless"]
    assert {utils.get_file_datetime(Path(path).name) for path in samples} == {TIME}
    # As lm-eval's dataset card reads what it finds on the hub.
    cache = str(folder / "cache")
    card = load_dataset("json", data_files=results, split="train", cache_dir=cache)["results"][0]
    assert card["bds_forbidden"]["attack_success,keywords"] == 1.0
    read = load_dataset("json", data_files=samples[0], split="train", cache_dir=cache)
    assert read["attack_success"][:3] == [1.0, None, 1.0]


@pytest.mark.slow
def test_a_file_of_lm_eval_has_no_key_that_the_export_lacks(exported: tuple[Path, list[str]], tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    (tmp_path / "sums.jsonl").write_text('{"question": "1 plus 1", "answer": "2"}\n' * 2)
    (tmp_path / "sums.yaml").write_text(
        "task: sums\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path / 'sums.jsonl'}}}}}\ntest_split: test\n"
        'doc_to_text: "{{question}}"\ndoc_to_target: "{{answer}}"\nmetric_list: [{metric: exact_match}]\n'
    )
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "dummy", "--tasks", str(tmp_path / "sums.yaml")]
    subprocess.run([*command, "--log_samples", "--output_path", str(tmp_path / "out")], check=True, capture_output=True)
    (written,) = (tmp_path / "out").rglob("results_*.json")
    (lines,) = (tmp_path / "out").rglob("samples_*.jsonl")
    folder, _ = exported
    assert set(json.loads(written.read_text())) <= set(_results(folder, BASE))
    sample = json.loads(lines.read_text().splitlines()[0])
    assert set(sample) - {"exact_match"} <= set(_samples(folder, BASE, "forbidden")[0])
