"""What `bds submit --kuberay` and `--slurm` print: YAML that parses, a script that bash reads, every value named."""

import base64
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from bds.cli import main
from bds.launch import kuberay
from bds.runs.manifest import versions
from bds.spec.load import load_any_spec
from tests.unit.small_audit import write_small_audit
from tests.unit.small_finetune import write_small_finetune
from tests.unit.small_study import write_small_study

WRITERS = [write_small_audit, write_small_finetune, write_small_study]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["submit", *arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("write", WRITERS)
def test_a_rayjob_mounts_the_files_and_runs_the_command_of_the_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], write: Any
) -> None:
    spec_file = write(tmp_path)
    text = printed(capsys, str(spec_file), "--kuberay")
    config, job = yaml.safe_load_all(text)
    kind = load_any_spec(str(spec_file)).kind
    assert job["spec"]["entrypoint"] == f"bds {kind} /bds-job/spec.yaml --address auto"
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == versions()["ray"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        (mounted,) = [volume["configMap"] for volume in pod["volumes"] if "configMap" in volume]
        assert mounted["name"] == config["metadata"]["name"]
        assert {item["key"] for item in mounted["items"]} == {"spec", *config.get("binaryData", {})}
    # What the pods see at /bds-job is laid out here, and the spec must load from it.
    pods = tmp_path / "pod"
    for item in mounted["items"]:
        content = config.get("binaryData", {}).get(item["key"])
        file = pods / item["path"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(config["data"]["spec"].encode() if content is None else base64.b64decode(content))
    (pods / "spec.yaml").write_text((pods / "spec.yaml").read_text().replace("/bds-job", str(pods)))
    seen = load_any_spec(str(pods / "spec.yaml"))
    if seen.kind != "finetune":
        assert Path(seen.anchors.sets["harmful"].path).read_text() == (tmp_path / "harmful.jsonl").read_text()


def test_what_has_to_be_filled_in_is_said_at_the_top(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec_file = write_small_audit(tmp_path)
    for option in ("--kuberay", "--slurm"):
        text = printed(capsys, str(spec_file), option)
        lines = text.splitlines()
        head = "\n".join(line for line in lines[: next(i for i, line in enumerate(lines) if "--job-name" in line or
                                                       line.startswith("apiVersion"))])  # fmt: skip
        for path in (f"{tmp_path}/data.jsonl", f"{tmp_path}/model", f"{tmp_path}/run"):
            assert path in head
    assert "YOUR-IMAGE" in printed(capsys, str(spec_file), "--kuberay").partition("apiVersion")[0]


def test_files_that_no_config_map_holds_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kuberay, "_MAX_BYTES", 100)
    assert main(["submit", str(write_small_audit(tmp_path)), "--kuberay"]) == 3
    assert "more than a ConfigMap holds" in capsys.readouterr().err


def test_a_slurm_script_is_bash_and_has_the_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "with a space"
    folder.mkdir()
    spec_file = write_small_audit(folder)
    options = ("--set", "name=it's mine", "--run-dir", str(tmp_path / "r"), "--wait-for-resources", "10m")
    text = printed(capsys, str(spec_file), "--slurm", *options)
    checked = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    (line,) = [line for line in text.splitlines() if line.startswith("bds audit")]
    words = shlex.split(line.removesuffix(" &"))
    assert words == [
        *("bds", "audit", str(spec_file), "--address", "auto"),
        *("--set", "name=it's mine", "--set", f"run.dir={tmp_path / 'r'}"),
        *("--set", "resources.wait_seconds=600"),
    ]


def test_one_of_the_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", str(write_small_audit(tmp_path)), "--kuberay", "--slurm"]) == 2
    assert "give one of them" in capsys.readouterr().err
