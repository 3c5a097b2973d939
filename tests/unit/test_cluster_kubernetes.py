"""The manifests against the schemas of KubeRay's own resources, and against the jobs, the images and each other."""

import json
import shlex
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from bds.spec.load import load_spec
from tests.cluster_files import CLUSTER, ROOT, bds_commands, check_command, manifest, pinned_ray

SCHEMAS = json.loads((ROOT / "tests" / "data" / "kuberay-crds.json").read_text())
NAMES = ("rayjob.yaml", "raycluster.yaml", "rayservice.yaml")
MANIFESTS = {name: manifest(name) for name in NAMES}
RAYJOB = MANIFESTS["rayjob.yaml"]


def refused(document: dict[str, Any]) -> list[str]:
    """What the API server would refuse in strict mode. Metadata is no part of these schemas and checked by itself."""
    schema = {"$defs": SCHEMAS["$defs"], **SCHEMAS["kinds"][document["kind"]]}
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(document)]


def cluster_of(document: dict[str, Any]) -> dict[str, Any]:
    spec = document["spec"]
    cluster: dict[str, Any] = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    return cluster


def groups_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = cluster_of(document)
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def pods_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [group["template"]["spec"] for group in groups_of(document)]


def keys_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every key."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in entries:
        if isinstance(key, str):
            yield (*path, key)
        yield from keys_of(each, (*path, key))


def changed(document: dict[str, Any], path: tuple[Any, ...], change: Callable[[dict[str, Any], str], None]) -> Any:
    copy = deepcopy(document)
    place = copy
    for key in path[:-1]:
        place = place[key]
    change(place, path[-1])
    return copy


def misspell(place: dict[str, Any], key: str) -> None:
    place[f"{key}x"] = place.pop(key)


OF_THE_USER = {"limits", "requests", "rayStartParams", "metadata"}
"""Maps whose keys are anybody's."""


@pytest.mark.parametrize("name", NAMES)
def test_the_api_server_would_take_it(name: str) -> None:
    assert refused(MANIFESTS[name]) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_api_server_would_refuse_any_misspelt_key_of_it(name: str) -> None:
    document = MANIFESTS[name]
    fixed = [path for path in keys_of(document["spec"]) if not OF_THE_USER & set(path[:-1])]
    assert len(fixed) > 50
    # The validator of the whole is slow: keys that stand in several pods are misspelt once.
    once = {tuple(key for key in path if isinstance(key, str)): path for path in fixed}
    for path in once.values():
        assert refused(changed(document, ("spec", *path), misspell)), path


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "submissionMode"), 1),
        (("spec", "backoffLimit"), "2"),
        (("spec", "shutdownAfterJobFinishes"), "yes"),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "tokens"),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
    ],
)
def test_the_api_server_would_refuse_a_wrong_value(path: tuple[str, ...], value: object) -> None:
    assert refused(changed(RAYJOB, path, lambda place, key: place.update({key: value})))


def test_the_schemas_name_their_source() -> None:
    assert SCHEMAS["licence"] == "Apache-2.0"
    assert SCHEMAS["version"].removeprefix("v") in (CLUSTER / "README.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_the_operator_would_take_it(name: str) -> None:
    """What KubeRay 1.7 refuses beyond its schema (ray-operator/controllers/ray/utils/validation.go)."""
    document, cluster = MANIFESTS[name], cluster_of(MANIFESTS[name])
    assert set(document) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(document["metadata"]) == {"name"}
    assert document["apiVersion"] == "ray.io/v1"
    assert cluster["rayVersion"] == pinned_ray()
    assert cluster["authOptions"] == {"mode": "token"}
    head, *workers = groups_of(document)
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert len({group["groupName"] for group in workers}) == len(workers)
    for group in workers:
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    if cluster.get("enableInTreeAutoscaling"):
        assert cluster["autoscalerOptions"]["version"] == "v2"
        assert all(pod["restartPolicy"] == "Never" for pod in pods_of(document))


@pytest.mark.parametrize("name", NAMES)
def test_a_pod_mounts_what_it_names_bounds_what_it_takes_and_is_not_root(name: str) -> None:
    claim = manifest("shared-storage.yaml")["metadata"]["name"]
    for pod in pods_of(MANIFESTS[name]):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == claim
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == 1000
        (container,) = pod["containers"]
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert set(mounted) == set(volumes)
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {"name": "metrics", "containerPort": 8080} in container["ports"]


@pytest.mark.parametrize("name", [*NAMES, "shared-storage.yaml"])
def test_no_secret_stands_in_a_manifest(name: str) -> None:
    text = (CLUSTER / name).read_text()
    for document in yaml.safe_load_all(text):
        assert document["kind"] != "Secret"
        for path in keys_of(document):
            assert path[-1] not in {"stringData", "password", "token"}, path
    assert "_KEY" not in text
    assert "HF_TOKEN" not in text


def test_the_rayjob_resumes_on_a_new_cluster_and_leaves_nothing_behind() -> None:
    spec = RAYJOB["spec"]
    assert spec["submissionMode"] == "SidecarMode"
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"]
    assert spec["ttlSecondsAfterFinished"] > 0
    # The operator refuses these beside SidecarMode.
    assert not {"submitterPodTemplate", "submitterConfig", "clusterSelector"} & set(spec)
    words = shlex.split(spec["entrypoint"])
    check_command(words)
    assert (ROOT / "jobs" / Path(words[2]).name).exists()
    (head,) = pods_of(RAYJOB)[0]["containers"]
    mounts = {mount["mountPath"] for mount in head["volumeMounts"]}
    assert str(Path(words[2]).parent) in mounts


@pytest.mark.parametrize("name", NAMES)
def test_the_commands_in_a_manifests_comments_are_real(name: str) -> None:
    for words in bds_commands((CLUSTER / name).read_text()):
        check_command(words)


def test_the_workers_hold_the_actors_of_the_job() -> None:
    """Each worker has one actor's CPUs, GPU and memory, and there are as many workers as actors."""
    resources = load_spec(str(ROOT / "jobs" / "messages-s3.yaml")).resources
    (group,) = RAYJOB["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert group["replicas"] == resources.actors
    assert int(limits["nvidia.com/gpu"]) == resources.gpus_per_actor
    assert int(limits["cpu"]) >= resources.cpus_per_actor
    assert resources.memory_per_actor is not None
    assert int(limits["memory"].removesuffix("Gi")) > int(resources.memory_per_actor.removesuffix("GiB"))


def test_the_cluster_has_both_kinds_of_workers_and_probes_that_need_no_token() -> None:
    document = MANIFESTS["raycluster.yaml"]
    gpus = [pod["containers"][0]["resources"]["limits"].get("nvidia.com/gpu") for pod in pods_of(document)]
    assert gpus == [None, "1", None]
    for pod in pods_of(document):
        for probe in ("readinessProbe", "livenessProbe"):
            assert pod["containers"][0][probe]["httpGet"] == {"path": "/api/healthz", "port": 52365}
