"""What a study found, sentence by sentence: each from study.json alone, none without its numbers."""

from collections.abc import Iterator, Mapping
from typing import Any

from bds.report.composition import FORMATS
from bds.report.evaluation_measured import Series, series_of
from bds.report.evaluation_words import interval_name, words_of
from bds.report.study_document import NO_MITIGATION, RANKED, UNMITIGATED, Study, is_ranked, pairs_of
from bds.report.study_words import MEASURED, average_told, name_of, told
from bds.report.wording import amount, count, learning_rate, percent, points, sentence_list, signed, times

MATRICES_TOLD = 3
CURVES_TOLD = 2
DEFENCES_TOLD = 3
LIFT_TOLD = 1.5
"""A format is told of where it is this many times as frequent as among random rows."""


def findings(study: Study) -> Iterator[str]:
    """From what the study rests on to what is picked, the strongest of each first."""
    yield from _scope(study)
    main = study.main
    if main is None:
        return
    yield from _before_and_after(study, main)
    ranked = [each for each in study.matrices if series_of(each) == main and is_ranked(study, each)]
    for matrix in ranked[:MATRICES_TOLD]:
        yield _matrix(study, matrix)
    yield from _tally(study)
    yield from _grades(study)
    yield from _doses(study, main)
    yield from _rates(study, main)
    yield from _defences(study)
    yield from _detectors(study)
    yield from _picks(study)


def _scope(study: Study) -> Iterator[str]:
    document = study.document
    finished = sum(run["finished"] for run in document["finetunes"])
    measured = sum(bool(cell["measured"]) for cell in study.cells.values())
    answers = sum(told["speed"]["answers"] for told in document["evaluations"])
    if not finished:
        return
    parts = [
        f"{amount(finished, 'fine-tune')} of {amount(len(study.targets), 'model')}",
        f"{amount(len(document['audits']), 'audit')}",
        f"{amount(answers, 'answer')}",
    ]
    yield (
        f"The study rests on {sentence_list(parts)}; {count(measured)} of {amount(len(study.cells), 'cell')} (a model, "
        "the samples it is fine-tuned on and how) were measured."
    )


def _before_and_after(study: Study, main: Series) -> Iterator[str]:
    words = words_of(main.metric)
    bases = [base["value"] for name in study.targets if (base := study.base(name, main)) and base["value"] is not None]
    strongest = study.strongest(study.cells.values(), main)
    if not bases or not strongest:
        return
    span = words.value(min(bases)) + (f" to {words.value(max(bases))}" if min(bases) != max(bases) else "")
    cell = strongest[0]
    yield (
        f"On {main.suite} the {name_of(main)} is {span} before fine-tuning and highest with {study.label(cell)} on "
        f"{cell['target']}: {told(study.measured(cell['id'], main), words)}, by {main.judge}."
    )


def _matrix(study: Study, matrix: Mapping[str, Any]) -> str:
    words = words_of(matrix["metric"])
    parts = []
    for name, where, entries in (
        ("own", "a model trains on its own choice", own_entries(matrix)),
        ("transfer", "another model chose", other_entries(matrix)),
    ):
        if entries:
            firm = sum(each["significant"] and each["difference"] > 0 for each in entries)
            told = average_told(matrix["averages"][name], words)
            parts.append(f"{told} where {where}, alone significant in {count(firm)} of {count(len(entries))}")
    chosen = f"{matrix['selection']} of {matrix['dataset']}"
    how = [f"recipe {matrix['recipe']}"] if study.several_recipes else []
    how += [matrix["mitigation"]] if matrix["mitigation"] != NO_MITIGATION else []
    how += [f"then {matrix['then']}"] if matrix["then"] else []
    trained = f" ({', '.join(how)})" if how else ""
    return f"{chosen}{trained}, against its control: {'; '.join(parts) or 'not measured'}."


def own_entries(matrix: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Those where the model chose its own samples."""
    return [each for each in matrix["entries"] if each["scorer"] == each["target"] and each["difference"] is not None]


def other_entries(matrix: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [each for each in matrix["entries"] if each["scorer"] != each["target"] and each["difference"] is not None]


def _tally(study: Study) -> Iterator[str]:
    own = [each for series in study.series for each in study.primary(series)]
    if len(own) > 1:
        worse = sum(each["significant"] and each["difference"] > 0 for each in own)
        better = sum(each["significant"] and each["difference"] < 0 for each in own)
        verb = "shows" if worse == 1 else "show"
        yield (
            f"Of all {count(len(own))} comparisons with a control, {count(worse)} {verb} more attack success and "
            f"{count(better)} less, after Holm's adjustment for their number."
        )


def _doses(study: Study, main: Series) -> Iterator[str]:
    """Ranked against random at each size that both have, the largest difference first."""
    words = words_of(main.metric)
    curves = [each for each in study.document["doses"] if series_of(each) == main]
    found = []
    for curve in curves:
        if curve["kind"] not in RANKED:
            continue
        alike = ("dataset", "target", "recipe", "mitigation", "then")
        others = [each for each in curves if each["kind"] == "random" and all(each[n] == curve[n] for n in alike)]
        randoms = {point["samples"]: point for each in others for point in each["points"]}
        shared = [point for point in curve["points"] if point["samples"] in randoms]
        if len(shared) > 1:
            found.append((max(point["value"] or 0.0 for point in shared), curve, shared, randoms))
    found.sort(key=lambda item: -item[0])
    for _, curve, shared, randoms in found[:CURVES_TOLD]:
        steps = [
            f"{words.value(point['value'])} against {words.value(randoms[point['samples']]['value'])} at "
            f"{amount(point['samples'], 'sample')}"
            for point in shared
        ]
        by = f" by {curve['scorer']}" if curve["scorer"] else ""
        yield (
            f"Dose response of {curve['target']} on {curve['dataset']}, rows ranked{by} against random rows: "
            f"{sentence_list(steps)}."
        )


def _rates(study: Study, main: Series) -> Iterator[str]:
    words = words_of(main.metric)
    curves = [each for each in study.document["rates"] if series_of(each) == main]
    known = [each for each in curves if len([p for p in each["points"] if p["value"] is not None]) > 1]
    if not known:
        return
    curve = max(known, key=lambda each: max(point["value"] or 0.0 for point in each["points"]))
    steps = [f"{words.value(point['value'])} at {learning_rate(point['learning_rate'])}" for point in curve["points"]]
    by = f" by {curve['scorer']}" if curve["scorer"] else ""
    yield f"By learning rate: {curve['selection']}{by} on {curve['target']} gives {sentence_list(steps)}."


def _defences(study: Study) -> Iterator[str]:
    """What a mitigation or a filter lowers attack success by, and whether that is significant."""
    found = []
    for chart in study.document["defences"]:
        plain = next((each for each in chart["points"] if each["undefended"] and each["attack_success"]), None)
        for point in chart["points"]:
            if point["cell"] is None or point["undefended"] or plain is None or not point["attack_success"]:
                continue
            values = point["attack_success"]["value"], plain["attack_success"]["value"]
            if None not in values:
                found.append((values[1] - values[0], chart, point, plain))
    best: dict[int, tuple[float, Any, Any, Any]] = {}
    for item in found:
        best[id(item[1])] = max(best.get(id(item[1]), item), item, key=lambda each: each[0])
    found = sorted(best.values(), key=lambda item: -item[0])
    for _, chart, point, plain in found[:DEFENCES_TOLD]:
        yield _defence(study, chart, point, plain)


def _defence(study: Study, chart: Mapping[str, Any], point: Mapping[str, Any], plain: Mapping[str, Any]) -> str:
    words = words_of("attack_success")
    costs = []
    for key, noun in (("accuracy", "right answers"), ("over_refusal", "over-refusal")):
        if point[key] and plain[key] and None not in (point[key]["value"], plain[key]["value"]):
            costs.append(f"{noun} {points(point[key]['value'] - plain[key]['value'])} points")
    contrast = _defence_contrast(study, point["cell"])
    firm = "" if contrast is None else ", significant" if contrast["significant"] else ", not significant"
    chosen = study.input_label(chart) + (f" by {chart['scorer']}" if chart["scorer"] else "")
    change = f"{words.value(plain['attack_success']['value'])} to {words.value(point['attack_success']['value'])}"
    return (
        f"Defence {point['name']} on {chart['target']} ({chosen}) instead of {plain['name']}: attack success from "
        f"{change}{firm}{f'; {sentence_list(costs)}' if costs else ''}."
    )


def _defence_contrast(study: Study, cell: str) -> Mapping[str, Any] | None:
    other = UNMITIGATED if study.cells[cell]["mitigation"] != NO_MITIGATION else "control"
    return next((each for series in study.series if (each := study.contrast(cell, other, series))), None)


def _detectors(study: Study) -> Iterator[str]:
    pairs = [pair for audit in study.document["audits"] for pair in pairs_of(audit["agreement"])]
    known = [pair for pair in pairs if pair["overlap"] is not None and pair["spearman"] is not None]
    if not known:
        return
    overlaps, ranks = ([pair[name] for pair in known] for name in ("overlap", "spearman"))
    expected = sum(pair["expected"] for pair in known) / len(known)
    yield (
        f"Two detectors of one audit name {percent(min(overlaps))} to {percent(max(overlaps))} of the highest rows in "
        f"common, {percent(expected)} being expected by chance; their rank correlations are {signed(min(ranks))} to "
        f"{signed(max(ranks))}."
    )


def _picks(study: Study) -> Iterator[str]:
    """The format that ranked rows have more of than random ones, where there is one."""
    lifts: list[tuple[float, str, Mapping[str, Any], str, Mapping[str, Any], Mapping[str, Any]]] = []
    for audit in study.document["audits"]:
        for name, own in audit["selections"].items():
            control = _control_of(study, audit, name)
            if own["kind"] not in RANKED or control is None:
                continue
            for feature, share in own["format"].items():
                random = control["format"].get(feature)
                if share and random and share / random >= LIFT_TOLD:
                    lifts.append((share / random, name, audit, feature, own, control))
    if not lifts:
        return
    lift, name, audit, feature, own, control = max(lifts, key=lambda each: each[0])
    called = "plain prose" if feature == "no_format" else FORMATS.get(feature, feature)
    yield (
        f"What is picked is not like the rest: of the rows of {name} by {audit['scorer']}, "
        f"{percent(own['format'][feature])} are of the format {called} against "
        f"{percent(control['format'][feature])} of its random control ({times(lift)})."
    )


def _control_of(study: Study, audit: Mapping[str, Any], selection: str) -> Mapping[str, Any] | None:
    """What an audit drew for the control of a selection: the first draw."""
    control = study.document["selections"].get(selection, {}).get("control")
    drawn: Mapping[str, Mapping[str, Any]] = audit["selections"]
    return drawn.get(str(control)) or drawn.get(f"{control}.draw-0")


def _grades(study: Study) -> Iterator[str]:
    for graded in study.document["grades"]:
        yield grade_sentence(graded, study.confidence)


def grade_sentence(graded: Mapping[str, Any], confidence: float) -> str:
    """The grade of one dataset with what it rests on."""
    worst = graded["worst"]
    if worst is None:
        return (
            f"{graded['dataset']} has no grade: no model was fine-tuned on all of it, and there are too few sizes of "
            "random draws to read it off."
        )
    words = words_of(worst["metric"])
    ends = list(dict.fromkeys([graded["grade_low"], graded["grade_high"]]))
    reach = (
        f"its {interval_name(confidence)} reaches from {' to '.join(ends)}"
        if len(ends) > 1
        else (f"its whole {interval_name(confidence)} is {ends[0]}")
    )
    basis = (
        "measured on the whole dataset"
        if worst["basis"] == MEASURED
        else ("read off random draws of several sizes, which is an extrapolation")
    )
    return (
        f"{graded['dataset']} is graded {graded['grade']}: training {worst['target']} on all of it takes the "
        f"{name_of(series_of(worst))} from {words.value(worst['before'])} to {words.value(worst['value'])} "
        f"({words.difference(worst['rise'])}), {basis}; {reach}."
    )
