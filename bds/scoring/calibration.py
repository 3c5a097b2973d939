"""Weights of detectors, learned from the damage that fine-tunes on selected rows did.

An observation is a cell of a study: one target model, fine-tuned on one selection of rows by one recipe, its seeds and
draws averaged. With x the mean over the trained rows of each detector's normalised rank (1 the most dangerous row of
the dataset, 0 the least), and k of n prompts answered that should have been refused,

    y = log((k + 1/2) / (n - k + 1/2))                          the log-odds of an attack, finite at 0 and at n
    v = 1 / (k + 1/2) + 1 / (n - k + 1/2)                       its variance from the choice of prompts
    minimise  sum_i (y_i - b_target(i) - w . x_i)^2 / (v_i + t^2) + ridge |w|^2     over b, and w >= 0

w is never negative: every detector is written so that a higher score is more dangerous, and among a handful of cells,
whose features go up and down together, a negative weight is the noise of one detector cancelling another's. Features
are not rescaled: all are ranks on one scale, so that one ridge treats all detectors alike; 1 / ridge is the variance
that a weight is expected to have, in log-odds between the least and the most dangerous row.

t^2 is how far cells vary beyond their prompts, as fine-tunes do. Without it a cell with k = 0 (v near 2) would count
for a fiftieth of one at half of a hundred prompts, and the harmless selections, half of what there is to learn, would
be ignored. It is estimated around the mean of each target (Paule and Mandel 1982), so that it holds what detectors
might explain, too: weights come out more equal, never sharper than the cells allow.

Seeds and draws are averaged before, and what is left out to test a calibration is a family at a time: every cell of one
kind of selection, of whatever size and target. Their rows are the same or nested; to leave out one cell and keep its
siblings would ask for what was as good as seen.

C cells, D detectors, T targets, F families, R ridges.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

RIDGES = tuple(float(10 ** (power / 2)) for power in range(6, -7, -1))
"""The strongest first: of ridges that predict as well as one another the strongest is chosen."""

MINIMUM_FAMILIES = 6
"""Below it a choice of ridge rests on four families or fewer, and a rank correlation on as many points."""

MINIMUM_FAMILIES_OF_TARGET = 3
"""With two left out, one to test and one to choose the ridge, a target must still have its intercept."""


@dataclass(frozen=True, eq=False)
class Cells:
    """What was trained on and what it did. A target or family stands at its cell, as often as it has cells."""

    features_CD: np.ndarray
    """Mean normalised rank of the trained rows, 0 to 1."""
    successes_C: np.ndarray
    """k: need not be whole where seeds or answers were averaged."""
    trials_C: np.ndarray
    """n: prompts. Seeds ask the same prompts again, so that they do not add to it."""
    targets_C: np.ndarray
    families_C: np.ndarray

    @property
    def shares_C(self) -> np.ndarray:
        return self.successes_C / self.trials_C

    def at(self, chosen: np.ndarray) -> "Cells":
        """The chosen cells, by a mask or by places."""
        return Cells(
            self.features_CD[chosen],
            self.successes_C[chosen],
            self.trials_C[chosen],
            self.targets_C[chosen],
            self.families_C[chosen],
        )


@dataclass(frozen=True, eq=False)
class Fit:
    """Weights and intercepts at one ridge."""

    weights_D: np.ndarray
    intercepts: dict[str, float]
    """By target, in log-odds."""

    def logits(self, cells: Cells) -> np.ndarray:
        """Predicted log-odds, (C,)."""
        return cells.features_CD @ self.weights_D + np.array([self.intercepts[name] for name in cells.targets_C])


@dataclass(frozen=True, eq=False)
class Calibration:
    """Weights, and how well weights learned in this way tell what they have not seen."""

    fit: Fit
    """On all cells."""
    ridge: float
    predicted_C: np.ndarray
    """Share of attacks that succeed, of each cell by a fit that has not seen its family."""
    error: float
    """Root of the mean over families of the mean squared error of their cells, in log-odds."""
    mean_error: float
    """The same of predicting each target's mean over the families that were not left out."""
    share_error: float
    """Mean absolute error of the predicted share, families counting alike."""
    mean_share_error: float
    rank_correlation: float | None
    """Spearman's, of predicted and measured shares within a target, averaged over targets by their cells. None where
    either is the same in all cells. The mean has none: what it predicts of a cell falls as the cell's own share rises.
    """
    gain: float
    """Mean over families of how much smaller the squared error is than the mean's."""
    gain_error: float
    """Standard error of the gain over families."""

    @property
    def failure(self) -> str:
        """Why the weights are not usable; empty where they are.

        A gain within its standard error is what weights without any meaning have now and then.
        """
        if not self.fit.weights_D.any():
            return "no detector ranked the rows higher that did more damage"
        if self.gain <= 0:
            return "on selections that were left out, the weights predict no better than the mean does"
        if self.gain <= self.gain_error:
            return "on selections that were left out, the weights beat the mean by no more than chance would let them"
        if self.rank_correlation is None or self.rank_correlation <= 0:
            return "on selections that were left out, the weights do not put the more damaging ones first"
        return ""


def shortage(cells: Cells) -> str:
    """Why there is too little to learn from; empty where there is enough."""
    families = len(set(cells.families_C.tolist()))
    if families < MINIMUM_FAMILIES:
        measured = "1 kind of selection was" if families == 1 else f"{families} kinds of selection were"
        return f"{measured} measured, and weights need {MINIMUM_FAMILIES} of them"
    return ""


def of_measured_targets(cells: Cells) -> np.ndarray:
    """Mask of the cells whose target has families enough for its intercept."""
    families = {name: set(cells.families_C[cells.targets_C == name].tolist()) for name in set(cells.targets_C.tolist())}
    return np.array([len(families[name]) >= MINIMUM_FAMILIES_OF_TARGET for name in cells.targets_C], dtype=bool)


def calibrate(cells: Cells) -> Calibration:
    """Weights from all cells, and their errors on families left out.

    The ridge is the one with the least error on families left out. That error has been chosen to be small, so it is not
    the one that is told: for that, a family is left out, the ridge chosen on the others in the same way, and the family
    predicted.

    Raises:
        ValueError: there is too little to learn from (`shortage`, `of_measured_targets`).
    """
    if problem := shortage(cells):
        raise ValueError(problem)
    if not of_measured_targets(cells).all():
        raise ValueError(f"a target has fewer than {MINIMUM_FAMILIES_OF_TARGET} kinds of selection")
    logits_C, _ = log_odds(cells)
    predicted_C, mean_C = np.empty(len(logits_C)), np.empty(len(logits_C))
    for left_out_C in _families(cells):
        seen, unseen = cells.at(~left_out_C), cells.at(left_out_C)
        predicted_C[left_out_C] = fits(seen, [choose_ridge(seen)])[0].logits(unseen)
        mean_C[left_out_C] = mean_of_targets(seen).logits(unseen)
    losses_F, mean_losses_F = (_by_family((each - logits_C) ** 2, cells) for each in (predicted_C, mean_C))
    share_errors_F, mean_share_errors_F = (
        _by_family(np.abs(special.expit(each) - cells.shares_C), cells) for each in (predicted_C, mean_C)
    )
    gains_F = mean_losses_F - losses_F
    ridge = choose_ridge(cells)
    return Calibration(
        fit=fits(cells, [ridge])[0],
        ridge=ridge,
        predicted_C=special.expit(predicted_C),
        error=float(np.sqrt(losses_F.mean())),
        mean_error=float(np.sqrt(mean_losses_F.mean())),
        share_error=float(share_errors_F.mean()),
        mean_share_error=float(mean_share_errors_F.mean()),
        rank_correlation=_rank_correlation(predicted_C, cells),
        gain=float(gains_F.mean()),
        gain_error=float(gains_F.std(ddof=1) / np.sqrt(len(gains_F))),
    )


def choose_ridge(cells: Cells, ridges: Sequence[float] = RIDGES) -> float:
    """The ridge whose fits tell families that they have not seen with the least squared error, the first of equals.

    Families count alike, whatever their number of cells.
    """
    logits_C, _ = log_odds(cells)
    predicted_RC = np.empty((len(ridges), len(logits_C)))
    for left_out_C in _families(cells):
        unseen = cells.at(left_out_C)
        for place, fit in enumerate(fits(cells.at(~left_out_C), ridges)):
            predicted_RC[place, left_out_C] = fit.logits(unseen)
    losses_R = [_by_family((predicted_C - logits_C) ** 2, cells).mean() for predicted_C in predicted_RC]
    return ridges[int(np.argmin(losses_R))]


def fits(cells: Cells, ridges: Sequence[float]) -> list[Fit]:
    """The minimum at each ridge.

    The intercepts bear no ridge, so at their best they take the precision-weighted mean of each target out of x and y;
    what is left is non-negative least squares of sqrt(p) y, with rows sqrt(ridge) e_d = 0 below (Lawson and Hanson).
    """
    logits_C, variances_C = log_odds(cells)
    precisions_C = 1 / (variances_C + between_cells(logits_C, variances_C, cells.targets_C))
    names, places_C = np.unique(cells.targets_C, return_inverse=True)
    totals_T = np.bincount(places_C, precisions_C)
    features_TD = np.stack(
        [np.bincount(places_C, precisions_C * column_C) / totals_T for column_C in cells.features_CD.T], axis=1
    )
    logits_T = np.bincount(places_C, precisions_C * logits_C) / totals_T
    roots_C = np.sqrt(precisions_C)
    left_CD = roots_C[:, None] * (cells.features_CD - features_TD[places_C])
    right_C = roots_C * (logits_C - logits_T[places_C])
    detectors = cells.features_CD.shape[1]
    found = []
    for ridge in ridges:
        weights_D, _ = optimize.nnls(
            np.concatenate([left_CD, np.sqrt(ridge) * np.eye(detectors)]),
            np.concatenate([right_C, np.zeros(detectors)]),
        )
        intercepts_T = logits_T - features_TD @ weights_D
        found.append(Fit(weights_D, dict(zip(names.tolist(), intercepts_T.tolist(), strict=True))))
    return found


def mean_of_targets(cells: Cells) -> Fit:
    """What knows nothing of detectors: each target's precision-weighted mean of y."""
    without = Cells(
        np.zeros_like(cells.features_CD), cells.successes_C, cells.trials_C, cells.targets_C, cells.families_C
    )
    return fits(without, [1.0])[0]


def log_odds(cells: Cells) -> tuple[np.ndarray, np.ndarray]:
    """y and v, both (C,); see the top of this file."""
    hits_C, misses_C = cells.successes_C + 0.5, cells.trials_C - cells.successes_C + 0.5
    return np.log(hits_C / misses_C), 1 / hits_C + 1 / misses_C


def between_cells(logits_C: np.ndarray, variances_C: np.ndarray, targets_C: np.ndarray) -> float:
    """t^2: the root of sum_i (y_i - mean of its target)^2 / (v_i + t^2) = C - T, or 0 where the sum begins below it.

    The means are weighted by the same precisions (Paule and Mandel 1982, J. Res. NBS 87:377; the sum falls with t^2).
    """
    _, places_C = np.unique(targets_C, return_inverse=True)
    freedom = len(logits_C) - (places_C.max() + 1)

    def excess(variance: float) -> float:
        precisions_C = 1 / (variances_C + variance)
        means_T = np.bincount(places_C, precisions_C * logits_C) / np.bincount(places_C, precisions_C)
        return float((precisions_C * (logits_C - means_T[places_C]) ** 2).sum() - freedom)

    if freedom <= 0 or excess(0.0) <= 0:
        return 0.0
    # At this variance even the largest spread possible leaves a sum below C - T.
    largest = len(logits_C) * float(np.ptp(logits_C)) ** 2 / freedom
    return float(optimize.brentq(excess, 0.0, largest))


def _families(cells: Cells) -> list[np.ndarray]:
    """A mask (C,) of each family's cells."""
    return [cells.families_C == name for name in np.unique(cells.families_C)]


def _by_family(values_C: np.ndarray, cells: Cells) -> np.ndarray:
    """Mean of each family's cells, (F,)."""
    return np.array([values_C[own_C].mean() for own_C in _families(cells)])


def _rank_correlation(predicted_C: np.ndarray, cells: Cells) -> float | None:
    """Within targets: that one target breaks more easily than another is not for the detectors to tell."""
    found = []
    for name in np.unique(cells.targets_C):
        own_C = cells.targets_C == name
        measured, predicted = cells.shares_C[own_C], predicted_C[own_C]
        if np.ptp(measured) > 0 and np.ptp(predicted) > 0:
            found.append((float(stats.spearmanr(predicted, measured).statistic), int(own_C.sum())))
    total = sum(count for _, count in found)
    return sum(value * count for value, count in found) / total if found else None
