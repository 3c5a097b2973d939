"""p-values of many contrasts, adjusted for their number: compare an adjusted p with the level itself."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

HOLM = "Holm"
BENJAMINI_HOCHBERG = "Benjamini-Hochberg"


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given: of the i-th smallest of m, max over j <= i of (m - j + 1) p_j, at most 1.

    Keeps the chance of any false finding in the family below the level (Holm 1979, Scand. J. Statist. 6:65).
    """
    values = np.asarray(p, dtype=float)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in adjusted]


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given: of the i-th smallest of m, min over j >= i of m p_j / j.

    Keeps the expected share of false findings among the findings below the level (Benjamini and Hochberg 1995, JRSS B
    57:289).
    """
    if not p:
        return []
    return [float(value) for value in stats.false_discovery_control(p, method="bh")]
