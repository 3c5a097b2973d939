"""A spec from a file, from options or from both: read, overridden, validated once, with absolute paths."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any, TypeVar

from pydantic import ValidationError

from bds.errors import SpecError
from bds.spec.document import Document, Path, dotted
from bds.spec.entries import entries_at, folder_name, written_out
from bds.spec.evaluate import EvaluateSpec
from bds.spec.fields import place_at
from bds.spec.files import read_document, stem
from bds.spec.finetune import FinetuneSpec
from bds.spec.identity import AnySpec
from bds.spec.kinds import AUDIT, EVALUATE, FINETUNE, MODERATE, STUDY, Kind, kind_of, refuse_other_kind
from bds.spec.models import AuditSpec, Block
from bds.spec.moderate import ModerateSpec
from bds.spec.overrides import Override, apply_overrides, parse_override
from bds.spec.paths import resolve_paths
from bds.spec.problems import spec_error, where
from bds.spec.recipes import with_recipe_files
from bds.spec.study import StudySpec

Spec = TypeVar("Spec", AuditSpec, FinetuneSpec, EvaluateSpec, ModerateSpec, StudySpec)


def load_spec(path: str, overrides: Sequence[str | Override] = ()) -> AuditSpec:
    """The audit spec in a YAML file, with `--set` overrides applied.

    A relative path in the file is relative to the file's folder; one in an override is relative to the current folder.

    Raises:
        SpecError: one sentence with file, line, field and the way out.
    """
    return build_spec(_document(path, AUDIT), overrides, folder=FilePath(path).absolute().parent)


def load_finetune_spec(path: str, overrides: Sequence[str | Override] = ()) -> FinetuneSpec:
    """The fine-tune spec in a YAML file as `load_spec` reads an audit's, with what its recipe files say.

    Raises:
        SpecError: one sentence with file, line, field and the way out.
    """
    return build_finetune_spec(_document(path, FINETUNE), overrides, folder=FilePath(path).absolute().parent)


def load_evaluate_spec(path: str, overrides: Sequence[str | Override] = ()) -> EvaluateSpec:
    """The spec of an evaluation in a YAML file, as `load_spec` reads an audit's.

    Raises:
        SpecError: one sentence with file, line, field and the way out.
    """
    return build_evaluate_spec(_document(path, EVALUATE), overrides, folder=FilePath(path).absolute().parent)


def load_moderate_spec(path: str, overrides: Sequence[str | Override] = ()) -> ModerateSpec:
    """The spec of a moderation in a YAML file, as `load_spec` reads an audit's.

    Raises:
        SpecError: one sentence with file, line, field and the way out.
    """
    return build_moderate_spec(_document(path, MODERATE), overrides, folder=FilePath(path).absolute().parent)


def load_study_spec(path: str, overrides: Sequence[str | Override] = ()) -> StudySpec:
    """The spec of a study in a YAML file, as `load_finetune_spec` reads one of fine-tunes.

    Raises:
        SpecError: one sentence with file, line, field and the way out.
    """
    return build_study_spec(_document(path, STUDY), overrides, folder=FilePath(path).absolute().parent)


def load_any_spec(path: str, overrides: Sequence[str | Override] = ()) -> AnySpec:
    """The spec in a YAML file, of the kind that the file says; an audit where nothing tells.

    Raises:
        SpecError: one sentence with file, line, field and the way out.
    """
    return _of_its_kind(read_document(path, AUDIT), overrides, FilePath(path).absolute().parent)


def resolved_spec(value: Mapping[str, Any], source: str, overrides: Sequence[str | Override] = ()) -> AnySpec:
    """The spec that a run directory keeps, with overrides applied; its paths are absolute already.

    Args:
        source: what messages call it.

    Raises:
        SpecError: it was written by another version of bds, or an override does not fit.
    """
    return _of_its_kind(Document(source, dict(value)), overrides, FilePath.cwd())


def _of_its_kind(document: Document, overrides: Sequence[str | Override], folder: FilePath) -> AnySpec:
    if kind_of(document) is FINETUNE:
        return build_finetune_spec(document, overrides, folder=folder)
    if kind_of(document) is EVALUATE:
        return build_evaluate_spec(document, overrides, folder=folder)
    if kind_of(document) is MODERATE:
        return build_moderate_spec(document, overrides, folder=folder)
    if kind_of(document) is STUDY:
        return build_study_spec(document, overrides, folder=folder)
    refuse_other_kind(document, AUDIT)
    return build_spec(document, overrides, folder=folder)


def spec_from_options(overrides: Sequence[str | Override], *, source: str = "command line") -> AuditSpec:
    """The spec that `bds audit --model M --data D` stands for; without a run directory it is runs/<data>-<model>.

    Raises:
        SpecError: one sentence with the option and the way out.
    """
    parsed = _parsed(overrides, AuditSpec)
    given = {override.path: override.value for override in parsed}
    model, data = given.get(("model", "path")), given.get(("data", "path"))
    if not isinstance(model, str) or not isinstance(data, str):
        raise SpecError("there is nothing to audit; name a spec file, or give both --model and --data")
    name = f"{stem(data)}-{stem(model)}"
    document = Document(source, {"name": name, "run": {"dir": f"runs/{name}"}})
    return build_spec(document, parsed, folder=FilePath.cwd())


def finetune_spec_from_options(overrides: Sequence[str | Override], *, source: str = "command line") -> FinetuneSpec:
    """The spec that `bds finetune --model M --dataset D --recipe R.yaml` stands for.

    Without a run directory it is runs/finetune-<dataset>-<model>, after the first of each.

    Raises:
        SpecError: one sentence with the option and the way out.
    """
    parsed = _parsed(overrides, FinetuneSpec)
    given = {override.path[0] for override in parsed if override.value}
    if not {"models", "datasets", "recipes"} <= given:
        raise SpecError("there is nothing to fine-tune; name a spec file, or give --model, --dataset and --recipe")
    value = apply_overrides({}, parsed)
    name = "-".join(["finetune", *(_first_name(value[block]) for block in ("datasets", "models"))])
    document = Document(source, {"name": name, "run": {"dir": f"runs/{name}"}})
    return build_finetune_spec(document, parsed, folder=FilePath.cwd())


def evaluate_spec_from_options(overrides: Sequence[str | Override], *, source: str = "command line") -> EvaluateSpec:
    """The spec that `bds evaluate --model M --suite S` stands for.

    Without a run directory it is runs/evaluate-<model>, after the first of them.

    Raises:
        SpecError: one sentence with the option and the way out.
    """
    parsed = _parsed(overrides, EvaluateSpec)
    given = {override.path[0] for override in parsed if override.value}
    if "suites" not in given or not given & {"models", "finetunes"}:
        raise SpecError(
            "there is nothing to evaluate; name a spec file, or give --suite and --model, --finetunes or --endpoint"
        )
    value = apply_overrides({}, parsed)
    first = _first_name(value["models"]) if value.get("models") else folder_name(value["finetunes"][0])
    name = f"evaluate-{first}"
    document = Document(source, {"name": name, "run": {"dir": f"runs/{name}"}})
    return build_evaluate_spec(document, parsed, folder=FilePath.cwd())


def moderate_spec_from_options(overrides: Sequence[str | Override], *, source: str = "command line") -> ModerateSpec:
    """The spec that `bds moderate --judge J D` or `bds moderate --judge J --audit RUN` stands for.

    Without a run directory a dataset's moderation is in runs/moderate-<data>.

    Raises:
        SpecError: one sentence with the option and the way out.
    """
    parsed = _parsed(overrides, ModerateSpec)
    given = {override.path: override.value for override in parsed}
    data = given.get(("data", "path"))
    if not isinstance(data, str) and not given.get(("audit",)):
        raise SpecError("there is nothing to moderate; name a dataset or a spec file, or give --audit")
    if not given.get(("judges",)):
        raise SpecError(
            "there is no judge; give --judge METHOD=MODEL, as in llama_guard_3=meta-llama/Llama-Guard-3-8B, or --judge "
            "refusal_prefixes, which needs no model (`bds ls judges` lists them)"
        )
    written: dict[str, Any] = {"kind": "moderate"}
    if isinstance(data, str):
        name = f"moderate-{stem(data)}"
        written |= {"name": name, "run": {"dir": f"runs/{name}"}}
    return build_moderate_spec(Document(source, written), parsed, folder=FilePath.cwd())


def build_spec(document: Document, overrides: Sequence[str | Override], *, folder: FilePath) -> AuditSpec:
    """Validate a document after its overrides; its relative paths are relative to `folder`."""
    parsed = _parsed(overrides, AuditSpec)
    value = apply_overrides(document.value, parsed)
    spec = _validated(AuditSpec, value, document, _origins(parsed), folder)
    _refuse_repeated_columns(spec, document)
    return spec


def build_finetune_spec(document: Document, overrides: Sequence[str | Override], *, folder: FilePath) -> FinetuneSpec:
    """Validate a document after its overrides and recipe files; its relative paths are relative to `folder`."""
    return _with_recipes(FinetuneSpec, document, overrides, folder)


def build_study_spec(document: Document, overrides: Sequence[str | Override], *, folder: FilePath) -> StudySpec:
    """Validate a document after its overrides and recipe files; its relative paths are relative to `folder`."""
    return _with_recipes(StudySpec, document, overrides, folder)


def build_evaluate_spec(document: Document, overrides: Sequence[str | Override], *, folder: FilePath) -> EvaluateSpec:
    """Validate a document after its overrides; its relative paths are relative to `folder`."""
    document = written_out(document)
    parsed = _parsed(overrides, EvaluateSpec)
    value = apply_overrides(document.value, parsed)
    return _validated(EvaluateSpec, value, document, _origins(parsed), folder)


def build_moderate_spec(document: Document, overrides: Sequence[str | Override], *, folder: FilePath) -> ModerateSpec:
    """Validate a document after its overrides; its relative paths are relative to `folder`."""
    document = written_out(document)
    parsed = _parsed(overrides, ModerateSpec)
    value = apply_overrides(document.value, parsed)
    return _validated(ModerateSpec, value, document, _origins(parsed), folder)


def _document(path: str, kind: Kind) -> Document:
    document = read_document(path, kind)
    refuse_other_kind(document, kind)
    return document


def _with_recipes(root: type[Spec], document: Document, overrides: Sequence[str | Override], folder: FilePath) -> Spec:
    document = written_out(document)
    parsed = _parsed(overrides, root)
    origins = _origins(parsed)
    value = with_recipe_files(
        apply_overrides(document.value, parsed),
        lambda path: _folder_of(path, origins, folder),
        lambda path: where(path, document, origins),
    )
    return _validated(root, value, document, origins, folder)


def _parsed(overrides: Sequence[str | Override], root: type[Block]) -> list[Override]:
    """The overrides, each one of a place that the spec has, with short forms written out."""
    parsed = [parse_override(entry, root) if isinstance(entry, str) else entry for entry in overrides]
    for override in parsed:
        if place_at(root, override.path) is None:
            raise SpecError(
                f"{override.origin}: this spec has no `{dotted(override.path)}`; set one of its own fields with --set"
            )
    if root is AuditSpec:
        return parsed
    return [_written_out(override) for override in parsed]


def _written_out(override: Override) -> Override:
    return replace(override, value=entries_at(override.path, override.value, lambda path: override.origin))


def _origins(overrides: Sequence[Override]) -> dict[Path, str]:
    return {override.path: override.origin for override in overrides}


def _validated(
    root: type[Spec], value: dict[str, Any], document: Document, origins: Mapping[Path, str], folder: FilePath
) -> Spec:
    try:
        spec = root.model_validate(value)
    except ValidationError as error:
        raise spec_error(error, root, document, origins) from error
    return root.model_validate(resolve_paths(spec.model_dump(), lambda path: _folder_of(path, origins, folder)))


def _folder_of(path: Path, origins: Mapping[Path, str], folder: FilePath) -> FilePath:
    """What a relative path is relative to: the current folder where an override set it, else the document's."""
    is_set = any(path[:length] in origins for length in range(1, len(path) + 1))
    return FilePath.cwd() if is_set else folder


def _first_name(named: Any) -> str:
    return folder_name(next(iter(named))) if isinstance(named, dict) else "data"


def _refuse_repeated_columns(spec: AuditSpec, document: Document) -> None:
    columns = [detector.column for detector in spec.score.detectors or []]
    for index, column in enumerate(columns):
        if column in columns[:index]:
            line = document.lines.get(("score", "detectors", index))
            place = f"{document.source}:{line}" if line else document.source
            raise SpecError(
                f"{place}: field score.detectors.{index}: two detectors would both be the column `{column}`; "
                "give one of them another `label`"
            )
