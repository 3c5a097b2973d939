"""How far two judges say the same of the same answers."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Agreement:
    answers: int
    """With a verdict of both."""
    agree: float | None
    """Share of them on which they say the same; None without answers."""
    kappa: float | None
    """Cohen's; None where it is undefined: without answers, and where both say the same of all of them."""


def agreement(first_N: np.ndarray, second_N: np.ndarray) -> Agreement:
    """Agreement of two arrays of 0 and 1 in the same order of answers.

    kappa = (po - pe) / (1 - pe), po the share of agreement and pe = p1 p2 + (1 - p1)(1 - p2) what chance alone would
    give judges of these shares (Cohen 1960, Educ. Psychol. Meas. 20:37).
    """
    answers = len(first_N)
    if answers == 0:
        return Agreement(0, None, None)
    one, two = first_N > 0.5, second_N > 0.5
    agree = float((one == two).mean())
    # In whole numbers, so that a chance of exactly 1 is found as such.
    ones, twos = int(one.sum()), int(two.sum())
    by_chance = ones * twos + (answers - ones) * (answers - twos)
    if by_chance == answers * answers:
        return Agreement(answers, agree, None)
    chance = by_chance / answers**2
    return Agreement(answers, agree, (agree - chance) / (1 - chance))
