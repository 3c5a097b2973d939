"""What makes a study's numbers less than they seem, what to do next, and what they cannot say."""

from collections.abc import Iterator, Mapping
from typing import Any

from bds.report.evaluation_measured import series_of
from bds.report.evaluation_words import words_of
from bds.report.study_document import CONTROL, RANKED, UNMITIGATED, Study
from bds.report.study_words import FEW_SEEDS, MEASURED, name_of
from bds.report.wording import amount, count, listed, percent, points, rate

POOR_KAPPA = 0.4
"""Cohen's kappa below which two judges hardly speak of the same thing."""

HIGH_BASE = 0.2
LOUD_UNSCORED = 0.02


def cautions(study: Study) -> Iterator[str]:
    yield from _missing(study)
    yield from _seeds(study)
    yield from _uncontrolled(study)
    yield from _bases(study)
    yield from _judges(study)
    yield from _unscored(study)
    for graded in study.document["grades"]:
        yield from _graded(graded)


def next_steps(study: Study) -> Iterator[str]:
    if study.failures or study.incomplete or study.unevaluated:
        yield "Run the same command again: what is done is kept, and what failed or is missing is tried anew."
    main = study.main
    if main is None:
        return
    if min(_seed_counts(study), default=FEW_SEEDS) < FEW_SEEDS:
        yield "Add seeds, three or more for every cell, before you blame or clear a selection or a dataset."
    if any(graded["grade"] in {"high", "severe"} for graded in study.document["grades"]):
        yield "Do not train on a dataset graded high or severe as it is: filter it or use a mitigation, then measure."
    if not study.document["defences"] and any(
        each["significant"] and each["difference"] > 0 for each in study.primary(main)
    ):
        yield "Measure a defence: a filtered dataset and a mitigation, with over-refusal and right answers beside them."
    if any(graded["worst"] and graded["worst"]["basis"] != MEASURED for graded in study.document["grades"]):
        yield "Fine-tune on the whole dataset to measure its grade instead of extrapolating it."
    yield "Read some answers of the strongest cells yourself, and some that the judges disagree on."


def limits(study: Study) -> Iterator[str]:
    if study.main is None:
        return
    yield "What these models answer to prompts that are not in these suites, in other languages or after an attack."
    yield "What other models would do: how samples transfer is known for these models, recipes and datasets alone."
    if any(each["difference"] is not None and not each["significant"] for each in study.contrasts):
        yield "That two ways of choosing are alike: a difference that is not found may still be there."
    if study.document["grades"]:
        yield "That a dataset with a low grade is harmless: the grade is of these models, recipes and prompts."


def _missing(study: Study) -> Iterator[str]:
    steps = len(study.document["steps"])
    if study.failures:
        names = listed([step["step"] for step in study.failures])
        yield f"{count(len(study.failures))} of {amount(steps, 'step')} did not come to their end: {names}."
    if study.unevaluated:
        yield f"Nothing was measured of {listed(study.unevaluated)}: the evaluation is missing."
    empty = [cell for cell in study.incomplete if not cell["measured"]]
    partly = [cell for cell in study.incomplete if cell["measured"]]
    if empty:
        verb = "has" if len(empty) == 1 else "have"
        yield f"{count(len(empty))} of {amount(len(study.cells), 'cell')} {verb} no measurement."
    if partly:
        verb = "rests" if len(partly) == 1 else "rest"
        yield f"{amount(len(partly), 'cell')} {verb} on fewer fine-tunes than were asked for."


def _seed_counts(study: Study) -> list[int]:
    """Of the cells that are compared with a control."""
    main = study.main
    if main is None:
        return []
    return [each["seeds"] for each in study.primary(main) if each["seeds"]]


def _seeds(study: Study) -> Iterator[str]:
    found = _seed_counts(study)
    fewest = min(found, default=FEW_SEEDS)
    if fewest < FEW_SEEDS:
        few = sum(seeds < FEW_SEEDS for seeds in found)
        yield (
            f"{count(few)} of {amount(len(found), 'comparison')} with a control {'rests' if few == 1 else 'rest'} on "
            f"{'one seed' if fewest == 1 else 'two seeds'}: intervals are wide, and even a large difference can miss "
            "significance."
        )


def _uncontrolled(study: Study) -> Iterator[str]:
    main = study.main
    if main is None:
        return
    ranked = [cell for cell in study.cells.values() if cell["kind"] in RANKED and cell["measured"]]
    compared = (CONTROL, UNMITIGATED)
    alone = [cell for cell in ranked if not any(study.contrast(cell["id"], other, main) for other in compared)]
    if alone:
        verb = "has" if len(alone) == 1 else "have"
        yield (
            f"{count(len(alone))} of {amount(len(ranked), 'cell')} of ranked rows {verb} no measured control: what "
            "fine-tuning alone does is not told apart there."
        )


def _bases(study: Study) -> Iterator[str]:
    main = study.main
    if main is None or not words_of(main.metric).is_share:
        return
    for name in study.targets:
        base = study.base(name, main)
        if base is not None and base["value"] is not None and base["value"] >= HIGH_BASE:
            yield (
                f"{name} has an {name_of(main)} of {rate(base['value'])} before any fine-tuning: there is little left "
                "to break."
            )


def _judges(study: Study) -> Iterator[str]:
    headline = {series.suite for series in study.series}
    told = study.document["evaluations"]
    poor = [
        (each, evaluation["target"])
        for evaluation in told
        for each in evaluation["agreement"]
        if each["suite"] in headline and each["kappa"] is not None and each["kappa"] < POOR_KAPPA
    ]
    if poor:
        worst, target = min(poor, key=lambda item: item[0]["kappa"])
        a, b = worst["judges"]
        yield (
            f"Judges disagree: {a} and {b} agree on {percent(worst['agree'])} of the answers of {target} to "
            f"{worst['suite']}, hardly more than by chance (Cohen's kappa {worst['kappa']:.2f}). A rate is "
            "that of its judge."
        )
    if told and headline and not any(each["suite"] in headline for one in told for each in one["agreement"]):
        yield "One judge alone decides what counts as attack success; nothing here tells whether another would agree."
    if any(_is_keyword(evaluation) for evaluation in told):
        yield (
            "The judge of the headline looks for phrases of refusal: an answer without one counts as attack success, "
            "even where it is harmless or nonsense."
        )


def _is_keyword(evaluation: Mapping[str, Any]) -> bool:
    own = next((each for each in evaluation["judges"] if each["name"] == evaluation["primary_judge"]), None)
    return own is not None and own["model"] is None and "refused" in own["gives"]


def _unscored(study: Study) -> Iterator[str]:
    prompts = {suite["name"]: suite["prompts"] for told in study.document["evaluations"] for suite in told["suites"]}
    loud = []
    for cell in study.cells.values():
        for each in cell["measured"]:
            asked = prompts.get(each["suite"], 0) * max(1, len(each["by_seed"]))
            is_loud = asked and each["unscored"] / asked > LOUD_UNSCORED
            if is_loud and series_of(each) == study.main:
                loud.append(cell["id"])
    if loud:
        yield (
            f"{amount(len(loud), 'cell')} {'has' if len(loud) == 1 else 'have'} no verdict for more than "
            f"{percent(LOUD_UNSCORED)} of the answers: judges break most on what harms most."
        )


def _graded(graded: Mapping[str, Any]) -> Iterator[str]:
    """What a grade rests on, where that is not a measurement, or leaves room for another grade."""
    worst, name = graded["worst"], graded["dataset"]
    if worst is None:
        return
    if worst["basis"] != MEASURED:
        rises = [each["rise"] for each in graded["evidence"] if each["basis"] == MEASURED]
        told = f"; where a model was fine-tuned on all of it, the rise was {points(max(rises))} points" if rises else ""
        yield f"The grade of {name} is extrapolated from random draws and was not measured{told}."
    if graded["grade_low"] != graded["grade_high"]:
        yield f"The evidence leaves room for a grade of {name} from {graded['grade_low']} to {graded['grade_high']}."
