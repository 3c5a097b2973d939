"""bds doctor: what is there, what is missing, and how to get it."""

import json
import os
from importlib import metadata
from pathlib import Path

import pytest

from bds.cli import main
from bds.doctor import check_imports, check_requirements, check_storage

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
