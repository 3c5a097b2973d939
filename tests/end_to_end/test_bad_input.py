"""What users get wrong: each mistake is one sentence with the way out and its exit code, or rows that are counted.

The first two tables need no model. The last one audits five rows with a tiny random model, in this process.
"""

import errno
import gzip
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import scipy.stats

from bds.cli import main
from tests.unit.small_audit import ROWS, write_rows, write_small_audit

GOOD = json.dumps(ROWS[0])


@dataclass(frozen=True)
class Mistake:
    name: str
    make: Callable[[Path], list[str]]
    """Breaks the audit in the folder and returns further arguments."""
    code: int
    says: tuple[str, ...]
    """What the sentence holds: the place and the way out."""


def data_file(name: str, content: str | bytes) -> Callable[[Path], list[str]]:
    """The dataset is a file of that name and content."""

    def make(folder: Path) -> list[str]:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return ["--data", str(folder / name)]

    return make


def in_spec(old: str, new: str) -> Callable[[Path], list[str]]:
    """The spec has one text replaced."""

    def make(folder: Path) -> list[str]:
        spec = folder / "spec.yaml"
        text = spec.read_text()
        assert old in text
        spec.write_text(text.replace(old, new))
        return []

    return make


def with_options(*arguments: str) -> Callable[[Path], list[str]]:
    return lambda folder: list(arguments)


def without(name: str) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        (folder / name).unlink()
        return []

    return make


def anchor_file(content: str) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        (folder / "harmful.jsonl").write_text(content)
        return []

    return make


def calibrated_by(content: str | None, *of: str) -> Callable[[Path], list[str]]:
    """The audit weighs two detectors by a file of that content; None leaves the file out."""

    def make(folder: Path) -> list[str]:
        if content is not None:
            (folder / "weights.json").write_text(content)
        weighed = ", ".join(of or ("loss", "answer_length"))
        detectors = f"[loss, answer_length, random, {{name: calibrated, of: [{weighed}], calibration: weights.json}}]"
        return ["--set", f"score.detectors={detectors}"]

    return make


def weights_file(**changed: object) -> str:
    columns = ("loss", "answer_length")
    good = {
        "kind": "calibration",
        "detectors": {name: name for name in columns},
        "weights": dict.fromkeys(columns, 1.0),
        "usable": True,
        "reason": "",
    }
    return json.dumps({**good, **changed})


def empty_spec(folder: Path) -> list[str]:
    (folder / "spec.yaml").write_text("")
    return []


def run_dir_is_a_file(folder: Path) -> list[str]:
    (folder / "run").write_text("x")
    return []


def empty_data_folder(folder: Path) -> list[str]:
    (folder / "empty").mkdir()
    return ["--data", str(folder / "empty")]


MISTAKES = (
    Mistake("wrong path", with_options("--data", "dta.jsonl"), 3, ("field data.path", "did you mean", "data.jsonl?")),
    Mistake("wrong folder", with_options("--data", "no/such.jsonl"), 3, ("no/such.jsonl", "does not exist")),
    Mistake("empty file", data_file("e.jsonl", ""), 3, ("e.jsonl is empty",)),
    Mistake("blank lines only", data_file("b.jsonl", "\n\n"), 3, ("b.jsonl", "holds no rows")),
    Mistake("empty folder", empty_data_folder, 3, ("empty is empty", "put the dataset's files in it")),
    Mistake("unknown ending", data_file("data.docx", "x"), 3, ("data.docx", ".docx", ".jsonl")),
    Mistake("broken JSON", data_file("x.json", '[\n{"prompt": "a",\n]'), 3, ("x.json", "broken JSON at line 3")),
    Mistake("no list in JSON", data_file("x.json", '{"a": 1}'), 3, ("x.json", "write an array of objects")),
    Mistake("every line broken", data_file("x.jsonl", "{\n{\n"), 3, ("None of the first 2 rows", "line 1")),
    Mistake("UTF-16", data_file("x.jsonl", GOOD.encode("utf-16")), 3, ("x.jsonl", "save it as UTF-8")),
    Mistake("unnamed gzip", data_file("x.jsonl", gzip.compress(GOOD.encode())), 3, ("give its name the ending .gz",)),
    Mistake("cut gzip", data_file("x.jsonl.gz", gzip.compress(GOOD.encode() * 99)[:40]), 3, ("x.jsonl.gz",)),
    Mistake("not Parquet", data_file("x.parquet", "PAR1 but no more"), 3, ("x.parquet",)),
    Mistake("open quote in CSV", data_file("x.csv", 'prompt,completion\n"a,b\n'), 3, ("x.csv", "line 2", "close it")),
    Mistake("column twice in CSV", data_file("x.csv", "prompt,prompt\na,b\n"), 3, ("'prompt' twice", "rename one")),
    Mistake("renamed columns", data_file("x.jsonl", '{"ask": "a", "reply": "b"}\n'), 3, ("ask, reply", "data.columns")),
    Mistake("wrong format", with_options("--format", "alpaca"), 2, ("data.format alpaca", "instruction, output")),
    Mistake("unknown format", with_options("--format", "alpacca"), 2, ("data.format", "did you mean `alpaca`?")),
    Mistake("column not there", with_options("--set", "data.columns={prompt: ask, answer: completion}"), 2, ("'ask'",)),
    Mistake("role not there", with_options("--set", "data.columns={promt: prompt}"), 2, ("'promt' is no role",)),
    Mistake(
        "format and columns",
        with_options("--format", "alpaca", "--set", "data.columns={prompt: prompt, answer: a}"),
        2,
        ("exclude each other",),
    ),
    Mistake("empty spec", empty_spec, 2, ("spec.yaml:1", "is empty")),
    Mistake("broken YAML", in_spec("data:", "data: ["), 2, ("spec.yaml:", "not valid YAML")),
    Mistake("tab in YAML", in_spec("  path: data", "\tpath: data"), 2, ("spec.yaml:2", "indent with spaces")),
    Mistake("mistyped key", in_spec("model:", "modle:"), 2, ("spec.yaml:3", "modle", "did you mean `model`?")),
    Mistake("key given twice", in_spec("model:\n", "data: {}\nmodel:\n"), 2, ("spec.yaml:3", "first on line 1")),
    Mistake(
        "wrong type", in_spec("data.jsonl", "data.jsonl\n  limit: many"), 2, ("spec.yaml:3", "data.limit", "'many'")
    ),
    Mistake("mistyped --set", with_options("--set", "tokens.max_token=5"), 2, ("did you mean `max_tokens`?",)),
    Mistake("--set without =", with_options("--set", "tokens.max_tokens"), 2, ("write --set field.name=value",)),
    Mistake("unknown detector", with_options("--detector", "gradent"), 2, ("'gradent'", "did you mean `gradient`?")),
    Mistake(
        "option not taken", with_options("--set", "score.detectors=[{name: loss, top_n: 2}]"), 2, ("no option top_n",)
    ),
    Mistake(
        "top_n too large",
        with_options("--set", "score.detectors=[{name: representation, top_n: 9}]"),
        2,
        ("more than the 1 harmful anchors", "lower it or add anchors"),
    ),
    Mistake(
        "no harmful anchors",
        with_options("--set", "anchors.sets={}", "--detector", "gradient"),
        2,
        ("gradient needs", "add anchors.sets.harmful"),
    ),
    Mistake("larf without a layer", with_options("--detector", "larf"), 2, ("`layer: N` or `probe_prompts: FILE`",)),
    Mistake(
        "select by an unknown detector",
        with_options("--set", "select=[{kind: top, detector: gradint, count: 1}]"),
        2,
        ("select.0.detector", "did you mean `gradient`?"),
    ),
    Mistake(
        "anchors missing", without("harmful.jsonl"), 3, ("field anchors.sets.harmful", "harmful.jsonl does not exist")
    ),
    Mistake("anchors empty", anchor_file(""), 3, ("anchors.sets.harmful", "is empty")),
    Mistake("anchors broken", anchor_file(f"{GOOD}\n{{\n"), 3, ("anchor set harmful", "line 2", "mend the line")),
    Mistake(
        "anchor without an answer", anchor_file('{"prompt": "a", "answer": ""}\n'), 3, ("harmful", "line 1", "answer")
    ),
    Mistake("anchor of unknown columns", anchor_file('{"a": "b"}\n'), 3, ("line 1", "messages")),
    Mistake("weights missing", calibrated_by(None), 3, ("detectors.3.calibration", "weights.json does not exist")),
    Mistake("weights broken", calibrated_by("{"), 3, ("detectors.3.calibration", "is no JSON", "that a study wrote")),
    Mistake("weights of another kind", calibrated_by("[]"), 3, ("weights.json is no calibration", "a study wrote")),
    Mistake(
        "negative weights",
        calibrated_by(weights_file(weights={"loss": -1, "answer_length": 1})),
        3,
        ("is damaged, its `weights` are not numbers of 0 or more", "run its study again"),
    ),
    Mistake(
        "weights of nothing",
        calibrated_by(weights_file(weights=None, reason="2 kinds of selection were measured")),
        3,
        ("has no weights: 2 kinds of selection were measured", "enlarge the study"),
    ),
    Mistake(
        "weights all zero",
        calibrated_by(weights_file(weights={"loss": 0, "answer_length": 0.0})),
        3,
        ("every weight", "is 0", "leave this detector out"),
    ),
    Mistake(
        "a detector without a weight",
        calibrated_by(weights_file(), "loss", "random"),
        2,
        ("detectors.3.of.1", "has no weight for 'random'"),
    ),
    Mistake(
        "a weight without its detector",
        calibrated_by(
            weights_file(
                weights={"loss": 1, "answer_length": 1, "larf": 1},
                detectors={"loss": "loss", "answer_length": "answer_length", "larf": "larf"},
            )
        ),
        2,
        ("detectors.3.of", "weighs 'larf' as well", "score it before this one"),
    ),
    Mistake(
        "a weight of another detector",
        calibrated_by(weights_file(detectors={"loss": "self_influence", "answer_length": "answer_length"})),
        2,
        ("detectors.3.of.0", "'loss' is loss here and self_influence in the calibration", "another `label`"),
    ),
    Mistake(
        "model folder missing", with_options("--model", "./modle"), 3, ("field model.path", "did you mean", "model?")
    ),
    Mistake("model folder without config", without("model/config.json"), 3, ("has no config.json", "save_pretrained")),
    Mistake("model folder without tokenizer", without("model/tokenizer.json"), 3, ("has no tokenizer",)),
    Mistake("template missing", with_options("--set", "tokens.template=chat.jinja"), 3, ("chat.jinja", "he2024")),
    Mistake("run directory is a file", run_dir_is_a_file, 3, ("field run.dir", "choose a folder")),
    Mistake("unknown storage", with_options("--data", "ftq://x/y.jsonl"), 3, ("ftq://x/y.jsonl", "s3://")),
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_small_audit(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def one_sentence(output: "pytest.CaptureResult[str]") -> str:
    """The error of a command that printed nothing else."""
    assert "Traceback" not in output.err
    lines = output.err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1, output.err
    assert lines[-1] == errors[0]
    assert "unexpected " not in errors[0]
    return errors[0]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_is_one_sentence(mistake: Mistake, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", "spec.yaml", *mistake.make(folder)]
    code = main(arguments)
    sentence = one_sentence(capsys.readouterr())
    for part in mistake.says:
        assert part in sentence
    assert code == mistake.code
    assert not (folder / "run").is_dir()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
@pytest.mark.parametrize(("name", "mode"), [("data.jsonl", 0o000), ("harmful.jsonl", 0o000)])
def test_a_file_that_may_not_be_read(name: str, mode: int, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / name).chmod(mode)
    assert main(["plan", "spec.yaml"]) == 3
    assert "change its permissions" in one_sentence(capsys.readouterr())


LONG = "word " * 220_000

COUNTED = (
    ("null text", [{**ROWS[0], "completion": None}], {"malformed": 1}),
    ("a number for text", [{**ROWS[0], "prompt": 5}], {"malformed": 1}),
    ("a list for text", [{**ROWS[0], "completion": ["a"]}], {"malformed": 1}),
    ("a missing column", [{"prompt": "a"}], {"malformed": 1}),
    ("a row of another format", [{"messages": [{"role": "user", "content": "a"}]}], {"malformed": 1}),
    ("a row that is no object", ["text"], {"malformed": 1}),
    ("an empty answer", [{**ROWS[0], "completion": ""}], {"empty_answer": 1}),
    ("an answer of spaces", [{**ROWS[0], "completion": " \n\t"}], {"empty_answer": 1}),
    ("a repeated row", [ROWS[0], ROWS[0]], {}),
    ("emoji", [{"prompt": "🦊 says?", "completion": "🎈👩‍👩‍👧‍👦"}], {}),
    (
        "right-to-left text",
        [{"prompt": "كم الساعة", "completion": "الواحدة"}, {"prompt": "מה", "completion": "כן"}],
        {},
    ),
    ("a megabyte of answer", [{"prompt": "a", "completion": LONG}], {}),
    ("half a surrogate pair", [{"prompt": "a", "completion": "\ud83d"}], {"malformed": 1}),
    ("a null byte", [{"prompt": "a", "completion": "b\x00c"}], {}),
    ("extra columns", [{**ROWS[0], "source": "x", "prompt": "new"}], {}),
)


@pytest.mark.parametrize(("name", "added", "not_ok"), COUNTED, ids=[name for name, _, _ in COUNTED])
def test_a_bad_row_is_counted_and_never_lost(
    name: str,
    added: list[Any],
    not_ok: dict[str, int],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_rows(folder / "data.jsonl", [*ROWS, *added])
    assert main(["plan", "spec.yaml", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    rows = len(ROWS) + len(added)
    expected = {"ok": rows - sum(not_ok.values()), **not_ok}
    assert plan["rows"] == rows
    assert plan["statuses"] == expected


def test_broken_lines_among_good_ones_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [GOOD, '{"prompt": "a", ', GOOD, "\xff", "", "[]", "null"]
    (folder / "data.jsonl").write_bytes("\n".join(lines).encode("latin-1"))
    assert main(["plan", "spec.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["statuses"] == {"ok": 2, "malformed": 4}


def test_conversations_without_an_assistant_turn_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    user, assistant = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    turns: list[list[dict[str, Any]]] = [
        [user, assistant],
        [user],
        [],
        [user, {**assistant, "content": ""}],
        [user, {"role": "narrator", "content": "b"}],
        [user, {"content": "b"}],
    ]
    write_rows(folder / "data.jsonl", [{"messages": each} for each in turns])
    assert main(["plan", "spec.yaml", "--json"]) == 0
    statuses = json.loads(capsys.readouterr().out)["statuses"]
    assert statuses == {"ok": 1, "no_answer": 2, "empty_answer": 1, "malformed": 2}


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a byte-level tokenizer and a chat template, saved as any model is."""
    from bds.organism.architecture import new_model, small_config
    from bds.organism.text_model import make_text_tokenizer

    tokenizer = make_text_tokenizer([(row["prompt"], row["completion"]) for row in ROWS])
    folder = tmp_path_factory.mktemp("tiny") / "model"
    new_model(small_config("llama", tokenizer, hidden_size=32, layers=1, context=256), 0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def audit(tiny_model: Path, folder: Path) -> list[str]:
    """The command of a small audit that succeeds."""
    return ["audit", "spec.yaml", "--local", "--model", str(tiny_model), "--detector", "loss"]


def metrics_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "run" / "metrics.json").read_text()))


def test_the_small_audit_succeeds(audit: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the tests below break does work."""
    assert main(audit) == 0, capsys.readouterr().err
    assert capsys.readouterr().out == f"{folder / 'run' / 'report.html'}\n"
    assert metrics_of(folder)["rows"]["scored"] == len(ROWS)


def test_an_audit_by_learned_weights_is_that_of_its_file(
    audit: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    not_usable = weights_file(usable=False, reason="no better than the mean")
    command = [*audit[:-2], *calibrated_by(not_usable)(folder)]
    assert main(command) == 0, capsys.readouterr().err
    assert "weights.json is not usable: no better than the mean" in capsys.readouterr().err
    scores = pl.read_parquet(folder / "run" / "scores.parquet")
    ranks = [scipy.stats.rankdata(scores[f"score.{name}"]) - 1 for name in ("loss", "answer_length")]
    assert scores["score.calibrated"].to_list() == pytest.approx(list(sum(ranks) / (len(ROWS) - 1)))
    (folder / "weights.json").write_text(weights_file(weights={"loss": 2, "answer_length": 1}))
    # Other weights are another formula over the same components.
    assert main(command) == 0
    scores = pl.read_parquet(folder / "run" / "scores.parquet")
    assert scores["score.calibrated"].to_list() == pytest.approx(list((2 * ranks[0] + ranks[1]) / (len(ROWS) - 1)))


def test_rows_longer_than_the_limit_are_counted(audit: list[str], folder: Path) -> None:
    long = "lantern " * 300
    write_rows(
        folder / "data.jsonl",
        [
            *ROWS,
            {"prompt": long, "completion": "b"},
            {"prompt": "a", "completion": long},
            {"prompt": "a", "completion": ""},
        ],
    )
    assert main([*audit, "--set", "tokens.max_tokens=64", "--set", "run.max_failed_fraction=1"]) == 0
    rows = metrics_of(folder)["rows"]
    expected = {"ok": len(ROWS), "truncated_answer": 1, "truncated_prompt": 1, "empty_answer": 1}
    assert {status: count for status, count in rows["by_status"].items() if count} == expected
    assert rows["total"] == len(ROWS) + 3


def test_strange_text_is_scored(audit: list[str], folder: Path) -> None:
    strange = ["🦊🎈", "الواحدة", "\u202eabc", "a\u0301", "\x00", "一二三"]
    write_rows(folder / "data.jsonl", [{"prompt": text, "completion": text} for text in strange])
    assert main(audit) == 0
    assert metrics_of(folder)["rows"]["scored"] == len(strange)


def test_a_dataset_without_one_good_row_still_reports(audit: list[str], folder: Path) -> None:
    write_rows(folder / "data.jsonl", [{"prompt": "a", "completion": ""}, {"prompt": None, "completion": "b"}])
    assert main(audit) == 0
    rows = metrics_of(folder)["rows"]
    assert (rows["total"], rows["scored"]) == (2, 0)


@pytest.mark.parametrize(
    ("name", "break_it", "says"),
    [
        ("config is no JSON", lambda model: (model / "config.json").write_text("{"), ("model.path", "cannot be read")),
        (
            "unknown architecture",
            lambda model: (model / "config.json").write_text('{"model_type": "no-such-model"}'),
            ("model.path", "no-such-model"),
        ),
        ("weights cut short", lambda model: _cut(model / "model.safetensors"), ("model.path",)),
        ("no weights", lambda model: (model / "model.safetensors").unlink(), ("model.path",)),
        ("tokenizer is no JSON", lambda model: (model / "tokenizer.json").write_text("{"), ("tokenizer",)),
        ("no chat template", lambda model: _drop_template(model), ("has no chat template", "tokens.template")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_model_that_cannot_be_used(
    name: str,
    break_it: Callable[[Path], object],
    says: tuple[str, ...],
    audit: list[str],
    tiny_model: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken = folder / "broken"
    shutil.copytree(tiny_model, broken)
    break_it(broken)
    assert main([*audit, "--model", str(broken)]) == 3
    sentence = one_sentence(capsys.readouterr())
    for part in says:
        assert part in sentence


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:500])


def _drop_template(model: Path) -> None:
    (model / "chat_template.jinja").unlink(missing_ok=True)
    configuration = json.loads((model / "tokenizer_config.json").read_text())
    configuration.pop("chat_template", None)
    (model / "tokenizer_config.json").write_text(json.dumps(configuration))


@pytest.mark.parametrize(
    ("name", "arguments", "code", "says"),
    [
        ("a broken template", ("--set", "tokens.template=broken.jinja"), 3, ("template", "line 1")),
        ("a template without the answer", ("--set", "tokens.template=silent.jinja"), 3, ("leaves", "answer")),
        ("a layer the model lacks", ("--set", "score.layers=[7]"), 2, ("no layer 7", "or -1 for the last")),
        (
            "more layers than the model has",
            ("--set", "score.parameters=last_layers:9", "--detector", "self_influence"),
            2,
            ("score.parameters", "9"),
        ),
        ("an adapter that is none", ("--set", "model.adapter=./model"), 3, ("model.adapter", "adapter_config.json")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_the_model(
    name: str,
    arguments: tuple[str, ...],
    code: int,
    says: tuple[str, ...],
    audit: list[str],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / "broken.jinja").write_text("{% for message in messages %}")
    (folder / "silent.jinja").write_text("{% for message in messages %}{{ message.role }}{% endfor %}")
    assert main([*audit, *arguments]) == code
    sentence = one_sentence(capsys.readouterr())
    for part in says:
        assert part in sentence


def test_a_run_directory_in_use(audit: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from bds.runs.directory import RunDirectory
    from bds.runs.lease import hold_lease

    with hold_lease(RunDirectory(str(folder / "run"))):
        assert main(audit) == 3
    assert "is in use" in one_sentence(capsys.readouterr())


def test_a_changed_spec_shows_the_difference(
    audit: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(audit) == 0
    before = (folder / "run" / "scores.parquet").read_bytes()
    capsys.readouterr()
    assert main([*audit, "--set", "tokens.max_tokens=64"]) == 2
    sentence = one_sentence(capsys.readouterr())
    assert "tokens.max_tokens: 1024 -> 64" in sentence
    assert "--fresh" in sentence
    assert (folder / "run" / "scores.parquet").read_bytes() == before
    assert main([*audit, "--set", "tokens.max_tokens=64", "--fresh"]) == 0


def test_a_changed_dataset_is_noticed(audit: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(audit) == 0
    write_rows(folder / "data.jsonl", [*ROWS, {"prompt": "new", "completion": "row"}])
    capsys.readouterr()
    assert main(audit) in {2, 3}
    sentence = one_sentence(capsys.readouterr())
    assert "data" in sentence
    assert "--fresh" in sentence


def test_a_full_disk_says_how_to_go_on_and_the_run_resumes(
    audit: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as disk:
        disk.setattr("bds.runs.directory.os.fsync", full)
        assert main(audit) == 3
    assert "no room" in one_sentence(capsys.readouterr())
    assert main(audit) == 0
    assert metrics_of(folder)["rows"]["scored"] == len(ROWS)


def test_a_gate_that_trips(audit: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(folder / "data.jsonl", [*ROWS, ROWS[0]])
    assert main([*audit, "--set", "run.fail_on.duplicate_fraction=0.1"]) == 5
    assert "duplicate_fraction" in one_sentence(capsys.readouterr())
    assert (folder / "run" / "report.html").exists()


def test_a_gate_that_does_not_exist(audit: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*audit, "--set", "run.fail_on.flaged_fraction=0.1"]) == 2
    assert not (folder / "run").exists(), "found before the run"
    assert "flaged_fraction" in one_sentence(capsys.readouterr())


def test_a_report_of_no_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder / "nowhere")]) == 3
    assert "nowhere" in one_sentence(capsys.readouterr())
