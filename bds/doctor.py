"""What this machine has and lacks: versions, libraries that load, GPUs, memory, storage, credentials."""

import importlib
import os
import platform
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from bds.errors import BdsError, PreflightError
from bds.runs.directory import RunDirectory
from bds.runs.machine import disk_complaint, free_bytes, main_memory
from bds.spec.finetune import FinetuneSpec
from bds.spec.identity import AnySpec
from bds.spec.models import AuditSpec

DISTRIBUTION = "benign-data-safety"

Verdict = Literal["ok", "note", "missing"]


@dataclass(frozen=True)
class Finding:
    subject: str
    verdict: Verdict
    """ok; note: works, with a limit worth knowing; missing: bds cannot do its work."""
    detail: str


def examine(run_dir: str | None = None) -> list[Finding]:
    """Everything that decides whether an audit can run here; writes and deletes one small file in `run_dir`."""
    findings = [_python(), *check_requirements(metadata.requires(DISTRIBUTION) or [])]
    findings += check_imports(("torch", "transformers", "ray"))
    findings += [_ray_cluster(), _gpus(), _memory(), _temporary_folder(), *_credentials()]
    if run_dir is not None:
        findings.append(check_storage(run_dir))
    return findings


def examine_spec(spec: AnySpec) -> list[Finding]:
    """What a run of the spec looks at before it begins, as far as this machine goes: inputs, the disk, the hub, memory.

    Models and anchors are looked at even where data is not here: on a cluster it may be elsewhere.
    """
    findings = [_inputs(spec), _disk(run_dir_of(spec)), *_hub(spec)]
    if any(finding.verdict == "missing" for finding in findings):
        return findings
    match spec.kind:
        case "audit":
            findings.append(_scoring_memory(spec))
        case "finetune":
            findings.append(_training_memory(spec))
    return findings


def run_dir_of(spec: AnySpec) -> str:
    return spec.run_dir if spec.kind == "moderate" else spec.run.dir


def _inputs(spec: AnySpec) -> Finding:
    from bds.submitting import check_any_spec

    try:
        notes = check_any_spec(spec)
    except BdsError as error:
        return Finding("inputs", "missing", str(error))
    return Finding("inputs", "note" if notes else "ok", "; ".join(notes) or "every file and folder of the spec is here")


def _disk(run_dir: str) -> Finding:
    run = RunDirectory(run_dir)
    free = free_bytes(run)
    told = disk_complaint(run, free)
    if told is not None:
        return Finding("disk", "missing", told)
    shown = "no limit is known" if free is None else f"{free / 2**30:.1f} GiB are free"
    return Finding("disk", "ok", f"{shown} for {run_dir}")


def _hub(spec: AnySpec) -> Iterator[Finding]:
    from bds.checks_hub import hub_complaint, in_cache
    from bds.spec.named_paths import hub_names

    for name in hub_names(spec):
        told = hub_complaint(name)
        if told is not None:
            yield Finding(name.name, "missing", f"field {name.field}: {told}")
        else:
            yield Finding(name.name, "ok", "in the cache" if in_cache(name) else "can be downloaded")


def _scoring_memory(spec: AuditSpec) -> Finding:
    from bds.distributed.workers import room_here
    from bds.scoring.dry_run import UnknownMemoryError
    from bds.scoring.memory import fit, lowered
    from bds.scoring.stages import memory_model

    subject = "memory of an actor"
    device, room = room_here()
    try:
        model = memory_model(spec, device)
        found = model.at(spec.score.token_budget) if room is None else fit(model, spec, room)
    except BdsError as error:
        return Finding(subject, "missing", str(error))
    except UnknownMemoryError as error:
        return Finding(subject, "note", f"cannot be said of this model ({error})")
    told = None if room is None else lowered(found, spec, room)
    return Finding(subject, "ok", found.describe()) if told is None else Finding(subject, "note", told)


def _training_memory(spec: FinetuneSpec) -> Finding:
    from bds.distributed.workers import room_here
    from bds.training.memory import memory_of_finetune, too_little

    device, room = room_here()
    try:
        needed = memory_of_finetune(spec, device)
    except BdsError as error:
        return Finding("memory of a worker", "missing", str(error))
    if needed is None:
        return Finding("memory of a worker", "note", "cannot be said of these models")
    told = None if room is None else too_little(needed, room)
    return Finding("memory of a worker", "ok" if told is None else "missing", told or needed.describe())


def doctor_text(findings: Sequence[Finding]) -> str:
    """One line a finding."""
    width = max(len(finding.subject) for finding in findings)
    return "\n".join(f"{finding.verdict:7}  {finding.subject:{width}}  {finding.detail}" for finding in findings)


def required_but_missing(findings: Sequence[Finding]) -> None:
    """Raises PreflightError that names what is missing."""
    missing = [finding.subject for finding in findings if finding.verdict == "missing"]
    if missing:
        raise PreflightError(f"{', '.join(missing)} cannot be used as it is; the lines above say what to do")


def check_requirements(requirements: Sequence[str]) -> Iterator[Finding]:
    """Each installed version against the range that bds is tested with; extras are left out.

    Args:
        requirements: As the package's metadata states them, for example `torch<2.14,>=2.13`.
    """
    for text in sorted(requirements):
        wanted, _, marker = text.partition(";")
        if "extra ==" in marker:
            continue
        name, versions = _split(wanted)
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding(name, "missing", f"not installed; run pip install '{wanted.strip()}'")
            continue
        if _fits(installed, versions):
            yield Finding(name, "ok", f"{installed} (tested with {versions})")
        else:
            yield Finding(name, "missing", f"{installed} is outside {versions}; run pip install '{wanted.strip()}'")


def check_storage(run_dir: str) -> Finding:
    """Write, read back and delete one small file."""
    name = f".bds-doctor-{uuid.uuid4().hex}"
    content = uuid.uuid4().bytes
    try:
        run = RunDirectory(run_dir)
        run.write_bytes(name, content)
        same = run.read_bytes(name) == content
        run.delete(name)
    except (PreflightError, OSError) as error:
        return Finding("run directory", "missing", str(error))
    if not same:
        return Finding(
            "run directory", "missing", f"{run_dir} gives back other bytes than were written; choose another"
        )
    return Finding("run directory", "ok", f"{run_dir} can be written, read and deleted from")


def _python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}")


def _split(requirement: str) -> tuple[str, str]:
    match = re.match(r"\s*([A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?\s*\(?([^)]*)\)?\s*$", requirement)
    assert match is not None, f"{requirement} is no requirement"
    return match[1], match[2].strip() or "any version"


def _fits(installed: str, versions: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return versions == "any version" or SpecifierSet(versions, prereleases=True).contains(installed)


def check_imports(names: Sequence[str]) -> Iterator[Finding]:
    """A library can be installed and still not load: a wrong CUDA build, a missing system library."""
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:
            reason = next(iter(str(error).splitlines()), "")
            detail = f"does not load ({type(error).__name__}: {reason}); install it again"
            yield Finding(f"import {name}", "missing", detail)


def _ray_cluster() -> Finding:
    if platform.system() != "Linux":
        return Finding("ray cluster", "note", "clusters are tested on Linux only; --local runs without Ray")
    address = os.environ.get("RAY_ADDRESS")
    here = f"RAY_ADDRESS is {address}" if address else "RAY_ADDRESS is not set, so a run starts Ray on this machine"
    return Finding("ray cluster", "ok", here)


def _gpus() -> Finding:
    """What torch sees, which is what scoring gets."""
    try:
        import torch

        count = torch.cuda.device_count()
        devices = [torch.cuda.get_device_properties(index) for index in range(count)]
    except Exception as error:
        return Finding("gpu", "note", f"torch cannot ask for GPUs ({type(error).__name__}); scoring runs on the CPU")
    if devices:
        names = [f"{device.name} ({device.total_memory / 2**30:.0f} GiB)" for device in devices]
        return Finding("gpu", "ok", "; ".join(names))
    if shutil.which("nvidia-smi") is not None:
        return Finding(
            "gpu", "note", "torch sees no GPU although an NVIDIA driver is installed; install torch for CUDA"
        )
    return Finding("gpu", "note", "none; scoring runs on the CPU")


def _memory() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = main_memory()
    shown = "" if memory is None else f", {memory / 2**30:.1f} GiB"
    return Finding("cpu and memory", "ok", f"{cores} cores{shown}")


def _temporary_folder() -> Finding:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free / 2**30
    if free < 1:
        return Finding("temporary folder", "note", f"{folder} has {free:.1f} GiB free; Ray needs about 1 GiB")
    return Finding("temporary folder", "ok", f"{folder} has {free:.1f} GiB free")


def _credentials() -> Iterator[Finding]:
    """Whether secrets are set, never what they are."""
    token_file = os.path.join(os.environ.get("HF_HOME", os.path.expanduser("~/.cache/huggingface")), "token")
    has_token = bool(os.environ.get("HF_TOKEN")) or os.path.exists(token_file)
    hub = "a token is set" if has_token else "no token; gated models and datasets need HF_TOKEN"
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    yield Finding("hugging face", "ok" if has_token else "note", hub + ("; HF_HUB_OFFLINE is on" if offline else ""))
    mode = os.environ.get("RAY_AUTH_MODE")
    yield Finding("ray authentication", "ok", f"RAY_AUTH_MODE is {mode}" if mode else "Ray's default (token)")
