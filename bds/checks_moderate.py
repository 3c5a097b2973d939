"""What can be known of a moderation without reading the dataset or loading a model, checked before any work starts."""

import os

from bds.checks import check_adapter, check_data, check_format, check_model, check_run_dir, similar
from bds.errors import PreflightError, SpecError
from bds.evaluation.judges import MODEL_JUDGES
from bds.evaluation.panel import PanelJudge, panel_judge
from bds.runs.directory import RunDirectory
from bds.runs.kind import SPEC, kind_of
from bds.spec.moderate import JudgeEngineSpec, ModerateSpec
from bds.spec.paths import is_uri

SCORES = "scores.parquet"

FORBIDDEN_PROMPTS_ONLY = ("harmbench", "strongreject_rubric", "strongreject_fine_tuned")
"""Judges of how well an answer does what a forbidden prompt asks: of ordinary rows they flag every good answer."""

OWN_ARGUMENTS = (
    *("model", "dtype", "max_model_len", "task_type", "enable_lora", "max_loras", "max_lora_rank"),
    *("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "distributed_executor_backend"),
)
"""Arguments of vLLM's engine that follow from the rest of the spec: one engine is one process on one device."""


def check_moderate_spec(spec: ModerateSpec) -> list[str]:
    """Check names, files, folders and judges.

    Returns:
        Notes, one line each: what only the run itself can check.

    Raises:
        SpecError: a judge that is unknown, cannot judge a dataset, or has an option that it does not read.
        PreflightError: a file, folder, model or audit that is not there or cannot be what the spec says.
    """
    _refuse_missing_models(spec)
    judges = [panel_judge(name, judge) for name, judge in spec.judges.items()]
    _check_engine(spec.engine, spec.resources.gpus_per_actor)
    notes = []
    for judge in judges:
        notes += _check_judge(judge)
    if spec.data is not None:
        check_format(spec.data.format, "field data.format")
        notes += check_data(spec.data.path, "field data.path")
    elif spec.audit is not None and not is_uri(spec.audit):
        _check_audit(spec.audit)
    elif spec.audit is not None:
        notes.append(f"not checked: whether {spec.audit} holds a finished audit")
    check_run_dir(spec.run_dir)
    return list(dict.fromkeys(notes))


def _refuse_missing_models(spec: ModerateSpec) -> None:
    for name, judge in spec.judges.items():
        method = MODEL_JUDGES.get(judge.method)
        if method is not None and judge.model is None and judge.endpoint is None:
            raise SpecError(
                f"field judges.{name}: {judge.method} is a model that judges; give its `model`, on the command line "
                f"--judge {judge.method}=MODEL (it is made for {method.model})"
            )


def _check_judge(judge: PanelJudge) -> list[str]:
    field = f"field judges.{judge.name}"
    if judge.method in FORBIDDEN_PROMPTS_ONLY:
        raise SpecError(
            f"{field}: {judge.method} judges how far an answer serves a forbidden prompt, so it would flag every good "
            "answer of an ordinary dataset; take a guard, such as llama_guard_3 or granite_guardian_4"
        )
    if judge.model is None:
        return []
    if judge.model.path is None:
        raise SpecError(f"{field}.endpoint: a moderation runs the judge's model itself; give `model` instead")
    notes = check_model(judge.model.path, f"{field}.model")
    return notes + ([] if judge.model.adapter is None else check_adapter(judge.model.adapter, f"{field}.adapter"))


def _check_audit(path: str) -> None:
    """The folder holds an audit that has ended."""
    if not os.path.isdir(path):
        what = "is a file, not a run directory" if os.path.exists(path) else "does not exist"
        raise PreflightError(f"field audit: {path} {what}; {similar(path)}, or run `bds audit` first")
    audit = RunDirectory(path)
    kind = kind_of(audit)
    if kind is None:
        raise PreflightError(
            f"field audit: {path} is not the run directory of an audit (it has no {SPEC}); run `bds audit` first"
        )
    if kind != "audit":
        raise PreflightError(f"field audit: {path} holds another kind of run ({kind}); name that of an audit")
    if not audit.exists(SCORES):
        raise PreflightError(f"field audit: {path} is not finished (it has no {SCORES}); run it to its end first")


def _check_engine(engine: JudgeEngineSpec, gpus: float | str) -> None:
    for name in engine.engine_args:
        if name in OWN_ARGUMENTS:
            raise SpecError(
                f"field engine.engine_args.{name}: this follows from the rest of the spec (one engine is one process "
                "on one device); leave it out"
            )
    if not isinstance(gpus, str) and gpus > 1:
        raise SpecError(
            f"field resources.gpus_per_actor: a judge runs on one GPU or a part of one, not on {gpus:g}; give 1"
        )
