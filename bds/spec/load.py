"""A spec from a file, from options or from both: read, overridden, validated once, with absolute paths."""

from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath

from pydantic import ValidationError

from bds.errors import SpecError
from bds.spec.document import Document, Path, parse_document
from bds.spec.fields import nearest
from bds.spec.models import AuditSpec
from bds.spec.overrides import Override, apply_overrides, parse_override
from bds.spec.paths import resolve_paths
from bds.spec.problems import spec_error

DATA_FILE_ENDINGS = (".jsonl", ".csv", ".parquet", ".gz", ".zst")


def load_spec(path: str, overrides: Sequence[str | Override] = ()) -> AuditSpec:
    """The spec in a YAML file, with `--set` overrides applied.

    A relative path in the file is relative to the file's folder; one in an override is relative to the current folder.

    Raises:
        SpecError: one sentence with file, line, field and the way out.
    """
    return build_spec(parse_document(_read(path), path), overrides, folder=FilePath(path).absolute().parent)


def spec_from_options(overrides: Sequence[str | Override], *, source: str = "command line") -> AuditSpec:
    """The spec that `bds audit --model M --data D` stands for; without a run directory it is runs/<data>-<model>.

    Raises:
        SpecError: one sentence with the option and the way out.
    """
    parsed = _parsed(overrides)
    given = {override.path: override.value for override in parsed}
    model, data = given.get(("model", "path")), given.get(("data", "path"))
    if not isinstance(model, str) or not isinstance(data, str):
        raise SpecError("there is nothing to audit; name a spec file, or give both --model and --data")
    name = f"{_stem(data)}-{_stem(model)}"
    document = Document(source, {"name": name, "run": {"dir": f"runs/{name}"}})
    return build_spec(document, parsed, folder=FilePath.cwd())


def build_spec(document: Document, overrides: Sequence[str | Override], *, folder: FilePath) -> AuditSpec:
    """Validate a document after its overrides; its relative paths are relative to `folder`."""
    parsed = _parsed(overrides)
    origins = {override.path: override.origin for override in parsed}
    value = apply_overrides(document.value, parsed)
    try:
        spec = AuditSpec.model_validate(value)
    except ValidationError as error:
        raise spec_error(error, document, origins) from error
    _refuse_repeated_columns(spec, document)
    here = FilePath.cwd()
    resolved = resolve_paths(spec.model_dump(), lambda path: here if _is_set(path, origins) else folder)
    return AuditSpec.model_validate(resolved)


def _parsed(overrides: Sequence[str | Override]) -> list[Override]:
    return [parse_override(entry) if isinstance(entry, str) else entry for entry in overrides]


def _is_set(path: Path, origins: Mapping[Path, str]) -> bool:
    return any(path[:length] in origins for length in range(1, len(path) + 1))


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


def _read(path: str) -> str:
    file = FilePath(path)
    if file.is_dir():
        raise SpecError(f"{path} is a folder; name the spec file in it, for example {file / 'spec.yaml'}")
    if file.name.endswith(DATA_FILE_ENDINGS):
        raise SpecError(f"{path} is a data file, not a spec; write `bds audit --model MODEL --data {path}`")
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SpecError(f"spec file {path} does not exist; {_similar(file)}") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{path} is not UTF-8 text (byte {error.start}); save the spec as UTF-8") from error
    except OSError as error:
        raise SpecError(f"{path} cannot be read ({error.strerror}); check its permissions") from error


def _similar(file: FilePath) -> str:
    siblings = [entry.name for entry in file.parent.glob("*.y*ml")] if file.parent.is_dir() else []
    close = nearest(file.name, siblings)
    if close is not None:
        return f"did you mean {file.parent / close}?"
    return "check the path, or write `bds audit --model MODEL --data FILE` to audit without a spec file"


def _stem(path: str) -> str:
    """The last part of a path or name without its endings: `data/alpaca.json.gz` is `alpaca`."""
    name = path.rstrip("/").rpartition("/")[2] or "data"
    endings = (".json", ".jsonl", ".csv", ".parquet", ".gz", ".zst")
    while name.endswith(endings):
        name = name.rpartition(".")[0]
    return name
