"""Whether what a model is for is unharmed: "non_inferiority" of metrics.json.

On suites to answer and of utility by the contrasts with the baseline, on lm-eval's tasks by their scores.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from bds.evaluation.exports.reported import HIGHER_IS_BETTER
from bds.evaluation.statistics.intervals import Interval, normal_quantile
from bds.evaluation.statistics.noninferiority import is_not_inferior
from bds.evaluation.statistics.seeds import t_interval, welch_interval
from bds.evaluation.study import Arm, Options, groups_of, in_order, paired_arms

MAY_BE_LOST = {"answer": ("over_refusal",), "utility": ("correct", "refused")}
"""Metrics that are checked, by kind of suite."""

NO_SHARE = frozenset({"perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "ter", "brier_score"})
"""Metrics of lm-eval of which less is better: the margin, a share of what is done rightly, is not for them."""

Check = dict[str, Any]


def suite_checks(
    contrasts: Sequence[Mapping[str, Any]], kinds: Mapping[str, str], judges: Sequence[str], options: Options
) -> list[Check]:
    """One of each suite, metric and group, by the primary judge where it gives the metric, else by the first that does.

    Args:
        contrasts: with the baseline.
        kinds: of suites.
        judges: names, in order.
    """
    found = []
    for suite, metric in dict.fromkeys((each["suite"], each["metric"]) for each in contrasts):
        if metric not in MAY_BE_LOST.get(kinds[suite], ()):
            continue
        own = [each for each in contrasts if (each["suite"], each["metric"]) == (suite, metric)]
        judge = in_order({each["judge"] for each in own}, [options.primary_judge, *judges])[0]
        for each in own:
            if each["judge"] == judge:
                interval = None if each["low"] is None else Interval(each["low"], each["high"])
                about = {"a": each["a"], "b": each["b"], "suite": suite, "metric": metric}
                is_better = HIGHER_IS_BETTER.get(metric, False)
                found.append({**about, **_check(each["difference"], interval, is_better, options)})
    return found


def task_checks(utility: Sequence[Mapping[str, Any]], arms: Sequence[Arm], options: Options) -> list[Check]:
    """One of each task, metric and group, in the order of the scores.

    lm-eval tells a score and its standard error, not which questions were right: one condition against another has
    the interval D ± z √(SA² + SB²) of independent samples, too wide where the questions are the same. With several
    seeds it is a t interval over their differences, as in contrasts.

    Args:
        utility: "utility" of metrics.json, with lm-eval's `filter`.
    """
    members = groups_of(arms)
    if options.baseline not in members:
        return []
    scores: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for row in utility:
        scores.setdefault((row["task"], _metric(row)), {})[row["condition"]] = row
    found = []
    for (task, metric), by_condition in scores.items():
        if not all(_is_share(row) for row in by_condition.values()):
            continue
        measured = {
            group: [arm for arm in own if arm.name in by_condition and by_condition[arm.name]["value"] is not None]
            for group, own in members.items()
        }
        for group in members:
            if group != options.baseline and measured[group] and measured[options.baseline]:
                value, interval = _difference(measured[group], measured[options.baseline], by_condition, options)
                about = {"a": group, "b": options.baseline, "task": task, "metric": metric}
                found.append({**about, **_check(value, interval, True, options)})
    return found


def _check(value: float | None, interval: Interval | None, higher_is_better: bool, options: Options) -> Check:
    return {
        "difference": value,
        "low": None if interval is None else interval.low,
        "high": None if interval is None else interval.high,
        "margin": options.margin,
        "holds": is_not_inferior(interval, options.margin, higher_is_better=higher_is_better),
    }


def _metric(row: Mapping[str, Any]) -> str:
    """As lm-eval writes it: exact_match,strict-match."""
    return row["metric"] if row["filter"] == "none" else f"{row['metric']},{row['filter']}"


def _is_share(row: Mapping[str, Any]) -> bool:
    return row["metric"] not in NO_SHARE and (row["value"] is None or 0 <= row["value"] <= 1)


def _difference(
    a: Sequence[Arm], b: Sequence[Arm], scores: Mapping[str, Mapping[str, Any]], options: Options
) -> tuple[float, Interval | None]:
    pairs = paired_arms(a, b)
    if pairs is None:
        of_a, of_b = ([scores[arm.name]["value"] for arm in side] for side in (a, b))
        value, over_seeds = fmean(of_a) - fmean(of_b), welch_interval(of_a, of_b, options.confidence)
    else:
        differences = [scores[one.name]["value"] - scores[other.name]["value"] for one, other in pairs]
        value, over_seeds = fmean(differences), t_interval(differences, options.confidence)
    if over_seeds is not None:
        return value, over_seeds
    errors = [[scores[arm.name]["stderr"] for arm in side] for side in (a, b)]
    if any(error is None for side in errors for error in side):
        return value, None
    half = normal_quantile(options.confidence) * math.sqrt(sum(fmean(e**2 for e in side) for side in errors))
    return value, Interval(value - half, value + half)
