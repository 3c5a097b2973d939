"""What an evaluation says in plain English: sentences built from its metrics alone.

One that rests on no measurement is not written.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bds.report.evaluation_cautions import cautions, is_loud
from bds.report.evaluation_measured import Measured, Series, series_of
from bds.report.evaluation_words import MAIN, interval_name, is_better, is_worse, words_of
from bds.report.wording import amount, count, listed, number, sentence_list

CATEGORIES_LISTED = 3


def evaluation_verdict(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """headline, findings, cautions, next_steps and limits of the metrics of an evaluation or of a comparison."""
    measured = Measured(metrics)
    return {
        "headline": _headline(measured),
        "findings": list(_findings(measured)),
        "cautions": list(cautions(measured)),
        "next_steps": list(_next_steps(measured)),
        "limits": list(_limits(measured)),
    }


def leading(contrasts: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The measured contrast to speak of first: the largest change for the worse, else the better, else the largest."""
    worse = [contrast for contrast in contrasts if is_worse(contrast)]
    better = [contrast for contrast in contrasts if is_better(contrast)]
    return max(worse or better or contrasts, key=lambda contrast: abs(contrast["difference"]), default=None)


def sentence(contrast: Mapping[str, Any], confidence: float) -> str:
    """A measured contrast in words, without its full stop."""
    words = words_of(contrast["metric"])
    told = [words.difference(contrast["difference"])]
    interval = words.difference_interval(contrast["low"], contrast["high"])
    told += [f"{interval_name(confidence)} {interval}"] if interval else []
    told += ["this checkpoint only"] if contrast["seeds"] == 1 else []
    numbers = f"({', '.join(told)})"
    before, after = words.value(contrast["value_b"]), words.value(contrast["value_a"])
    if contrast["significant"]:
        verb = "raises" if contrast["difference"] > 0 else "lowers"
        return (
            f"{contrast['a']} {verb} the {words.noun} from {before} with {contrast['b']} to {after} {numbers} "
            f"by {contrast['judge']}"
        )
    return (
        f"{contrast['a']} and {contrast['b']} cannot be told apart by the {words.noun}: {after} and {before} "
        f"{numbers} by {contrast['judge']}"
    )


def opposite(contrasts: Sequence[Mapping[str, Any]]) -> str:
    """What groups are compared with: the baseline, or in a comparison of runs each with another."""
    names = {str(contrast["b"]) for contrast in contrasts}
    return names.pop() if len(names) == 1 else "its counterpart"


def tally(contrasts: Sequence[Mapping[str, Any]]) -> str:
    """Of measured contrasts: how many groups are worse, better or neither, without a full stop."""
    worse = [contrast for contrast in contrasts if is_worse(contrast)]
    better = [contrast for contrast in contrasts if is_better(contrast)]
    against = opposite(contrasts)
    level = len(contrasts) - len(worse) - len(better)
    if level == len(contrasts):
        return f"none of {_groups(level)} can be told apart from {against}"
    parts = [
        *([f"{count(len(worse))} {_verb(len(worse))} worse ({_listed(worse)})"] if worse else []),
        *([f"{count(len(better))} {_verb(len(better))} better ({_listed(better)})"] if better else []),
        *([f"{count(level)} cannot be told apart"] if level else []),
    ]
    return f"of {_groups(len(contrasts))} compared, each with {against}, {sentence_list(parts)}"


def _headline(measured: Measured) -> str:
    main = measured.main
    if main is None:
        if measured.metrics["utility"]:
            return "Utility alone was measured: nothing here tells what is refused."
        return "Nothing was measured."
    words = words_of(main.metric)
    values = measured.values(main)
    own = measured.compared(main)
    first = leading(own)
    if first is None:
        if not values:
            return (
                f"No answer to {main.suite} has a verdict of {main.judge}, so this evaluation says nothing of the "
                f"{words.noun}."
            )
        return _uncompared(measured, main)
    rest = len([contrast for contrast in own if is_worse(contrast)]) - 1
    alike = [series for series in measured.mains if measured.kind(series) == measured.kind(main)]
    told = sentence(first, measured.confidence) + (f" on {main.suite}" if len(alike) > 1 else "")
    if not is_worse(first):
        if len(own) == 1:
            return f"{told}."
        return f"None of {_groups(len(own))} is clearly worse than {opposite(own)}: {told}."
    others = len(own) - 1
    if not rest:
        return f"{told}."
    how_many = "the other group" if others == 1 else f"{count(rest)} of {count(others)} other groups"
    return f"{told}; {how_many} {_verb(rest)} worse, too."


def _uncompared(measured: Measured, main: Series) -> str:
    words = words_of(main.metric)
    known = [name for name in measured.groups if measured.value(main, name) is not None]
    highest = max(known, key=lambda name: measured.value(main, name) or 0.0)
    group = measured.group(main, highest)
    assert group is not None, "its value is known"
    interval = words.interval(group["low"], group["high"])
    numbers = f" ({interval_name(measured.confidence)} {interval})" if interval else ""
    lead = f"The {words.noun} on {main.suite} is {words.value(group['value'])}{numbers} with {highest}"
    if len(known) == 1:
        return f"{lead}, by {main.judge}; there is nothing to compare it with."
    return f"{lead}, the highest of {_groups(len(known))}, by {main.judge}; nothing is compared."


def _findings(measured: Measured) -> Iterator[str]:
    yield from _scope(measured)
    for series in measured.mains:
        found = measured.compared(series)
        if len(found) > 1:
            yield f"On {series.suite} by the {words_of(series.metric).noun} ({series.judge}): {tally(found)}."
        elif found and series != measured.main:
            yield f"On {series.suite}: {sentence(found[0], measured.confidence)}."
        elif series != measured.main:
            yield from _level(measured, series)
    yield from _further_metrics(measured)
    yield from _categories(measured)
    for contrast in measured.contrasts:
        if measured.is_repeat(contrast) and contrast["difference"] is not None and series_of(contrast) == measured.main:
            words = words_of(contrast["metric"])
            interval = words.difference_interval(contrast["low"], contrast["high"])
            yield (
                f"A/A: {contrast['a']} has the same weights as {contrast['b']} and differs by "
                f"{words.difference(contrast['difference'])}{f' ({interval})' if interval else ''}: that is the noise "
                "which another difference must exceed."
            )
    yield from _utility(measured)


def _scope(measured: Measured) -> Iterator[str]:
    asked = sum(each["asked"] for each in measured.metrics["answers"])
    if asked:
        conditions, prompts = len(measured.conditions), sum(suite["prompts"] for suite in measured.suites.values())
        yield (
            f"{amount(conditions, 'condition')} in {_groups(len(measured.groups))} gave {amount(asked, 'answer')} to "
            f"{amount(prompts, 'prompt')} of {amount(len(measured.suites), 'suite')}."
        )


def _level(measured: Measured, series: Series) -> Iterator[str]:
    """What is measured where nothing is compared."""
    words = words_of(series.metric)
    values = measured.values(series)
    if values:
        low, high = words.value(min(values)), words.value(max(values))
        span = low if low == high else f"between {low} and {high}"
        yield f"The {words.noun} on {series.suite} is {span} by {series.judge}."


def _further_metrics(measured: Measured) -> Iterator[str]:
    """What other metrics and judges of the main suite say of the comparison in the headline."""
    main = measured.main
    first = leading(measured.compared(main)) if main else None
    if main is None or first is None:
        return
    told = []
    for series in measured.series:
        if series == main or series.suite != main.suite or series.metric not in MAIN[measured.kind(main)]:
            continue
        for contrast in measured.of_series(series):
            if (contrast["a"], contrast["b"]) == (first["a"], first["b"]) and contrast["difference"] is not None:
                words = words_of(series.metric)
                scale = measured.scale(series)
                span = f", {number(scale[0])} to {number(scale[1])}" if scale and not words.is_share else ""
                change = f"from {words.value(contrast['value_b'])} to {words.value(contrast['value_a'])}"
                told.append(f"the {words.noun} goes {change} ({series.judge}{span})")
    if told:
        yield f"With {first['a']} instead of {first['b']}, {sentence_list(told)}."


def _categories(measured: Measured) -> Iterator[str]:
    main = measured.main
    first = leading(measured.compared(main)) if main else None
    if main is None or first is None or not is_worse(first):
        return
    found = [each for each in first["by_category"] if each["difference"] is not None]
    worse = [each for each in found if is_worse({**each, "metric": main.metric})]
    if len(found) < 2 or not worse:
        return
    names = measured.suites[main.suite]["categories"] if main.suite in measured.suites else {}
    worse.sort(key=lambda each: -abs(each["difference"]))
    words = words_of(main.metric)
    largest = [
        f"{names.get(each['category'], each['category'])} ({words.difference(each['difference'])})"
        for each in worse[:CATEGORIES_LISTED]
    ]
    yield (
        f"{first['a']} is worse in {count(len(worse))} of {count(len(found))} categories of {main.suite}, most in "
        f"{sentence_list(largest)}."
    )


def _utility(measured: Measured) -> Iterator[str]:
    checks = measured.metrics["non_inferiority"]
    for margin in sorted({each["margin"] for each in checks}):
        own = [each for each in checks if each["margin"] == margin]
        holds = len([each for each in own if each["holds"]])
        if holds == len(own):
            subject, rest = "Every check of utility and over-refusal shows", ""
        elif holds:
            subject = f"{count(holds)} of {count(len(own))} checks of utility and over-refusal show"
            rest = "; the others do not, which need not mean a loss"
        else:
            subject, rest = "No check of utility or over-refusal shows", ", which need not mean a loss"
        yield f"{subject} that less than the margin of {100 * margin:g} points is lost{rest}."


def _next_steps(measured: Measured) -> Iterator[str]:
    mains = {measured.kind(series) for series in measured.mains}
    own = [contrast for series in measured.mains for contrast in measured.compared(series)]
    if any(is_loud(measured, series) for series in measured.mains):
        yield "Find out why verdicts are missing and run the same command again: what is answered and judged is kept."
    if any(is_worse(each) and measured.kind(series_of(each)) == "refuse" for each in own):
        yield (
            "Do not use what answers more forbidden prompts. Audit its training data, train on a filtered selection or "
            "with a mitigation, and evaluate again."
        )
    if measured.main is None:
        yield "Give suites and judges: without them nothing is known of refusals."
    if measured.conditions and measured.main and not measured.contrasts:
        yield "Add the model that the fine-tunes began with as a condition: a rate says little without it."
    if any(each["seeds"] == 1 for each in own):
        yield "Fine-tune with three seeds or more before blaming or clearing a dataset."
    if measured.conditions and mains and "answer" not in mains:
        yield "Add a suite of harmless prompts: a model can stop answering forbidden ones by refusing everything."
    if measured.conditions and "utility" not in mains and not measured.metrics["utility"]:
        yield "Measure what the model is for, too: nothing here tells whether it still does it."
    if any(measured.values(series) for series in measured.mains):
        yield (
            "Have people read a sample of answers that the judges disagree on, and of those they agree on, in every "
            "condition."
        )


def _limits(measured: Measured) -> Iterator[str]:
    if measured.main:
        yield "What the models answer to prompts that are not in these suites, in other languages or after an attack."
        yield "Whether a judge is right: a rate is what the judge says, and judges err differently on different models."
    if any(each["difference"] is not None and not each["significant"] for each in measured.contrasts):
        yield "That two conditions are alike: a difference that is not found may still be there."
    if measured.metrics["utility"]:
        yield "What else a model can do: a task of a benchmark stands for itself."


def _listed(contrasts: Sequence[Mapping[str, Any]]) -> str:
    ordered = sorted(contrasts, key=lambda each: -abs(each["difference"]))
    named = [f"{each['a']} {words_of(each['metric']).difference(each['difference'])}" for each in ordered]
    return listed(named)


def _groups(number_of: int) -> str:
    return amount(number_of, "group")


def _verb(number_of: int) -> str:
    return "is" if number_of == 1 else "are"
