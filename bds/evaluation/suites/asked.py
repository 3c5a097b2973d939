"""The suites that a spec asks for: read, cut to their limits, with names that differ."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bds.errors import PreflightError, SpecError
from bds.evaluation.suites.folder import DESCRIPTION, load_suite
from bds.evaluation.suites.importers import IMPORTERS, import_suites
from bds.evaluation.suites.placeholders import placeholder_suites
from bds.evaluation.suites.plain import PlainOptions
from bds.evaluation.suites.suite import Imported, Suite
from bds.evaluation.suites.tiny_model import FILES
from bds.spec.fields import suggestion
from bds.spec.suites import PLACEHOLDER, SuiteSpec

AUTO, FOLDER, PLAIN = "auto", "folder", "plain"
FORMATS = (AUTO, PLACEHOLDER, FOLDER, *IMPORTERS)

_PUBLISHED = {
    "category_1.csv": "hexphi",
    "harmful_behaviors.csv": "advbench",
    "xstest_prompts.csv": "xstest",
    "strongreject_dataset.csv": "strongreject",
    "harmbench_behaviors_text_all.csv": "harmbench",
    "sorry_bench_202406.csv": "sorry_bench",
    "harmful-behaviors.csv": "jailbreakbench",
    "benign-behaviors.csv": "jailbreakbench",
}
"""File names that tell a format."""


def suites_asked(asked: Sequence[SuiteSpec]) -> Imported:
    """The suites, in the spec's order, and what is unusual about them.

    Raises:
        SpecError: an unknown format or name, options that do not go together, two suites of one name.
        PreflightError: the files are not there or not what the format says; the sentence names file and line.
    """
    suites: list[Suite] = []
    warnings: list[str] = []
    for index, spec in enumerate(asked):
        try:
            imported = _read(spec)
            chosen = _chosen(imported, spec)
        except (SpecError, PreflightError) as error:
            raise type(error)(f"field suites.{index}: {error}") from error
        suites += chosen
        warnings += imported.warnings
    for index, suite in enumerate(suites):
        if suite.name in {other.name for other in suites[:index]}:
            raise SpecError(
                f"field suites: two suites are named {suite.name}; give a plain one another `name`, or leave one out"
            )
    return Imported(tuple(suites), tuple(warnings))


def _read(spec: SuiteSpec) -> Imported:
    options = PlainOptions(
        name=spec.name or "",
        kind=spec.kind or "refuse",
        column=spec.column or "",
        id_column=spec.id_column or "",
        category_column=spec.category_column or "",
        source=spec.source or "",
        licence=spec.licence or "",
    )
    format = _detected(spec) if spec.format == AUTO else spec.format
    if format not in FORMATS:
        raise SpecError(f"'{format}' is no format of suites; {suggestion(format, FORMATS)}")
    if format == PLACEHOLDER:
        return Imported(placeholder_suites())
    assert spec.path is not None, "only placeholders have none"
    if format == FOLDER:
        return Imported((load_suite(spec.path),))
    if format == PLAIN and spec.kind is None:
        raise SpecError(f"{spec.path} does not say what a good model does; add `kind: refuse`, answer or utility")
    return import_suites(format, spec.path, options)


def _detected(spec: SuiteSpec) -> str:
    """By the names of files; a file of another name is a plain one."""
    path = Path(spec.path or "")
    if not path.exists():
        raise PreflightError(f"{path} does not exist; check the path of the suite")
    if path.name == DESCRIPTION or (path / DESCRIPTION).is_file():
        return FOLDER
    names = {path.name} if not path.is_dir() else {entry.name for entry in path.iterdir()}
    if names & set(FILES) or (path / "suites").is_dir():
        return "organism"
    published = sorted({format for name, format in _PUBLISHED.items() if name in names})
    if len(published) == 1 and spec.kind is None:
        return published[0]
    if path.is_dir():
        raise SpecError(
            f"the folder {path} has neither {DESCRIPTION} nor the files of one published suite; say its `format`, one "
            f"of {', '.join(FORMATS[1:])}"
        )
    return PLAIN


def _chosen(imported: Imported, spec: SuiteSpec) -> list[Suite]:
    suites = list(imported.suites)
    if spec.only is not None:
        names = [suite.name for suite in suites]
        if spec.only not in names:
            raise SpecError(f"there is no suite '{spec.only}' in it; {suggestion(spec.only, names)}")
        suites = [suite for suite in suites if suite.name == spec.only]
    return [replace(suite, prompts=suite.prompts[: spec.limit]) for suite in suites]
