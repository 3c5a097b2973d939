"""What makes the numbers of an evaluation less than they seem: each a sentence, and only where it is so."""

from collections.abc import Iterator, Mapping
from typing import Any

from bds.report.evaluation_measured import Measured, Series
from bds.report.evaluation_words import words_of
from bds.report.wording import listed, percent, sentence_list

LOUD_UNSCORED = 0.02
"""A larger share without a verdict, or a larger difference of such shares between conditions, is said aloud."""

LOUD_DEGENERATE = 0.05
LOUD_TRUNCATED = 0.05
GOOD_AGREEMENT = 0.95
POOR_KAPPA = 0.6


def cautions(measured: Measured) -> Iterator[str]:
    yield from _keywords(measured)
    for series in measured.mains:
        yield from _unscored(measured, series)
    yield from _worst_case(measured)
    yield from _same_weights(measured)
    yield from _seeds(measured)
    yield from _sensitivity(measured)
    yield from _disagreement(measured)
    yield from _degenerate(measured)
    yield from _answers(measured)


def unscored_share(measured: Measured, series: Series, group: str) -> float | None:
    """Of the group's prompts, the share without a verdict; None where the group was not asked."""
    rates = measured.rates(series, group)
    prompts = sum(each["prompts"] for each in rates)
    return sum(each["unscored"] for each in rates) / prompts if prompts else None


def is_loud(measured: Measured, series: Series) -> bool:
    """Whether more is unscored than a reader may overlook."""
    shares = [share for name in measured.groups if (share := unscored_share(measured, series, name)) is not None]
    return bool(shares) and (max(shares) > LOUD_UNSCORED or max(shares) - min(shares) > LOUD_UNSCORED)


def worst_case(measured: Measured, series: Series, group: str) -> tuple[float, float] | None:
    """Where the group's value lies whatever the missing verdicts would have been: the mean over its conditions."""
    rates = measured.rates(series, group)
    if not rates or any(each["worst_low"] is None or each["worst_high"] is None for each in rates):
        return None
    return (
        sum(each["worst_low"] for each in rates) / len(rates),
        sum(each["worst_high"] for each in rates) / len(rates),
    )


def is_keyword(judge: Mapping[str, Any]) -> bool:
    return judge["model"] is None and "refused" in judge["gives"]


def _keywords(measured: Measured) -> Iterator[str]:
    main = measured.main
    if main is None or main.judge not in measured.judges or not is_keyword(measured.judges[main.judge]):
        return
    others = {series.judge for series in measured.series if series.suite == main.suite} & measured.judges.keys()
    alone = not any(measured.judges[name]["model"] for name in others)
    subject = "Keywords alone judged the answers" if alone else f"The judge of the headline, {main.judge}, is keywords"
    yield (
        f"{subject}. Published lists agree with people moderately (kappa 0.67 and 0.77 on XSTest's labels), and a "
        "fine-tune that only changes a model's style moves such a rate; judge with a model before concluding."
    )


def _unscored(measured: Measured, series: Series) -> Iterator[str]:
    if not is_loud(measured, series):
        return
    shares = {name: share for name in measured.groups if (share := unscored_share(measured, series, name)) is not None}
    most = max(shares, key=lambda name: shares[name])
    least = min(shares, key=lambda name: shares[name])
    told = (
        f"{percent(shares[most])} of the prompts of {series.suite} are without a verdict of {series.judge} for {most}"
    )
    if shares[most] > shares[least]:
        told += ", the most of any group"
    if shares[most] - shares[least] > LOUD_UNSCORED:
        told += f", {percent(shares[least])} for {least}, the fewest: what is missing differs between groups"
    bounds = worst_case(measured, series, most)
    words = words_of(series.metric)
    if bounds is not None and bounds[0] < bounds[1]:
        low, high = (words.value(bound) for bound in bounds)
        told += f". Whatever those verdicts would have been, the {words.noun} lies between {low} and {high}"
    yield f"{told}."


def _worst_case(measured: Measured) -> Iterator[str]:
    for series in measured.mains:
        fragile = [
            contrast["a"]
            for contrast in measured.of_series(series)
            if contrast["significant"]
            and contrast["worst_low"] is not None
            and contrast["worst_high"] is not None
            and contrast["worst_low"] <= 0 <= contrast["worst_high"]
        ]
        if fragile:
            verb = "a difference" if len(fragile) == 1 else "differences"
            yield (
                f"On {series.suite} the missing verdicts alone could undo {verb} called significant: {listed(fragile)}."
            )


def _same_weights(measured: Measured) -> Iterator[str]:
    for contrast in measured.contrasts:
        if measured.is_repeat(contrast) and contrast["significant"]:
            yield (
                f"A/A: {contrast['a']} and {contrast['b']} are the same weights, yet differ significantly on "
                f"{contrast['suite']} by {contrast['judge']}: something other than the weights moves the numbers, so "
                "trust no difference of this size."
            )


def _seeds(measured: Measured) -> Iterator[str]:
    own = [contrast for series in measured.mains for contrast in measured.compared(series)]
    for seeds, told in (
        (1, "one seed: what is said holds for this checkpoint only, and another seed may come out otherwise"),
        (2, "two seeds: an interval over two seeds is wide, and says little"),
    ):
        names = list(dict.fromkeys(contrast["a"] for contrast in own if contrast["seeds"] == seeds))
        if names:
            yield f"{listed(names)} {'has' if len(names) == 1 else 'have'} {told}."


def _sensitivity(measured: Measured) -> Iterator[str]:
    told = []
    for series in measured.mains:
        least = [
            contrast["minimum_detectable"]
            for contrast in measured.compared(series)
            if not contrast["significant"] and contrast["minimum_detectable"] is not None
        ]
        if least:
            told.append(f"{words_of(series.metric).difference(max(least)).removeprefix('+')} on {series.suite}")
    if told:
        yield (
            f"A true difference smaller than {sentence_list(told)} would be missed more often than one time in five: "
            "“cannot be told apart” is no proof of equality."
        )


def _disagreement(measured: Measured) -> Iterator[str]:
    for each in measured.metrics["agreement"]:
        # Where nearly all verdicts are the same, kappa is low of judges that hardly ever differ.
        if each["kappa"] is not None and each["kappa"] < POOR_KAPPA and each["agree"] < GOOD_AGREEMENT:
            first, second = each["judges"]
            yield (
                f"{first} and {second} agree on {percent(each['agree'])} of the answers to {each['suite']} "
                f"(kappa {each['kappa']:.2f}): they do not measure the same thing."
            )


def _degenerate(measured: Measured) -> Iterator[str]:
    for series in measured.series:
        if series.metric != "degenerate":
            continue
        values = {name: measured.value(series, name) for name in measured.groups}
        broken = {name: value for name, value in values.items() if value is not None and value > LOUD_DEGENERATE}
        if broken:
            named = [f"{name} ({percent(value)})" for name, value in broken.items()]
            yield (
                f"On {series.suite} many answers mostly repeat themselves with {listed(named)}: such an answer "
                "neither refuses nor helps."
            )


def _answers(measured: Measured) -> Iterator[str]:
    for suite in measured.suites:
        own = [each for each in measured.metrics["answers"] if each["suite"] == suite]
        asked, cut = sum(each["asked"] for each in own), sum(each["truncated"] for each in own)
        if asked and cut / asked > LOUD_TRUNCATED:
            yield (
                f"{percent(cut / asked)} of the answers to {suite} reached sampling.max_tokens and were judged as far "
                "as they went."
            )
