"""The smallest true difference that a comparison of its size would find most of the time."""

import math

from scipy import special, stats

from bds.evaluation.statistics.intervals import normal_quantile

POWER = 0.8


def minimum_detectable(mean_square: float, count: int, confidence: float = 0.95) -> float | None:
    """(z(confidence) + z(POWER)) √(mean_square / count): 2.80 √(discordant share / n) at 95 %.

    Args:
        mean_square: of the differences of pairs; of counts it is the share of prompts on which the two differ.
        count: of pairs.

    None without pairs, and where none differs: then their number tells no variance.
    """
    if count == 0 or mean_square <= 0:
        return None
    return (normal_quantile(confidence) + float(stats.norm.ppf(POWER))) * math.sqrt(mean_square / count)


def minimum_detectable_over_seeds(error: float, freedom: float, confidence: float = 0.95) -> float:
    """The difference whose noncentral t distribution exceeds the limit of the t test with a chance of POWER.

    With few seeds normal quantiles would promise far too much: at three seeds twice too much.

    Args:
        error: standard error of the difference.
        freedom: its degrees of freedom.
    """
    limit = stats.t.ppf((1 + confidence) / 2, freedom)
    return float(special.nctdtrinc(freedom, 1 - POWER, limit)) * error
