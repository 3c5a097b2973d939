"""Rates of conditions and of groups, with intervals: what metrics.json has under "rates" and "groups"."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from bds.evaluation.prompt_values import PromptValues, categories_of, complete
from bds.evaluation.statistics.bounds import mean_bounds
from bds.evaluation.statistics.intervals import Estimate, Interval, wilson
from bds.evaluation.statistics.ratings import rating_mean
from bds.evaluation.statistics.seeds import ONE_SEED, SEEDS_ALIKE, t_interval
from bds.evaluation.study import Arm, Options, Series, groups_of, seeds_differ

WILSON = "Wilson"


def estimated(values: PromptValues, options: Options) -> Estimate | None:
    """The mean over scored prompts: of counts with Wilson's interval, else with a bootstrap by category.

    None where nothing is scored.
    """
    scored = values.at(values.is_scored)
    if scored.mean is None:
        return None
    if scored.is_count:
        interval = wilson(round(scored.values.sum()), scored.scored, options.confidence)
        return Estimate(scored.mean, interval, WILSON)
    return rating_mean(scored.values, scored.categories, *scored.range, options.resampling)


def rates(
    values: Mapping[Series, Mapping[str, PromptValues]], arms: Sequence[Arm], options: Options
) -> list[dict[str, Any]]:
    """A rate of every series and condition."""
    named = {arm.name: arm for arm in arms}
    return [
        _rate(series, named[condition], own, options)
        for series, conditions in values.items()
        for condition, own in conditions.items()
    ]


def groups(
    values: Mapping[Series, Mapping[str, PromptValues]], arms: Sequence[Arm], options: Options
) -> list[dict[str, Any]]:
    """The mean over a group's conditions, which differ by seed, of every series and group."""
    return [
        _group(series, group, [(arm, conditions[arm.name]) for arm in own if arm.name in conditions], options)
        for series, conditions in values.items()
        for group, own in groups_of(arms).items()
        if any(arm.name in conditions for arm in own)
    ]


def over_seeds(values: Sequence[PromptValues], options: Options) -> Estimate | None:
    """The mean over seeds with its t interval; of a single seed that of its prompts, as the method says.

    Where all seeds have the same mean, the interval is that of prompts, each averaged over the seeds.
    """
    scored = [each for each in values if each.mean is not None]
    if not scored:
        return None
    if len(scored) == 1:
        found = estimated(scored[0], options)
        assert found is not None, "it has a mean"
        return Estimate(found.value, found.interval, f"{found.method}; {ONE_SEED}")
    means = [each.mean for each in scored if each.mean is not None]
    interval = t_interval(means, options.confidence)
    if interval is not None:
        return Estimate(fmean(means), interval.within(*scored[0].range), f"t over {len(means)} seeds")
    alike = complete(scored)
    averaged = np.mean([each.values for each in alike], axis=0)
    found = rating_mean(averaged, alike[0].categories, *scored[0].range, options.resampling)
    if found is None or found.interval is None:
        return Estimate(means[0], None, SEEDS_ALIKE)
    return Estimate(means[0], found.interval.with_value(means[0]), f"{SEEDS_ALIKE}: {found.method}")


def seed_names(arms: Sequence[Arm]) -> list[str]:
    """What tells the conditions of a group apart: their seeds, or their names where seeds do not."""
    return [str(arm.seed) if seeds_differ(arms) else arm.name for arm in arms]


def _rate(series: Series, arm: Arm, values: PromptValues, options: Options) -> dict[str, Any]:
    worst = mean_bounds(values.least, values.greatest)
    found = estimated(values, options)
    return {
        "condition": arm.name,
        "group": arm.group,
        "seed": arm.seed,
        **series._asdict(),
        "prompts": len(values.prompts),
        "scored": values.scored,
        "unscored": values.unscored,
        **value_and_interval(found),
        "method": None if found is None else found.method,
        "worst_low": None if worst is None else worst.low,
        "worst_high": None if worst is None else worst.high,
        "by_category": [
            {
                "category": category,
                "prompts": len(own.prompts),
                "scored": own.scored,
                **value_and_interval(estimated(own, options)),
            }
            for category, own in ((name, values.of_category(name)) for name in categories_of([values]))
        ],
    }


def _group(
    series: Series, group: str, conditions: Sequence[tuple[Arm, PromptValues]], options: Options
) -> dict[str, Any]:
    values = [own for _, own in conditions]
    found = over_seeds(values, options)
    return {
        "group": group,
        **series._asdict(),
        "seeds": sum(own.mean is not None for own in values),
        **value_and_interval(found),
        "method": None if found is None else found.method,
        "by_seed": {
            name: own.mean for name, own in zip(seed_names([arm for arm, _ in conditions]), values, strict=True)
        },
    }


def value_and_interval(found: Estimate | None) -> dict[str, float | None]:
    """value, low and high; None where there is none."""
    interval: Interval | None = None if found is None else found.interval
    return {
        "value": None if found is None else found.value,
        "low": None if interval is None else interval.low,
        "high": None if interval is None else interval.high,
    }
