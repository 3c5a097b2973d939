"""The commands as functions: `bds.audit(...)`, `finetune`, `evaluate`, `moderate` and `study`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bds.checks import check_spec
from bds.checks_evaluate import check_evaluate_spec
from bds.checks_finetune import check_finetune_spec
from bds.checks_moderate import check_moderate_spec
from bds.checks_study import check_study_spec
from bds.spec.evaluate import EvaluateSpec
from bds.spec.finetune import FinetuneSpec
from bds.spec.load import (
    evaluate_spec_from_options,
    finetune_spec_from_options,
    load_study_spec,
    moderate_spec_from_options,
    spec_from_options,
)
from bds.spec.models import AuditSpec, Block
from bds.spec.moderate import ModerateSpec
from bds.spec.options import (
    Entries,
    evaluate_overrides,
    finetune_overrides,
    moderate_overrides,
    option_overrides,
    study_overrides,
)
from bds.spec.overrides import Override, setting_override
from bds.spec.study import StudySpec

if TYPE_CHECKING:
    from bds.distributed.audit import AuditResult
    from bds.distributed.evaluate import EvaluationResult
    from bds.distributed.finetune import FinetuneResult
    from bds.distributed.moderate import ModerationResult
    from bds.distributed.study import StudyResult


def audit(
    *,
    model: str,
    data: str,
    detectors: Sequence[str] | None = None,
    anchors: Mapping[str, str] | None = None,
    top: int | None = None,
    run_dir: str | None = None,
    format: str | None = None,
    limit: int | None = None,
    address: str | None = None,
    settings: Mapping[str, Any] | None = None,
    fresh: bool = False,
    local: bool = False,
) -> "AuditResult":
    """Score every row of a dataset against a chat model and write selections and report; resumes a stopped run.

    Args:
        model: A local directory or a Hugging Face model name.
        data: A file, a folder, any pyarrow.fs URI, or `hf://owner/name`.
        detectors: Names that `bds ls detectors` prints; None for every one that the anchors allow.
        anchors: Set name to file; a name begins with `harmful` or `safe`.
        top: Rows in each selection; None for the default selections of 100.
        run_dir: A path or any pyarrow.fs URI; None for `runs/<data>-<model>`.
        format: Format of the dataset; None detects it.
        limit: Read only the first rows.
        address: A Ray cluster; None for this machine.
        settings: Any other field of the spec by its dotted name, for example `{"tokens.max_tokens": 512}`.
        fresh: Start anew in a run directory that holds another run.
        local: Run in this process, without Ray.

    Raises:
        SpecError, PreflightError: something is wrong before any work starts.
        BdsError: the run failed. A tripped gate or too many failed rows do not raise: see `AuditResult.exit_error`.
    """
    options = option_overrides(
        model=model,
        data=data,
        format=format,
        detectors=detectors,
        anchors=anchors,
        top=top,
        limit=limit,
        run_dir=run_dir,
        address=address,
        prefix="bds.audit ",
    )
    spec = spec_from_options([*options, *_settings(settings, "bds.audit", AuditSpec)], source="bds.audit")
    check_spec(spec)
    from bds.distributed.audit import run_audit

    return run_audit(spec, fresh=fresh, local=local)


def finetune(
    *,
    models: Entries,
    datasets: Entries,
    recipes: Entries,
    mitigations: Entries | None = None,
    seeds: Sequence[int] | None = None,
    run_dir: str | None = None,
    address: str | None = None,
    settings: Mapping[str, Any] | None = None,
    fresh: bool = False,
    local: bool = False,
) -> "FinetuneResult":
    """Train every model on every dataset by every recipe under every mitigation with each seed; resumes a stopped run.

    `models`, `datasets`, `recipes` and `mitigations` map names to a string or to the fields of their block, or list
    strings, whose last parts become the names.

    Args:
        models: Local directories or Hugging Face model names.
        datasets: Files, folders, any pyarrow.fs URIs, or `hf://owner/name`.
        recipes: Recipe files.
        mitigations: Names that `bds ls mitigations` prints; None for plain fine-tuning.
        seeds: Each is a fine-tune of its own; None for seed 0.
        run_dir: A path or any pyarrow.fs URI; None for `runs/finetune-<dataset>-<model>`, after the first of each.
        address: A Ray cluster; None for this machine.
        settings: Any other field of the spec by its dotted name, for example `{"tokens.max_tokens": 512}`.
        fresh: Start anew in a run directory that holds another run.
        local: Run in this process, without Ray.

    Raises:
        SpecError, PreflightError: something is wrong before any work starts.
        BdsError: the run failed. A fine-tune that failed does not raise: see `FinetuneResult.exit_error`.
    """
    options = finetune_overrides(
        models=models,
        datasets=datasets,
        recipes=recipes,
        mitigations=mitigations,
        seeds=seeds,
        run_dir=run_dir,
        address=address,
        prefix="bds.finetune ",
    )
    others = _settings(settings, "bds.finetune", FinetuneSpec)
    spec = finetune_spec_from_options([*options, *others], source="bds.finetune")
    check_finetune_spec(spec)
    from bds.distributed.finetune import run_finetunes

    return run_finetunes(spec, fresh=fresh, local=local)


def evaluate(
    *,
    models: Entries | None = None,
    suites: Sequence[str],
    finetunes: Sequence[str] | None = None,
    judges: Entries | None = None,
    tasks: Sequence[str] | None = None,
    run_dir: str | None = None,
    address: str | None = None,
    settings: Mapping[str, Any] | None = None,
    fresh: bool = False,
    local: bool = False,
) -> "EvaluationResult":
    """Have every model answer every suite and every judge judge; what the run directory holds is not asked again.

    Args:
        models: Local directories or Hugging Face model names; the first is the baseline. By name, each may also be the
            fields of its block: adapter, endpoint, group, seed.
        suites: Folders or files with prompts, or `placeholder`.
        finetunes: Run directories of `bds.finetune`: each fine-tune is a condition, too.
        judges: Names that `bds ls judges` prints, or by name the fields of a block; None for two by keywords.
        tasks: Of lm-eval: names or YAML files.
        run_dir: A path or any pyarrow.fs URI; None for `runs/evaluate-<model>`, after the first.
        address: A Ray cluster; None for this machine.
        settings: Any other field of the spec by its dotted name, for example `{"sampling.max_tokens": 256}`.
        fresh: Start anew in a run directory that holds another run.
        local: Answer with transformers in this process, without Ray.

    Raises:
        SpecError, PreflightError: something is wrong before any model loads.
        BdsError: a server fell silent, or a served adapter changes nothing. Too many answers without a verdict do not
            raise: see `EvaluationResult.exit_error`.
    """
    options = evaluate_overrides(
        models=models,
        finetunes=finetunes,
        suites=suites,
        judges=judges,
        tasks=tasks,
        run_dir=run_dir,
        address=address,
        prefix="bds.evaluate ",
    )
    others = _settings(settings, "bds.evaluate", EvaluateSpec)
    spec = evaluate_spec_from_options([*options, *others], source="bds.evaluate")
    check_evaluate_spec(spec)
    from bds.distributed.evaluate import run_evaluation

    return run_evaluation(spec, fresh=fresh, local=local)


def moderate(
    *,
    data: str | None = None,
    audit: str | None = None,
    judges: Entries,
    format: str | None = None,
    limit: int | None = None,
    run_dir: str | None = None,
    address: str | None = None,
    settings: Mapping[str, Any] | None = None,
    fresh: bool = False,
    local: bool = False,
) -> "ModerationResult":
    """Have judges judge the last answer of every row of a dataset, or of an audit's; resumes a stopped run.

    Args:
        data: A file, a folder, any pyarrow.fs URI, or `hf://owner/name`.
        audit: Instead of data: the run directory of an audit, whose report then shows the verdicts.
        judges: Names of judges that need no model, or by name the fields of a block: method and model.
        format: Format of the dataset; None detects it.
        limit: Read only the first rows.
        run_dir: A path or any pyarrow.fs URI; None for `runs/moderate-<data>`.
        address: A Ray cluster; None for this machine.
        settings: Any other field of the spec by its dotted name.
        fresh: Start anew in a run directory that holds another run.
        local: Judge with transformers in this process, without Ray.

    Raises:
        SpecError, PreflightError: something is wrong before any model loads.
        BdsError: an engine stopped. Too many answers without a verdict do not raise: see `ModerationResult.exit_error`.
    """
    options = moderate_overrides(
        data=data,
        audit=audit,
        format=format,
        judges=judges,
        limit=limit,
        run_dir=run_dir,
        address=address,
        prefix="bds.moderate ",
    )
    others = _settings(settings, "bds.moderate", ModerateSpec)
    spec = moderate_spec_from_options([*options, *others], source="bds.moderate")
    check_moderate_spec(spec)
    from bds.distributed.moderate import run_moderation

    return run_moderation(spec, fresh=fresh, local=local)


def study(
    spec: str,
    *,
    run_dir: str | None = None,
    address: str | None = None,
    settings: Mapping[str, Any] | None = None,
    fresh: bool = False,
    local: bool = False,
) -> "StudyResult":
    """Choose samples on some models and break others with them: what is missing of a study's steps.

    Args:
        spec: The YAML file of the study.
        run_dir: A folder; None for the spec's own.
        address: A Ray cluster; None for this machine.
        settings: Any field of the spec by its dotted name, for example `{"seeds": [0, 1, 2]}`.
        fresh: Start anew in a run directory that holds another run.
        local: Run every step in this process, without Ray.

    Raises:
        SpecError, PreflightError: something is wrong before any step begins.
        BdsError: the study failed. A step without all its results does not raise: see `StudyResult.exit_error`.
    """
    options = study_overrides(run_dir=run_dir, address=address, prefix="bds.study ")
    requested = load_study_spec(spec, [*options, *_settings(settings, "bds.study", StudySpec)])
    check_study_spec(requested)
    from bds.distributed.study import run_study

    return run_study(requested, fresh=fresh, local=local)


def _settings(settings: Mapping[str, Any] | None, origin: str, root: type[Block]) -> list[Override]:
    return [setting_override(name, value, origin, root) for name, value in (settings or {}).items()]
