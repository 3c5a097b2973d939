"""What can be known of a spec without reading the dataset or loading the model, checked before any work starts."""

import os
from collections.abc import Sequence
from pathlib import Path

from bds.errors import PreflightError, SpecError
from bds.spec.fields import nearest, suggestion
from bds.spec.models import AuditSpec
from bds.spec.paths import BUILTIN_TEMPLATES, is_uri

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt")


def check_spec(spec: AuditSpec) -> list[str]:
    """Check names, files and folders.

    Returns:
        Notes, one line each: what a user should know of the anchors, and what only the run itself can check.

    Raises:
        SpecError: an unknown detector or format, a detector without its anchors, an impossible selection.
        PreflightError: a file or folder that is not there or cannot be what the spec says.
    """
    from bds.scoring.learned_weights import cautions, weights_of

    _check_names(spec)
    _check_spread(spec)
    notes = check_data(spec.data.path, "field data.path")
    notes += check_model(spec.model.path, "field model.path")
    if spec.model.adapter is not None:
        notes += check_adapter(spec.model.adapter, "field model.adapter")
    check_template(spec.tokens.template)
    for index, detector in enumerate(spec.score.detectors or []):
        if detector.probe_prompts is not None:
            check_file(detector.probe_prompts, f"field score.detectors.{index}.probe_prompts")
        if detector.calibration is not None:
            check_file(detector.calibration, f"field score.detectors.{index}.calibration")
    notes += cautions(weights_of(spec.score.detectors or []))
    notes += _check_anchors(spec)
    check_run_dir(spec.run.dir)
    return notes


def _check_spread(spec: AuditSpec) -> None:
    """Raises SpecError where a model spread over processes cannot do what is asked."""
    parts = spec.resources.parts_per_model
    if parts == 1:
        return
    for field, asked in (
        ("model.adapter", spec.model.adapter is not None),
        ("score.parameters", spec.score.parameters == "lora"),
    ):
        if asked:
            raise SpecError(
                f"field {field}: a model with a LoRA adapter cannot be spread over processes; set "
                "resources.parts_per_model to 1, or merge the adapter into the model and score all parameters"
            )
    for index, detector in enumerate(spec.score.detectors or []):
        if detector.probe_prompts is not None:
            raise SpecError(
                f"field score.detectors.{index}.probe_prompts: a model spread over processes generates no answers to "
                "choose a layer by; set the detector's layer, or resources.parts_per_model to 1"
            )


def _check_names(spec: AuditSpec) -> None:
    from bds.report.metrics import gate_names
    from bds.scoring.checks import check_detectors, check_selections
    from bds.scoring.passes import requested_detectors, roles_of

    check_format(spec.data.format, "field data.format")
    detectors = requested_detectors(spec)
    check_detectors(detectors, roles_of(spec))
    check_selections(spec.select or [], detectors)
    gates = gate_names([detector.column for detector in detectors])
    for name in spec.run.fail_on:
        if name not in gates:
            raise SpecError(f"field run.fail_on: there is no gate '{name}'; {suggestion(name, gates)}")


def _check_anchors(spec: AuditSpec) -> list[str]:
    from bds.data.anchors import check_anchor_sets, load_anchor_set
    from bds.scoring.checks import check_detectors
    from bds.scoring.passes import requested_detectors, roles_of

    remote = [entry.path for entry in spec.anchors.sets.values() if is_uri(entry.path)]
    if remote:
        return [f"not checked: whether the anchors at {path} can be read" for path in remote]
    for name, entry in spec.anchors.sets.items():
        check_file(entry.path, f"field anchors.sets.{name}")
    anchors = {name: load_anchor_set(entry.path, name) for name, entry in spec.anchors.sets.items()}
    check_detectors(
        requested_detectors(spec), roles_of(spec), {name: len(samples) for name, samples in anchors.items()}
    )
    return check_anchor_sets(anchors, roles_of(spec))


def check_format(name: str, field: str) -> None:
    """Raises SpecError where there is no format of that name."""
    from bds.data.formats import FORMATS

    formats = ["auto", *FORMATS]
    if name not in formats:
        raise SpecError(f"{field}: '{name}' is not a format; {suggestion(name, formats)}")


def check_data(path: str, field: str) -> list[str]:
    """Raises PreflightError where the dataset is not there; returns a note where that cannot be known yet."""
    if is_uri(path):
        return [f"not checked: whether {path} can be read"]
    if os.path.isdir(path):
        if not any(os.scandir(path)):
            raise PreflightError(f"{field}: the folder {path} is empty; put the dataset's files in it")
        return []
    check_file(path, field)
    return []


def check_file(path: str, field: str) -> None:
    """Raises PreflightError where a file on this machine is not there, is empty or may not be read."""
    if is_uri(path):
        return
    if os.path.isdir(path):
        raise PreflightError(f"{field}: {path} is a folder; name the file in it")
    if not os.path.exists(path):
        raise PreflightError(f"{field}: {path} does not exist; {similar(path)}")
    if os.path.getsize(path) == 0:
        raise PreflightError(f"{field}: {path} is empty; check that it was written completely")
    if not os.access(path, os.R_OK):
        raise PreflightError(f"{field}: {path} may not be read; change its permissions")


def check_model(path: str, field: str) -> list[str]:
    """Raises PreflightError where the folder holds no model; returns a note where the hub decides."""
    return _check_model_folder(path, field, "config.json", TOKENIZER_FILES)


def check_adapter(path: str, field: str) -> list[str]:
    """Raises PreflightError where the folder holds no adapter; returns a note where the hub decides."""
    return _check_model_folder(path, field, "adapter_config.json", ())


def check_base(path: str, field: str) -> list[str]:
    """Raises PreflightError where the folder holds no checkpoint; it needs no tokenizer."""
    return _check_model_folder(path, field, "config.json", ())


def _check_model_folder(path: str, field: str, config: str, tokenizer_files: Sequence[str]) -> list[str]:
    if is_uri(path):
        raise PreflightError(f"{field}: {path} is a URI, and models load from a folder or the hub; copy it to a folder")
    if not os.path.isabs(path):
        return [f"not checked: whether the hub has {path} (no folder of that name is beside the spec)"]
    if not os.path.isdir(path):
        what = "is a file, not a model's folder" if os.path.exists(path) else "does not exist"
        raise PreflightError(f"{field}: {path} {what}; {similar(path)}, or give a Hugging Face name (owner/name)")
    if not os.path.isfile(os.path.join(path, config)):
        raise PreflightError(f"{field}: {path} has no {config}; name the folder that save_pretrained wrote")
    if tokenizer_files and not any(os.path.isfile(os.path.join(path, name)) for name in tokenizer_files):
        raise PreflightError(f"{field}: {path} has no tokenizer; save the model's tokenizer beside it")
    return []


def check_template(template: str) -> None:
    """Raises PreflightError where the template is neither a built-in one nor a file."""
    if template not in BUILTIN_TEMPLATES and not is_uri(template):
        builtin = " or ".join(BUILTIN_TEMPLATES)
        if not os.path.exists(template):
            raise PreflightError(
                f"field tokens.template: {template} does not exist; write {builtin}, or the path of a Jinja file"
            )
        check_file(template, "field tokens.template")


def check_run_dir(path: str) -> None:
    """Raises PreflightError where a run directory on this machine cannot be made or written to."""
    if is_uri(path):
        return
    if os.path.exists(path) and not os.path.isdir(path):
        raise PreflightError(f"field run.dir: {path} is a file; choose a folder, or one that does not exist yet")
    existing = Path(path)
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise PreflightError(f"field run.dir: {existing} is a file, so {path} cannot be made; choose another folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PreflightError(
            f"field run.dir: {existing} may not be written to; change its permissions or choose another"
        )


def similar(path: str) -> str:
    """A near miss in the same folder, or the nearest folder that does exist."""
    parent, name = os.path.split(path)
    if os.path.isdir(parent):
        close = nearest(name, os.listdir(parent))
        return f"did you mean {os.path.join(parent, close)}?" if close else "check the path"
    return f"its folder {parent} does not exist either, check the path"
