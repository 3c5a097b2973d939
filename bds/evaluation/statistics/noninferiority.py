"""Whether something is not worse by more than a margin that was fixed beforehand.

A difference that is not significant is no evidence of this: the whole interval must lie on the good side of the margin.
"""

from bds.evaluation.statistics.intervals import Interval


def is_not_inferior(interval: Interval | None, margin: float, *, higher_is_better: bool) -> bool | None:
    """Whether A is worse than B by less than `margin` at most; None without an interval.

    Args:
        interval: of A - B, two-sided, so that its error on the one side that counts is half of what it leaves out.
        margin: above 0, in the unit of the difference.
    """
    if interval is None:
        return None
    return interval.low > -margin if higher_is_better else interval.high < margin
