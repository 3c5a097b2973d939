"""bds doctor: what is there, what is missing, and how to get it."""

import json
import os
from importlib import metadata
from pathlib import Path

import pytest

import bds.distributed.workers as workers
from bds.cli import main
from bds.doctor import check_imports, check_requirements, check_storage
from bds.scoring.memory import Room
from bds.scoring.stages import memory_model
from bds.spec.load import load_spec
from tests.tiny_chat import tiny_chat
from tests.unit.small_audit import write_small_audit

INSTALLED = metadata.version("pydantic")


@pytest.mark.parametrize(
    ("requirement", "verdict", "detail"),
    [
        (f"pydantic=={INSTALLED}", "ok", f"{INSTALLED} (tested with =={INSTALLED})"),
        ("pydantic<3,>=2", "ok", INSTALLED),
        ("pydantic[email] (>=2)", "ok", INSTALLED),
        ("pydantic", "ok", "any version"),
        ("pydantic>=999", "missing", f"{INSTALLED} is outside >=999; run pip install 'pydantic>=999'"),
        ("no-such-package>=1", "missing", "not installed; run pip install 'no-such-package>=1'"),
    ],
)
def test_a_requirement(requirement: str, verdict: str, detail: str) -> None:
    (finding,) = check_requirements([requirement])
    assert finding.verdict == verdict
    assert detail in finding.detail


def test_extras_are_not_required() -> None:
    assert list(check_requirements(['no-such-package>=1; extra == "dev"'])) == []


def test_a_library_that_does_not_load() -> None:
    loads, broken = [*check_imports(("json",)), None], list(check_imports(("no_such_module",)))
    assert loads == [None]
    assert broken[0].verdict == "missing"
    assert "ModuleNotFoundError" in broken[0].detail


def test_storage_is_written_and_left_clean(tmp_path: Path) -> None:
    assert check_storage(str(tmp_path)).verdict == "ok"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="a file in a folder's place reads differently there")
def test_storage_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    finding = check_storage(str(tmp_path / "file" / "run"))
    assert finding.verdict == "missing"
    assert str(tmp_path / "file") in finding.detail


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("bds.doctor.check_imports", lambda names: check_imports(("json",)))
    monkeypatch.setenv("HF_TOKEN", "a-secret")
    assert main(["doctor", "--run-dir", str(tmp_path), "--json"]) == 0
    printed = capsys.readouterr().out
    assert "a-secret" not in printed
    subjects = {finding["subject"]: finding["verdict"] for finding in json.loads(printed)}
    assert subjects["torch"] == subjects["ray"] == subjects["run directory"] == "ok"


def test_what_is_missing_is_a_preflight_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bds.doctor.check_imports", lambda names: check_imports(("no_such_module",)))
    assert main(["doctor"]) == 3
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: import no_such_module cannot be used as it is; the lines above say what to do"
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spec whose model can be read."""
    folder = tmp_path_factory.mktemp("world")
    spec = write_small_audit(folder)
    tiny_chat(folder / "chat")
    text = spec.read_text().replace("path: model", "path: chat")
    spec.write_text(text + "tokens:\n  max_tokens: 64\n")
    return spec


def examined(
    spec: Path, *settings: str, exit_code: int, capsys: pytest.CaptureFixture[str]
) -> dict[str, dict[str, str]]:
    changed = [part for setting in settings for part in ("--set", setting)]
    assert main(["doctor", str(spec), *changed, "--json"]) == exit_code
    return {finding["subject"]: finding for finding in json.loads(capsys.readouterr().out)}


def test_a_spec_that_this_machine_can_run(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = examined(world, exit_code=0, capsys=capsys)
    assert {found[name]["verdict"] for name in ("run directory", "inputs", "disk", "memory of an actor")} == {"ok"}
    assert "weights 0.00" in found["memory of an actor"]["detail"]
    assert "activations of 8,192 tokens" in found["memory of an actor"]["detail"]


def test_batches_that_fit_and_an_actor_that_does_not(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = memory_model(load_spec(str(world), []), "cpu")
    fits, tiny = model.at(1024).total, model.at(64).total - 1
    monkeypatch.setattr(workers, "room_here", lambda: ("cpu", Room(fits, "this machine")))
    memory = examined(world, exit_code=0, capsys=capsys)["memory of an actor"]
    assert memory["verdict"] == "note"
    assert memory["detail"].startswith("batches hold 1,024 padded tokens instead of score.token_budget 8,192, because")
    monkeypatch.setattr(workers, "room_here", lambda: ("cpu", Room(tiny, "this machine")))
    memory = examined(world, exit_code=3, capsys=capsys)["memory of an actor"]
    assert memory["verdict"] == "missing"
    assert "shorter tokens.max_tokens" in memory["detail"]


def test_inputs_that_are_not_here(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = examined(world, "anchors.sets.safe=nowhere.jsonl", exit_code=3, capsys=capsys)
    assert found["inputs"]["verdict"] == "missing"
    assert "nowhere.jsonl does not exist" in found["inputs"]["detail"]
    assert "memory of an actor" not in found, "nothing can be said of anchors that are not here"


def test_a_model_of_the_hub(world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("bds.checks_hub.hub_complaint", lambda name: f"{name.name} is gated")
    found = examined(world, "model.path=owner/name", exit_code=3, capsys=capsys)
    assert found["owner/name"] == {
        "subject": "owner/name",
        "verdict": "missing",
        "detail": "field model.path: owner/name is gated",
    }
    assert found["inputs"]["verdict"] == "note"


def test_a_full_disk(world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("bds.doctor.free_bytes", lambda run: 2**29)
    disk = examined(world, exit_code=3, capsys=capsys)["disk"]
    assert disk["verdict"] == "missing"
    assert disk["detail"].startswith("0.50 GiB are free on the disk of ")


def test_the_plan_says_the_memory_when_it_is_asked_for(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(world), "--memory", "--json"]) == 0
    memory = json.loads(capsys.readouterr().out)["memory"]
    assert (memory["process"], memory["device"]) == ("actor", "cpu")
    assert memory["total"] == max(
        memory["weights"] + memory["anchors"] + memory["activations"] + memory["workspace"],
        memory["preparing"],
        memory["checking"],
        memory["storing"],
    )
    assert main(["plan", str(world), "--memory", "--set", "resources.gpus_per_actor=1"]) == 0
    assert "memory of one actor on a GPU: 0." in capsys.readouterr().err
