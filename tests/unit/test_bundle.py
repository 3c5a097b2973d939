"""What goes along with a submitted spec: the small files that it names, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from bds.cli import main
from bds.errors import PreflightError
from bds.launch import bundle as bundle_module
from bds.launch.bundle import Bundle, make_bundle, place_files, write_bundle
from bds.launch.names import job_name
from bds.spec.load import load_any_spec
from bds.spec.overrides import Override
from tests.unit.small_audit import write_rows, write_small_audit
from tests.unit.small_finetune import write_small_finetune
from tests.unit.small_moderation import write_small_moderation
from tests.unit.small_study import write_small_study


def bundled(spec_file: Path, *overrides: str | Override) -> Bundle:
    return make_bundle(load_any_spec(str(spec_file), overrides))


def names(bundle: Bundle) -> list[str]:
    return sorted(file.name.partition("/")[2] for file in bundle.files)


def unpacked(bundle: Bundle, folder: Path) -> Any:
    """The spec as the job loads it, out of an uploaded bundle."""
    folder.mkdir()
    write_bundle(bundle, folder)
    place_files(str(folder / "bundle.json"))
    return load_any_spec(str(folder / "spec.yaml"))


def test_an_audit_takes_its_anchors_along_and_neither_data_nor_model(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "secret.env").write_text("x")
    bundle = bundled(write_small_audit(tmp_path))
    assert names(bundle) == ["harmful.jsonl", "safe.jsonl"]
    assert dict(bundle.taken) == {"data.path": f"{tmp_path}/data.jsonl", "model.path": f"{tmp_path}/model"}
    (tmp_path / "out").mkdir()
    write_bundle(bundle, tmp_path / "out")
    written = sorted(file.name for file in (tmp_path / "out").rglob("*") if file.is_file())
    assert written == ["bundle.json", "harmful.jsonl", "safe.jsonl", "spec.yaml"]


def test_the_job_finds_the_files_in_its_run_directory(tmp_path: Path) -> None:
    spec_file = write_small_audit(tmp_path)
    spec = load_any_spec(str(spec_file))
    seen = unpacked(make_bundle(spec), tmp_path / "job")
    for name in ("harmful", "safe"):
        placed = Path(seen.anchors.sets[name].path)
        assert placed.parts[: len(tmp_path.parts) + 2] == (*tmp_path.parts, "run", "submitted")
        assert placed.read_bytes() == Path(spec.anchors.sets[name].path).read_bytes()
    unchanged = {"anchors"}
    assert seen.model_dump(exclude=unchanged) == spec.model_dump(exclude=unchanged)


def test_the_same_content_has_the_same_place_and_another_one_another(tmp_path: Path) -> None:
    spec_file = write_small_audit(tmp_path)
    before = {file.name for file in bundled(spec_file).files}
    assert {file.name for file in bundled(spec_file).files} == before
    write_rows(tmp_path / "harmful.jsonl", [{"prompt": "another", "answer": "one"}])
    assert len(before - {file.name for file in bundled(spec_file).files}) == 1


def test_fine_tunes_take_recipes_within_the_spec_and_refusals_as_a_file(tmp_path: Path) -> None:
    spec_file = write_small_finetune(
        tmp_path, mitigations={"mix": {"method": "safety_mix", "refusals": "refusals.jsonl"}}
    )
    bundle = bundled(spec_file)
    assert names(bundle) == ["refusals.jsonl"]
    assert {"models.small.path", "datasets.rows.path", "datasets.top.audit"} == {field for field, _ in bundle.taken}
    seen = unpacked(bundle, tmp_path / "job")
    assert seen.recipes == load_any_spec(str(spec_file)).recipes


@pytest.mark.parametrize("write", [write_small_study, write_small_moderation])
def test_other_kinds_load_again_as_they_were(tmp_path: Path, write: Any) -> None:
    spec = load_any_spec(str(write(tmp_path)))
    seen = unpacked(make_bundle(spec), tmp_path / "job")
    changed = {"anchors", "mitigations"}
    assert seen.model_dump(exclude=changed) == spec.model_dump(exclude=changed)


def test_suites_and_policies_of_an_evaluation(tmp_path: Path) -> None:
    (tmp_path / "suite" / "private").mkdir(parents=True)
    (tmp_path / "suite" / "suite.yaml").write_text("name: mine\n")
    (tmp_path / "suite" / "prompts.jsonl").write_text("{}\n")
    (tmp_path / "suite" / ".hidden").write_text("no")
    (tmp_path / "suite" / "private" / "answers.jsonl").write_text("no")
    (tmp_path / "policy.txt").write_text("Do not.")
    (tmp_path / "spec.yaml").write_text(
        "kind: evaluate\nmodels: {one: owner/name}\nsuites: [./suite, placeholder]\n"
        "judges: {rated: {method: policy, model: ./judge, policy: policy.txt}}\nrun: {dir: s3://bucket/run}\n"
    )
    bundle = bundled(tmp_path / "spec.yaml")
    assert names(bundle) == ["policy.txt", "suite/prompts.jsonl", "suite/suite.yaml"]
    assert dict(bundle.taken) == {"judges.rated.model": f"{tmp_path}/judge"}
    (tmp_path / "job").mkdir()
    write_bundle(bundle, tmp_path / "job")
    seen = load_any_spec(str(tmp_path / "job" / "spec.yaml"))
    assert (Path(seen.suites[0].path) / "suite.yaml").is_file(), "a bucket cannot be read as a folder: beside the spec"
    assert seen.models["one"].path == "owner/name"


def test_what_is_large_stays_and_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module, "MAX_FILE_BYTES", 50)
    bundle = bundled(write_small_audit(tmp_path))
    assert bundle.files == ()
    assert "anchors.sets.harmful.path" in dict(bundle.taken)
    assert any("anchors.sets.harmful.path" in line for line in bundle.lines())


def test_a_bucket_gets_the_anchors_by_its_own_name(tmp_path: Path) -> None:
    bundle = bundled(write_small_audit(tmp_path), "run.dir=s3://bucket/run")
    (tmp_path / "job").mkdir()
    write_bundle(bundle, tmp_path / "job")
    seen: Any = load_any_spec(str(tmp_path / "job" / "spec.yaml"))
    assert seen.anchors.sets["safe"].path.startswith("s3://bucket/run/submitted/")
    assert not any("must share it" in line for line in bundle.lines())


def test_unpacking_twice_copies_once(tmp_path: Path) -> None:
    bundle = bundled(write_small_audit(tmp_path))
    (tmp_path / "job").mkdir()
    write_bundle(bundle, tmp_path / "job")
    assert place_files(str(tmp_path / "job" / "bundle.json")) == 2
    assert place_files(str(tmp_path / "job" / "bundle.json")) == 0
    (tmp_path / "job" / "bundle.json").write_text("{}")
    with pytest.raises(PreflightError, match="is no bundle"):
        place_files(str(tmp_path / "job" / "bundle.json"))


def test_the_name_of_a_job(tmp_path: Path) -> None:
    spec_file = write_small_audit(tmp_path)
    assert job_name(load_any_spec(str(spec_file))) == "run"
    assert job_name(load_any_spec(str(spec_file), ["name=größe one"])) == "gr__e_one"
    assert job_name(load_any_spec(str(spec_file), ["name=My audit 1.0"])) == "My_audit_1.0"


def test_a_wrong_spec_is_refused_before_any_cluster_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec_file = write_small_audit(tmp_path)
    nobody = ["--address", "http://127.0.0.1:9"]
    assert main(["submit", str(spec_file), "--set", "score.detectors=[larff]", *nobody]) == 2
    assert "larff" in capsys.readouterr().err
    (tmp_path / "harmful.jsonl").write_text('{"prompt": "no answer"}\n')
    assert main(["submit", str(spec_file), *nobody]) == 3
    assert "anchor set harmful" in capsys.readouterr().err


def test_what_only_the_cluster_has_is_left_to_the_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec_file = write_small_audit(tmp_path)
    assert main(["submit", str(spec_file), "--set", "data.path=/only/there.jsonl", "--slurm"]) == 0
    told = capsys.readouterr()
    assert "note: not checked here: field data.path: /only/there.jsonl does not exist" in told.err
    assert "data.path: /only/there.jsonl" in told.out


def test_the_manifest_of_a_bundle_names_no_more_than_its_files(tmp_path: Path) -> None:
    bundle = bundled(write_small_audit(tmp_path))
    (tmp_path / "job").mkdir()
    write_bundle(bundle, tmp_path / "job")
    facts = json.loads((tmp_path / "job" / "bundle.json").read_text())
    assert sorted(facts) == ["files", "run_dir"]
    assert yaml.safe_load((tmp_path / "job" / "spec.yaml").read_text())["kind"] == "audit"
