"""`bds organism` and `bds demo` as a new user runs them; the tiny model comes from the cache that the tests share."""

import json
import shlex
from pathlib import Path

import pytest

from bds.checks import check_spec
from bds.cli import main
from bds.organism.layout import OrganismPaths
from bds.spec.load import load_study_spec, spec_from_options
from bds.spec.options import option_overrides, parse_anchors


def test_what_organism_writes_can_be_audited_with_the_command_it_prints(
    organism: OrganismPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "world"
    assert main(["organism", "--out", str(out)]) == 0
    *_, last = capsys.readouterr().err.splitlines()
    command = shlex.split(last.removeprefix("audit it with: "))
    assert command[:2] == ["bds", "audit"]
    values = dict(zip(command[2::2], command[3::2], strict=True))
    anchors = [word for flag, word in zip(command[2::2], command[3::2], strict=True) if flag == "--anchors"]
    options = option_overrides(model=values["--model"], data=values["--data"], anchors=parse_anchors(anchors))
    spec = spec_from_options(options)
    check_spec(spec)
    assert set(spec.anchors.sets) == {"harmful", "safe", "safe_2"}

    assert main(["organism", "--out", str(out), "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["model"] == str(out / "model")
    assert all(Path(path).exists() for path in written.values())
    assert {"base", "refusals"} < set(written)
    assert main(["organism", "--out", str(out), "--seed", "1"]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_the_demo_tells_its_story_resumes_and_rewrites_its_report(
    organism: OrganismPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    smaller = {"datasets.pool.limit": 60, "seeds": "[0]", "suites": f"[{{path: {organism.root}, limit: 8}}]"}
    settings = [word for name, value in smaller.items() for word in ("--set", f"{name}={value}")]
    command = ["demo", "--run-dir", str(run), "--local", *settings]
    assert main(command) == 0
    output = capsys.readouterr()
    report = run / "report.html"
    assert output.out == f"{report}\n"
    results = json.loads((run / "study.json").read_text())
    assert results["verdict"]["headline"] in output.err.splitlines()
    assert set(results["verdict"]["findings"]) <= set(output.err.splitlines())
    selections = {cell["selection"] for cell in results["cells"] if cell["measured"]}
    assert selections == {"top_100", "random_100", "whole", "filtered"}

    tables = {name: (run / name).read_bytes() for name in ("cells.parquet", "contrasts.parquet")}
    assert main(command) == 0
    assert {name: (run / name).read_bytes() for name in tables} == tables

    report.unlink()
    capsys.readouterr()
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"{report}\n"
    assert report.exists()
    written = load_study_spec(str(run / "demo.yaml"))
    assert written.datasets["pool"].path == str(organism.pool)
