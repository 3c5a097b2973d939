"""The files of cluster/ by the checks of Ray's launcher, command line and Ray Serve; and a local cluster for real."""

import copy
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.cluster_files import CLUSTER, manifest
from tests.integration.local_cluster import local_cluster
from tests.integration.test_audit_identity import wait_until

LAUNCHERS = ("launcher-aws.yaml", "launcher-gcp.yaml", "launcher-onprem.yaml")
MANIFESTS = ("rayjob.yaml", "raycluster.yaml", "rayservice.yaml")


def prepared(launcher: dict[str, Any]) -> dict[str, Any]:
    """As `ray up` reads the file, before it asks a cloud for anything."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config: dict[str, Any] = prepare_config(copy.deepcopy(launcher))
    validate_config(config)
    return config


@pytest.mark.parametrize("name", LAUNCHERS)
def test_ray_up_would_take_the_file(name: str) -> None:
    launcher = manifest(name)
    assert set(launcher) <= set(prepared(launcher)) | {"min_workers"}


@pytest.mark.parametrize("name", LAUNCHERS)
def test_ray_up_would_refuse_any_misspelt_key_of_the_file(name: str) -> None:
    launcher = manifest(name)
    places: list[tuple[str, ...]] = [(key,) for key in launcher]
    places += [("docker", key) for key in launcher["docker"]]
    places += [("auth", key) for key in launcher["auth"]]
    for node in launcher.get("available_node_types", {}):
        places += [("available_node_types", node, key) for key in launcher["available_node_types"][node]]
    for *path, key in places:
        wrong = copy.deepcopy(launcher)
        place = wrong
        for each in path:
            place = place[each]
        place[f"{key}x"] = place.pop(key)
        # A list of machines has no types that the file could name wrongly; Ray ends the program where it misses one.
        with pytest.raises((jsonschema.ValidationError, ValueError, KeyError, AssertionError, SystemExit)):
            prepared(wrong)


def ray_starts() -> list[list[str]]:
    lines = [line for name in LAUNCHERS for line in starts_of(manifest(name))]
    script = (CLUSTER / "bds.sbatch").read_text().replace("\\\n", " ")
    lines += re.findall(r"(?<= )ray start [^&\n]+", script)
    return [shlex.split(line) for line in lines]


def starts_of(launcher: dict[str, Any]) -> list[str]:
    lines = [*launcher["head_start_ray_commands"], *launcher["worker_start_ray_commands"]]
    return [line for line in lines if line.startswith("ray start")]


def test_ray_start_has_the_options_that_the_files_give_it() -> None:
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in (*parameter.opts, *parameter.secondary_opts)}
    starts = ray_starts()
    assert len(starts) == 8
    given = [word.partition("=")[0] for words in starts for word in words if word.startswith("--")]
    for name in MANIFESTS:
        spec = manifest(name)["spec"]
        cluster = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            given += [f"--{option}" for option in group["rayStartParams"]]
    assert set(given) <= known
    assert "--num-cpu" not in known


def test_ray_serve_would_take_the_configuration_of_the_service() -> None:
    from pydantic import ValidationError
    from ray.serve.schema import ServeDeploySchema

    configuration = yaml.safe_load(manifest("rayservice.yaml")["spec"]["serveConfigV2"])
    ServeDeploySchema.model_validate(configuration)
    (application,) = configuration["applications"]
    application["import_pathx"] = application.pop("import_path")
    with pytest.raises(ValidationError):
        ServeDeploySchema.model_validate(configuration)


@pytest.mark.slow
def test_ray_serve_llm_and_vllm_would_take_the_model_of_the_service() -> None:
    pytest.importorskip("vllm")
    from ray.serve.llm import LLMConfig
    from vllm.engine.arg_utils import AsyncEngineArgs

    (application,) = yaml.safe_load(manifest("rayservice.yaml")["spec"]["serveConfigV2"])["applications"]
    assert application["import_path"] == "ray.serve.llm:build_openai_app"
    (model,) = application["args"]["llm_configs"]
    LLMConfig.model_validate(model)
    fields = set(AsyncEngineArgs.__dataclass_fields__)
    assert set(model["engine_kwargs"]) <= fields
    with pytest.raises(ValueError, match="lora_configx"):
        LLMConfig.model_validate({**model, "lora_configx": model["lora_config"]})


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Ray has clusters of several nodes on Linux")
def test_a_local_cluster_has_its_nodes_asks_for_its_token_and_ends_what_it_started(tmp_path: Path) -> None:
    with local_cluster(tmp_path, "--workers", "2", "--cpus", "3", "--minutes", "4") as cluster:
        assert cluster.token.stat().st_mode & 0o777 == 0o600
        assert cpus_of(cluster.address, cluster.variables) == [0, 3, 3]
        assert cluster.wish("add") == "3 workers"
        assert cpus_of(cluster.address, cluster.variables) == [0, 3, 3, 3]
        assert cluster.wish("remove") == "2 workers"
        wait_until(lambda: cpus_of(cluster.address, cluster.variables) == [0, 3, 3], cluster.program)
        assert cluster.wish("away").startswith("'away' is not known")
        (tmp_path / "other").write_text("0" * 64)
        assert cpus_of(cluster.address, {**cluster.variables, "RAY_AUTH_TOKEN_PATH": str(tmp_path / "other")}) == []
    assert not cluster.token.parent.exists()
    left = subprocess.run(["ps", "-axo", "command="], capture_output=True, text=True, check=True).stdout
    assert str(cluster.token.parent) not in left


def cpus_of(address: str, variables: dict[str, str]) -> list[float]:
    """The CPUs of each live node, or none where the cluster does not let this program in."""
    code = (
        "import json, ray, sys\n"
        "ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')\n"
        "print(json.dumps([node['Resources'].get('CPU', 0) for node in ray.nodes() if node['Alive']]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, address],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    cpus: list[float] = json.loads(done.stdout) if done.returncode == 0 else []
    return sorted(cpus)
