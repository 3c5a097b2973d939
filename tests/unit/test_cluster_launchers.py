"""The launcher files: what the jobs need of them, and what none may hold. Ray's own checks are in tests/integration."""

import shlex

import pytest

from bds.spec.load import load_spec
from tests.cluster_files import CLUSTER, ROOT, bds_commands, check_command, manifest, pinned_ray

CLOUDS = ("launcher-aws.yaml", "launcher-gcp.yaml")
LAUNCHERS = (*CLOUDS, "launcher-onprem.yaml")


@pytest.mark.parametrize("name", LAUNCHERS)
def test_the_head_has_no_work(name: str) -> None:
    launcher = manifest(name)
    if name in CLOUDS:
        assert launcher["available_node_types"][launcher["head_node_type"]]["resources"] == {"CPU": 0, "GPU": 0}
    else:
        (start,) = (line for line in launcher["head_start_ray_commands"] if "--head" in line)
        assert {"--num-cpus=0", "--num-gpus=0"} <= set(shlex.split(start))


@pytest.mark.parametrize("name", CLOUDS)
def test_the_workers_hold_the_actors_of_the_job(name: str) -> None:
    resources = load_spec(str(ROOT / "jobs" / "messages-s3.yaml")).resources
    types = manifest(name)["available_node_types"]
    assert types["gpu-score"]["max_workers"] == resources.actors
    assert types["gpu-score"]["resources"]["CPU"] >= resources.cpus_per_actor
    assert types["gpu-score"]["resources"]["GPU"] == resources.gpus_per_actor
    assert "GPU" not in types["cpu"]["resources"]
    assert manifest(name)["max_workers"] >= sum(each.get("max_workers", 0) for each in types.values())


@pytest.mark.parametrize("name", LAUNCHERS)
def test_nodes_share_a_file_system_and_a_token_that_is_in_no_file(name: str) -> None:
    launcher = manifest(name)
    options = shlex.split(" ".join(launcher["docker"]["run_options"]))
    assert any("/mnt/shared" in command for command in launcher["initialization_commands"])
    assert "/mnt/shared:/shared" in options
    environment = dict(word.split("=", 1) for word in options if "=" in word and not word.startswith("nofile"))
    assert environment["RAY_AUTH_MODE"] == "token"
    token = launcher["file_mounts"][environment["RAY_AUTH_TOKEN_PATH"]]
    assert token.startswith("~/")
    assert f"{token}" in (CLUSTER / "README.md").read_text()
    assert (CLUSTER / launcher["file_mounts"]["/jobs"]).resolve() == ROOT / "jobs"
    assert pinned_ray() in (CLUSTER / name).read_text()


@pytest.mark.parametrize("name", LAUNCHERS)
def test_ray_listens_to_the_dashboards_users_on_the_head_only_and_to_prometheus(name: str) -> None:
    launcher = manifest(name)
    starts = [line for key in ("head", "worker") for line in launcher[f"{key}_start_ray_commands"] if "start" in line]
    assert all("--metrics-export-port=8080" in line for line in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]


def test_the_cluster_readme_names_real_commands_files_and_the_pinned_ray() -> None:
    readme = (CLUSTER / "README.md").read_text()
    commands = bds_commands(readme)
    assert len(commands) >= 4
    for words in commands:
        check_command(words)
    assert pinned_ray() in readme
    hidden = {"README.md", "__pycache__"}
    assert all(f"`{file.name}`" in readme for file in CLUSTER.iterdir() if file.name not in hidden)
