"""What can be known of fine-tunes without reading a dataset or loading a model, checked before any work starts."""

import os
from collections.abc import Collection

from bds.checks import (
    check_adapter,
    check_base,
    check_data,
    check_file,
    check_format,
    check_model,
    check_run_dir,
    check_template,
    similar,
)
from bds.errors import PreflightError, SpecError
from bds.runs.directory import RunDirectory
from bds.runs.messages import first_line
from bds.scoring.columns import score
from bds.spec.fields import suggestion
from bds.spec.finetune import FinetuneSpec, MixSpec, TrainingDataSpec, TrainingResourcesSpec
from bds.spec.mitigations import Filter, Mitigation
from bds.spec.paths import is_uri
from bds.training.data import data_source

AUDIT_SPEC = "spec.resolved.json"
SCORES = "scores.parquet"

FILES = ("refusals", "harmful", "safe")
"""Options of mitigations that name a file."""

NOT_SHARDED = ("ema", "lisa", "safe_lora", "loss_mask")
"""Mitigations that need every weight in one process, which fsdp2 spreads over the workers."""


def check_finetune_spec(spec: FinetuneSpec, to_come: Collection[str] = ()) -> list[str]:
    """Check names, files, folders, and what excludes what.

    Args:
        to_come: run directories of audits that will have run before the fine-tunes do.

    Returns:
        Notes, one line each: what only the run itself can check.

    Raises:
        SpecError: an unknown format, or a recipe, mitigation or way of sharding that cannot go together.
        PreflightError: a file, folder, audit or selection that is not there or cannot be what the spec says.
    """
    _check_sharding(spec)
    _check_trainers(spec.resources)
    _check_adapters(spec)
    _check_only(spec)
    notes = []
    for name, model in spec.models.items():
        field = f"field models.{name}"
        notes += check_model(model.path, f"{field}.path")
        notes += [] if model.adapter is None else check_adapter(model.adapter, f"{field}.adapter")
        notes += [] if model.base is None else check_base(model.base, f"{field}.base")
    for name, data in spec.datasets.items():
        notes += _check_dataset(data, f"field datasets.{name}", to_come)
    for index, stage in enumerate(spec.then):
        notes += _check_dataset(stage.data, f"field then.{index}.data", to_come)
    for name, mitigation in spec.mitigations.items():
        notes += _check_mitigation(mitigation, f"field mitigations.{name}")
    check_template(spec.tokens.template)
    check_run_dir(spec.run.dir)
    return list(dict.fromkeys(notes))


def _check_sharding(spec: FinetuneSpec) -> None:
    if spec.resources.sharding != "fsdp2":
        return
    if spec.resources.workers == 1:
        raise SpecError(
            "field resources.sharding: fsdp2 spreads a model over workers and there is one; set resources.workers to "
            "2 or more, or sharding to ddp"
        )
    for name, mitigation in spec.mitigations.items():
        if mitigation.method in NOT_SHARDED:
            raise SpecError(
                f"field mitigations.{name}: {mitigation.method} needs all weights in one process, which fsdp2 spreads "
                "over workers; set resources.sharding to ddp, or leave the mitigation out"
            )


def _check_only(spec: FinetuneSpec) -> None:
    for index, only in enumerate(spec.only):
        for dimension, names in only.model_dump(exclude_none=True).items():
            known = [str(name) for name in getattr(spec, dimension)]
            for name in names:
                if str(name) not in known:
                    raise SpecError(
                        f"field only.{index}.{dimension}: the spec has no {name} among its {dimension}; "
                        f"{suggestion(str(name), known)}"
                    )


def _check_trainers(resources: TrainingResourcesSpec) -> None:
    several = resources.finetunes_per_trainer
    if several != "auto" and several > 1 and resources.workers > 1:
        raise SpecError(
            f"field resources.finetunes_per_trainer: {several} fine-tunes cannot share a trainer of "
            f"{resources.workers} workers, where one that fails ends all the workers; set it to 1 or auto, or "
            "resources.workers to 1"
        )


def _check_adapters(spec: FinetuneSpec) -> None:
    """What each pair of recipe and mitigation trains must suit every model."""
    for recipe_name, recipe in spec.recipes.items():
        for name, mitigation in spec.mitigations.items():
            trains_adapter = recipe.parameters == "lora" or mitigation.method == "lora"
            if mitigation.method == "safe_lora" and not trains_adapter:
                raise SpecError(
                    f"field mitigations.{name}: safe_lora projects an adapter, and recipe {recipe_name} trains all "
                    f"parameters; set recipes.{recipe_name}.parameters to lora, or leave one of the two out"
                )
            for model_name, model in spec.models.items():
                if model.adapter is not None and not trains_adapter:
                    raise SpecError(
                        f"field models.{model_name}.adapter: recipe {recipe_name} trains all parameters and the model "
                        "has an adapter; merge the adapter into the model first, or take a LoRA recipe"
                    )
                if mitigation.method == "safe_lora" and model.base is None:
                    raise SpecError(
                        f"field models.{model_name}.base is missing; mitigation {name} (safe_lora) takes the alignment "
                        f"direction from it, add `base: ...` under `models.{model_name}`"
                    )


def _check_dataset(data: TrainingDataSpec, field: str, to_come: Collection[str]) -> list[str]:
    notes = [] if data.mix is None else _check_mix(data.mix, f"{field}.mix.into")
    if data.path is not None:
        check_format(data.format, f"{field}.format")
        return [*check_data(data.path, f"{field}.path"), *notes]
    assert data.audit is not None, "the spec has one of the two"
    if data.audit in to_come:
        return notes
    if is_uri(data.audit):
        return [f"not checked: whether {data.audit} holds the selection {data.selection}", *notes]
    _check_audit(data.audit, f"{field}.audit")
    try:
        data_source(data)
    except PreflightError as error:
        raise PreflightError(f"{field}.selection: {error}") from error
    return notes


def _check_mix(mix: MixSpec, field: str) -> list[str]:
    check_format(mix.into.format, f"{field}.format")
    return check_data(mix.into.path, f"{field}.path")


def _check_mitigation(mitigation: Mitigation, field: str) -> list[str]:
    if isinstance(mitigation, Filter):
        return _check_filter(mitigation, field)
    notes = []
    for name in FILES:
        path: str | None = getattr(mitigation, name, None)
        if path is not None and is_uri(path):
            notes.append(f"not checked: whether {path} can be read")
        elif path is not None:
            check_file(path, f"{field}.{name}")
    return notes


def _check_filter(mitigation: Filter, field: str) -> list[str]:
    if is_uri(mitigation.audit):
        return [f"not checked: whether {mitigation.audit} has scores of {mitigation.detector}"]
    _check_audit(mitigation.audit, f"{field}.audit")
    scored = _scored(mitigation.audit, f"{field}.audit")
    if mitigation.detector not in scored:
        raise PreflightError(
            f"{field}.detector: the audit {mitigation.audit} has no scores of '{mitigation.detector}'; "
            f"{suggestion(mitigation.detector, scored)}"
        )
    return []


def _check_audit(path: str, field: str) -> None:
    """The folder holds an audit that was begun."""
    if not os.path.isdir(path):
        what = "is a file, not a run directory" if os.path.exists(path) else "does not exist"
        raise PreflightError(f"{field}: {path} {what}; {similar(path)}, or run `bds audit` first")
    try:
        kind = RunDirectory(path).read_json(AUDIT_SPEC).get("kind", "audit")
    except FileNotFoundError as error:
        raise PreflightError(
            f"{field}: {path} is not the run directory of an audit (it has no {AUDIT_SPEC}); run `bds audit` first"
        ) from error
    if kind != "audit":
        raise PreflightError(f"{field}: {path} holds fine-tunes, not an audit; name the run directory of an audit")


def _scored(path: str, field: str) -> list[str]:
    """The detectors that the audit has scores of."""
    import polars as pl

    file = os.path.join(path, SCORES)
    if not os.path.exists(file):
        raise PreflightError(f"{field}: the audit {path} is not finished (it has no {SCORES}); run it to its end first")
    try:
        columns = pl.read_parquet_schema(file)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise PreflightError(f"{field}: {file} is damaged ({first_line(error)}); run the audit again") from error
    return [column.removeprefix(score("")) for column in columns if column.startswith(score(""))]
