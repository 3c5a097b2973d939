"""What a study says in plain English: sentences built from study.json alone.

One that rests on no measurement is not written, and what is not significant is not told as found.
"""

from collections.abc import Mapping
from typing import Any

from bds.report.evaluation_measured import Series, series_of
from bds.report.evaluation_words import words_of
from bds.report.study_cautions import cautions, limits, next_steps
from bds.report.study_document import RANKED, Study, is_ranked
from bds.report.study_findings import findings
from bds.report.study_words import average_told, difference_told, name_of, told
from bds.report.wording import amount


def study_verdict(document: Mapping[str, Any]) -> dict[str, Any]:
    """headline, findings, cautions, next_steps and limits of a study."""
    study = Study(document)
    return {
        "headline": _headline(study),
        "findings": list(findings(study)),
        "cautions": list(cautions(study)),
        "next_steps": list(next_steps(study)),
        "limits": list(limits(study)),
    }


def leading(study: Study, series: Series) -> Mapping[str, Any] | None:
    """The comparison with a control to speak of first: the largest that is significant, else the largest."""
    own = [each for each in study.primary(series) if study.cells[each["cell"]]["kind"] in RANKED]
    own = own or study.primary(series)
    firm = [each for each in own if each["significant"]]
    return max(firm or own, key=lambda each: each["difference"], default=None)


def _headline(study: Study) -> str:
    main = study.main
    if main is None:
        return "Nothing was measured: no fine-tune of this study has been evaluated yet."
    matrix = next((each for each in study.matrices if series_of(each) == main and _transfers(study, each)), None)
    if matrix is not None:
        return _transfer_headline(study, matrix)
    first = leading(study, main)
    if first is not None:
        return _contrast_headline(study, first)
    strongest = study.strongest(study.cells.values(), main)
    if not strongest:
        return "No fine-tune of this study has been evaluated: only the models before fine-tuning were measured."
    cell = strongest[0]
    value = told(study.measured(cell["id"], main), words_of(main.metric))
    return (
        f"The {name_of(main)} is highest with {study.label(cell)} on {cell['target']}: {value}; nothing was compared "
        "with a control."
    )


def _transfers(study: Study, matrix: Mapping[str, Any]) -> bool:
    """Whether ranked samples of one model were trained on by another."""
    return matrix["transfers"] > 0 and is_ranked(study, matrix)


def _transfer_headline(study: Study, matrix: Mapping[str, Any]) -> str:
    """One question for all pairs of models: their average, with its own test."""
    words = words_of(matrix["metric"])
    own, other = matrix["averages"]["own"], matrix["averages"]["transfer"]
    pairs = f"{amount(other['entries'], 'pair')} of models"
    against = f"the {name_of(series_of(matrix))} of models that did not choose them"
    what = f"Samples that one model chose ({matrix['selection']})"
    mean = f"on average over {pairs}: {average_told(other, words)} above their control"
    if other["significant"] and other["difference"] > 0:
        return f"{what} break other models, too; they raise {against}, {mean}."
    if other["significant"]:
        return f"{what} do less damage to other models than their control; they lower {against}, {mean}."
    if own["significant"] and own["difference"] > 0:
        return (
            f"{what} break the model that chose them: {average_told(own, words)} above their control. That they break "
            f"other models is not shown, {mean}."
        )
    chosen = "" if own["difference"] is None else f"; where the model itself chose, {average_told(own, words)}"
    return f"It is not shown that samples chosen by one model ({matrix['selection']}) break another, {mean}{chosen}."


def _contrast_headline(study: Study, contrast: Mapping[str, Any]) -> str:
    words = words_of(contrast["metric"])
    cell = study.cells[contrast["cell"]]
    what, other = study.label(cell), _other(study, contrast)
    noun = name_of(series_of(contrast))
    before, after = words.value(contrast["value_b"]), words.value(contrast["value_a"])
    if contrast["significant"]:
        verb = "raises" if contrast["difference"] > 0 else "lowers"
        return (
            f"Training {cell['target']} on {what} {verb} the {noun} from {before} with {other} to {after}: "
            f"{difference_told(contrast, words)}."
        )
    return (
        f"It is not shown that what is trained on changes the {noun}: the largest difference is that of {what} on "
        f"{cell['target']}, {after} against {before} with {other}, {difference_told(contrast, words)}, and it is not "
        "significant."
    )


def _other(study: Study, contrast: Mapping[str, Any]) -> str:
    other = study.cells.get(contrast["other"])
    return contrast["other"] if other is None else study.label(other)
