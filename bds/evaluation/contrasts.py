"""Groups against other groups, with p-values adjusted for their number: "contrasts" of metrics.json.

The primary family is small and fixed beforehand: on every suite to refuse, the headline metric of the primary judge.
Holm's method guards it. All else is exploratory: Benjamini and Hochberg's method over all of it, and by itself over the
categories of each contrast.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bds.evaluation.differences import Side, difference
from bds.evaluation.prompt_values import HEADLINE_METRICS, PromptValues, categories_of
from bds.evaluation.statistics.multiplicity import BENJAMINI_HOCHBERG, HOLM, benjamini_hochberg, holm
from bds.evaluation.study import Arm, Options, Series, groups_of

PRIMARY, EXPLORATORY = "primary", "exploratory"

Contrast = dict[str, Any]


def contrasts(
    values: Mapping[Series, Mapping[str, PromptValues]],
    arms: Sequence[Arm],
    compared: Sequence[tuple[str, str]],
    kinds: Mapping[str, str],
    options: Options,
) -> list[Contrast]:
    """A contrast of every series and pair of groups in which one of the two was measured.

    Args:
        compared: names of groups, A and what it is compared with.
        kinds: of suites.
    """
    members = groups_of(arms)
    headline = headline_series(values, kinds, options.primary_judge)
    found = []
    for series, conditions in values.items():
        for a, b in compared:
            of_a, of_b = (
                [Side(arm, conditions[arm.name]) for arm in members[name] if arm.name in conditions] for name in (a, b)
            )
            if of_a or of_b:
                family = PRIMARY if series in headline else EXPLORATORY
                about = {"a": a, "b": b, **series._asdict(), "family": family}
                found.append({**about, **_measured(of_a, of_b, options)})
    level = 1 - options.confidence
    _adjust([each for each in found if each["family"] == PRIMARY], holm, HOLM, level)
    _adjust([each for each in found if each["family"] == EXPLORATORY], benjamini_hochberg, BENJAMINI_HOCHBERG, level)
    return found


def headline_series(measured: Mapping[Series, object], kinds: Mapping[str, str], primary_judge: str) -> set[Series]:
    """On each suite to refuse, the first of HEADLINE_METRICS that the primary judge gives."""
    found = set()
    for suite in {series.suite for series in measured if kinds[series.suite] == "refuse"}:
        own = [Series(suite, primary_judge, metric) for metric in HEADLINE_METRICS]
        found.update([series for series in own if series in measured][:1])
    return found


def _measured(a: Sequence[Side], b: Sequence[Side], options: Options) -> Contrast:
    """The difference over all prompts, and over those of each category."""
    by_category = [
        {"category": name, **asdict(difference(_of_category(a, name), _of_category(b, name), options))}
        for name in categories_of(side.values for side in (*a, *b))
    ]
    _adjust(by_category, benjamini_hochberg, BENJAMINI_HOCHBERG, 1 - options.confidence)
    return {**asdict(difference(a, b, options)), "by_category": by_category}


def _of_category(sides: Sequence[Side], name: str) -> list[Side]:
    return [Side(side.arm, side.values.of_category(name)) for side in sides]


def _adjust(
    family: Sequence[Contrast], adjust: Callable[[Sequence[float]], list[float]], adjustment: str, level: float
) -> None:
    """Sets p_adjusted, adjustment and significant. What was not tested is no member of its family."""
    for each in family:
        each.update(p_adjusted=None, adjustment=adjustment, significant=False)
    tested = [each for each in family if each["p"] is not None]
    for each, p in zip(tested, adjust([each["p"] for each in tested]), strict=True):
        each.update(p_adjusted=p, significant=p <= level)
