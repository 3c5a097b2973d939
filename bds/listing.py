"""What `bds ls` prints: the names a spec can use, from the tables that the program itself runs on."""

import shutil
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bds.errors import SpecError
from bds.spec.fields import suggestion

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


def listing(what: str) -> list[dict[str, str]]:
    """One dict of texts a name, with the same keys in every dict.

    Raises:
        SpecError: `what` is not in LISTINGS.
    """
    if what not in LISTINGS:
        raise SpecError(f"'{what}' cannot be listed; {suggestion(what, list(LISTINGS))}")
    return LISTINGS[what]()


def listing_text(rows: Sequence[dict[str, str]]) -> str:
    """Each name on a line of its own, its properties indented below it."""
    width = max(60, min(shutil.get_terminal_size().columns, 120))
    lines: list[str] = []
    for row in rows:
        (_, name), *properties = row.items()
        lines.append(name)
        for key, value in properties:
            label = f"  {key}: " if len(properties) > 1 else "  "
            lines += textwrap.wrap(f"{label}{value}", width, subsequent_indent=" " * len(label))
    return "\n".join(lines)


def _detectors() -> list[dict[str, str]]:
    from bds.scoring.detectors import DETECTORS

    return [
        {
            "name": detector.name,
            "formula": detector.formula,
            "needs": ", ".join(sorted(need.value for need in detector.needs)) or "nothing",
            "cost": detector.cost,
            "options": ", ".join(sorted(detector.options)) or "none",
            "source": detector.source,
        }
        for detector in DETECTORS.values()
    ]


def _formats() -> list[dict[str, str]]:
    from bds.data.formats import FORMATS

    return [
        {"name": form.name, "columns": ", ".join(form.columns), "is": form.description} for form in FORMATS.values()
    ]


def _selections() -> list[dict[str, str]]:
    return [{"name": name, "is": meaning} for name, meaning in SELECTIONS.items()]


def _mitigations() -> list[dict[str, str]]:
    from bds.spec.mitigations import MITIGATION_BLOCKS

    return [
        {
            "name": block.model_fields["method"].default,
            "is": (block.__doc__ or "").partition("\n")[0],
            "needs": block.needs,
            "cost": block.cost,
            "known": block.known,
            "options": ", ".join(_option(name, info) for name, info in block.model_fields.items() if name != "method")
            or "none",
            "source": block.source,
        }
        for block in MITIGATION_BLOCKS
    ]


def _judges() -> list[dict[str, str]]:
    from bds.evaluation.judges import KEYWORD_JUDGES, MODEL_JUDGES

    keywords = [
        {
            "name": judge.name,
            "tells": judge.measures,
            "needs": "no model",
            "asked": f"no: {len(judge.phrases)} phrases, {judge.matching}",
            "options": "none",
            "source": judge.source,
        }
        for judge in KEYWORD_JUDGES.values()
    ]
    models = [
        {
            "name": judge.name,
            "tells": judge.measures,
            "needs": ", ".join([judge.model, *judge.needs]),
            "asked": f"by a {judge.kind} request",
            "options": ", ".join(judge.takes) or "none",
            "source": judge.source,
        }
        for judge in MODEL_JUDGES.values()
    ]
    return keywords + models


def _suites() -> list[dict[str, str]]:
    from bds.evaluation.suites import IMPORTERS

    own = [
        (
            "placeholder",
            "nothing",
            "made-up requests, to refuse, and a twin about ordinary things, to answer",
            "Apache-2.0",
        ),
        ("folder", "a folder of suite.yaml and prompts.jsonl", "the suite that it describes", "its own"),
    ]
    return [
        *(
            {"name": name, "files": files, "makes": makes, "licence": licence, "from": "bds"}
            for name, files, makes, licence in own
        ),
        *(
            {"name": each.name, "files": each.files, "makes": each.makes, "licence": each.licence, "from": each.source}
            for each in IMPORTERS.values()
        ),
    ]


def _option(name: str, info: "FieldInfo") -> str:
    if info.is_required():
        return f"{name} (required)"
    return f"{name} ({'optional' if info.default is None else info.default})"


def _templates() -> list[dict[str, str]]:
    return [{"name": name, "is": meaning} for name, meaning in TEMPLATES.items()]


SELECTIONS = {
    "top": "the rows that the detector ranks most dangerous",
    "bottom": "the rows that the detector ranks least dangerous (never call them safe)",
    "random": "a seeded draw from the scored rows",
    "random_matched_length": "a draw with the same answer lengths as the detector's top rows",
    "random_matched_format": "a draw with the same mix of lists, maths, code and short answers as the top rows",
    "random_lists": "a draw from the rows whose answer is a list",
    "random_math": "a draw from the rows whose answer is maths",
    "filtered": "the dataset without the detector's top rows",
}

TEMPLATES = {
    "model": "the model's own chat template",
    "he2024": "the Llama-2 template of He et al. 2024",
    "FILE.jinja": "the path of a Jinja chat template",
}

LISTINGS: dict[str, Callable[[], list[dict[str, str]]]] = {
    "detectors": _detectors,
    "formats": _formats,
    "judges": _judges,
    "mitigations": _mitigations,
    "selections": _selections,
    "suites": _suites,
    "templates": _templates,
}
