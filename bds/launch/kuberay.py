"""A spec as a KubeRay RayJob: a cluster is made for it and removed after it. The files it needs go in a ConfigMap."""

import base64
import re
from typing import Any

import yaml

from bds.errors import PreflightError
from bds.launch.bundle import SPEC_FILE, Bundle, command_of
from bds.launch.names import job_name
from bds.runs.manifest import versions
from bds.spec.paths import is_uri

_FOLDER = "/bds-job"
_MAX_BYTES = 900_000
"""Kubernetes holds a mebibyte in a ConfigMap, names and all."""

_HEAD = """\
# {kind} {name} as a KubeRay RayJob. Fill in before `kubectl apply -f`:
#   YOUR-IMAGE      holds bds and Ray {ray}, on every node
#   workers         replicas, cpu, memory and nvidia.com/gpu of the group `workers`, to fit the spec's `resources`
#   bds-credentials a Secret with what storage and the hub need (optional)
{more}"""


def rayjob(bundle: Bundle) -> str:
    """YAML of a ConfigMap and a RayJob.

    Raises:
        PreflightError: the files are too large for a ConfigMap.
    """
    name = _kubernetes_name(job_name(bundle.spec))
    spec_text = bundle.spec_text(lambda inner, named: f"{_FOLDER}/files/{inner}")
    if bundle.bytes + len(spec_text.encode()) > _MAX_BYTES:
        raise PreflightError(
            f"the spec's files have {bundle.bytes:,} bytes, more than a ConfigMap holds: put the largest on storage "
            "that the cluster reaches and name them there"
        )
    keys = {file.name: f"file-{index}" for index, file in enumerate(bundle.files)}
    content = {keys[file.name]: base64.b64encode(file.source.read_bytes()).decode() for file in bundle.files}
    items = [{"key": "spec", "path": SPEC_FILE}]
    items += [{"key": key, "path": f"files/{inner}"} for inner, key in keys.items()]
    config: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": {"spec": spec_text},
    }
    if content:
        config["binaryData"] = content
    head = _HEAD.format(kind=bundle.spec.kind, name=bundle.spec.name, ray=versions()["ray"], more=_more(bundle))
    return head + yaml.safe_dump_all([config, _job(bundle, name, items)], sort_keys=False, allow_unicode=True)


def _more(bundle: Bundle) -> str:
    lines = [f"#   {field}: {path} is read as it is; mount it at that path on head and workers" for field, path in
             bundle.taken if not is_uri(path)]  # fmt: skip
    if not is_uri(bundle.run_dir):
        lines.append(f"#   run.dir: {bundle.run_dir} is a path; mount a volume there that all nodes share")
    return "".join(f"{line}\n" for line in lines)


def _job(bundle: Bundle, name: str, items: list[dict[str, str]]) -> dict[str, Any]:
    volumes = [
        {"name": "job", "configMap": {"name": name, "items": items}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "4Gi"}},
    ]
    mounts = [
        {"name": "job", "mountPath": _FOLDER, "readOnly": True},
        {"name": "shared-memory", "mountPath": "/dev/shm"},
    ]

    def container(role: str, amounts: dict[str, str], environment: list[dict[str, str]]) -> dict[str, Any]:
        return {
            "name": role,
            "image": "YOUR-IMAGE",
            "env": environment,
            "envFrom": [{"secretRef": {"name": "bds-credentials", "optional": True}}],
            "resources": {"requests": amounts, "limits": amounts},
            "volumeMounts": mounts,
        }

    # Ray kills a stopped job after 3 seconds; this leaves time to hand the lease back.
    patience = [{"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": "30"}]
    head = container("ray-head", {"cpu": "2", "memory": "8Gi"}, patience)
    worker = container("ray-worker", {"cpu": "5", "memory": "56Gi", "nvidia.com/gpu": "1"}, [])
    command = command_of(bundle.spec.kind, f"{_FOLDER}/{SPEC_FILE}", "--address", "auto")
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name},
        "spec": {
            "submissionMode": "SidecarMode",
            "entrypoint": " ".join(command),
            # A retry is a new cluster with the same command, which goes on from what the run directory holds.
            "backoffLimit": 2,
            "activeDeadlineSeconds": 86400,
            "preRunningDeadlineSeconds": 1800,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 300,
            "rayClusterSpec": {
                "rayVersion": versions()["ray"],
                "headGroupSpec": {
                    # The driver runs here, the work does not.
                    "rayStartParams": {"num-cpus": "0"},
                    "template": {"spec": {"restartPolicy": "Never", "containers": [head], "volumes": volumes}},
                },
                "workerGroupSpecs": [
                    {
                        "groupName": "workers",
                        "replicas": 1,
                        "minReplicas": 1,
                        "maxReplicas": 1,
                        "rayStartParams": {},
                        "template": {"spec": {"containers": [worker], "volumes": volumes}},
                    }
                ],
            },
        },
    }


def _kubernetes_name(name: str) -> str:
    """Lower-case letters, digits and dashes, 40 at most: KubeRay puts its own endings behind it."""
    return re.sub(r"[^a-z0-9]+", "-", f"bds-{name}".lower()).strip("-")[:40].strip("-")
