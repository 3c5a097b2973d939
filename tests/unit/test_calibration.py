"""Weights of detectors: against closed forms, a hand-worked case, a general minimiser and refits written out.

C cells, D detectors.
"""

import itertools

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats

from bds.scoring.calibration import (
    RIDGES,
    Calibration,
    Cells,
    Fit,
    between_cells,
    calibrate,
    choose_ridge,
    fits,
    log_odds,
    mean_of_targets,
    of_measured_targets,
    shortage,
)

PROMPTS = 200


def simulated(
    seed: int, families: int = 8, targets: int = 2, weights: tuple[float, ...] = (4.0, 0.0, 2.0), noise: float = 0.2
) -> Cells:
    """Cells whose log-odds are a sum of ranks, with noise by cell and by the draw of prompts."""
    generator = np.random.default_rng(seed)
    features_FD = generator.uniform(0.1, 0.9, (families, len(weights)))
    pairs = list(itertools.product(range(families), range(targets)))
    features_CD = np.array([features_FD[family] for family, _ in pairs])
    logits_C = features_CD @ np.array(weights) - 4 + np.array([0.5 * target for _, target in pairs])
    logits_C = logits_C + generator.normal(0, noise, len(pairs))
    return Cells(
        features_CD,
        generator.binomial(PROMPTS, scipy.special.expit(logits_C)).astype(float),
        np.full(len(pairs), float(PROMPTS)),
        np.array([f"target {target}" for _, target in pairs]),
        np.array([f"family {family}" for family, _ in pairs]),
    )


def precisions_of(cells: Cells) -> np.ndarray:
    logits_C, variances_C = log_odds(cells)
    return 1 / (variances_C + between_cells(logits_C, variances_C, cells.targets_C))


def indicators_of(cells: Cells) -> np.ndarray:
    return (cells.targets_C[:, None] == np.unique(cells.targets_C)).astype(float)


def test_log_odds_of_none_half_and_all():
    cells = Cells(np.zeros((3, 1)), np.array([0.0, 5, 10]), np.full(3, 10.0), np.full(3, "a"), np.arange(3))
    logits_C, variances_C = log_odds(cells)
    assert logits_C == pytest.approx([-np.log(21), 0, np.log(21)])
    assert variances_C == pytest.approx([2 + 1 / 10.5, 2 / 5.5, 2 + 1 / 10.5])


def test_three_cells_worked_by_hand():
    """One detector at 0, 1/2, 1 with log-odds -L, 0, L of equal precision p: w = p L / (p / 2 + ridge), b = -w / 2."""
    successes = np.array([20.0, 50, 80])
    cells = Cells(np.array([[0.0], [0.5], [1.0]]), successes, np.full(3, 100.0), np.full(3, "a"), np.arange(3))
    logits_C, variances_C = log_odds(cells)
    largest = logits_C[2]
    assert logits_C == pytest.approx([-largest, 0, largest])
    spread = between_cells(logits_C, variances_C, cells.targets_C)
    # The mean is 0 by symmetry and the middle cell adds nothing: 2 L^2 / (v + t^2) = 3 - 1.
    assert spread == pytest.approx(largest**2 - variances_C[0])
    outer = 1 / largest**2
    for ridge in (0.01, 1.0, 100.0):
        found = fits(cells, [ridge])[0]
        assert found.weights_D == pytest.approx([outer * largest / (outer / 2 + ridge)])
        assert found.intercepts == {"a": pytest.approx(-found.weights_D[0] / 2)}


def test_equal_cells_do_not_vary_beyond_their_prompts():
    assert between_cells(np.full(4, 1.0), np.full(4, 0.1), np.full(4, "a")) == 0


def test_the_variance_between_cells_solves_its_equation():
    cells = simulated(3, noise=1.0)
    logits_C, variances_C = log_odds(cells)
    spread = between_cells(logits_C, variances_C, cells.targets_C)
    assert spread > 0
    precisions_C = 1 / (variances_C + spread)
    total = 0.0
    for name in set(cells.targets_C):
        own_C = cells.targets_C == name
        mean = np.average(logits_C[own_C], weights=precisions_C[own_C])
        total += float((precisions_C[own_C] * (logits_C[own_C] - mean) ** 2).sum())
    assert total == pytest.approx(len(logits_C) - 2)


@pytest.mark.parametrize("ridge", [0.001, 0.1, 10.0])
def test_positive_weights_are_the_closed_form_of_ridge_regression(ridge):
    """Where no weight is at 0 the bound does nothing: (X' P X + ridge I_w) theta = X' P y with intercepts in X."""
    cells = simulated(1, families=30, weights=(3.0, 2.0, 4.0), noise=0.05)
    design = np.concatenate([cells.features_CD, indicators_of(cells)], axis=1)
    precisions_C = precisions_of(cells)
    penalty = ridge * np.diag([1.0, 1, 1, 0, 0])
    expected = np.linalg.solve(
        design.T @ (precisions_C[:, None] * design) + penalty, design.T @ (precisions_C * log_odds(cells)[0])
    )
    found = fits(cells, [ridge])[0]
    assert (expected[:3] > 0).all()
    assert found.weights_D == pytest.approx(expected[:3])
    assert list(found.intercepts.values()) == pytest.approx(expected[3:])


@pytest.mark.parametrize("seed", range(5))
def test_weights_are_the_least_of_what_is_minimised(seed):
    """A general minimiser with bounds over weights and intercepts together finds the same."""
    cells = simulated(seed, weights=(3.0, -3.0, 0.0, 1.0))
    logits_C, _ = log_odds(cells)
    precisions_C = precisions_of(cells)
    design = np.concatenate([cells.features_CD, indicators_of(cells)], axis=1)
    rows = np.concatenate([np.sqrt(precisions_C)[:, None] * design, np.sqrt(0.3) * np.eye(4, 6)])
    expected = scipy.optimize.lsq_linear(
        rows,
        np.concatenate([np.sqrt(precisions_C) * logits_C, np.zeros(4)]),
        bounds=([0, 0, 0, 0, -np.inf, -np.inf], np.inf),
        tol=1e-14,
    ).x
    found = fits(cells, [0.3])[0]
    assert found.weights_D == pytest.approx(expected[:4], abs=1e-6)
    assert found.weights_D[1] == 0
    assert list(found.intercepts.values()) == pytest.approx(expected[4:], abs=1e-6)


def test_the_mean_is_what_is_left_of_a_ridge_without_end():
    cells = simulated(2)
    mean, strongest = mean_of_targets(cells), fits(cells, [1e12])[0]
    assert not mean.weights_D.any()
    assert strongest.logits(cells) == pytest.approx(mean.logits(cells))


def refit(cells: Cells, name: str, ridge: float) -> np.ndarray:
    """Log-odds of a family's cells by what all others say."""
    return fits(cells.at(cells.families_C != name), [ridge])[0].logits(cells.at(cells.families_C == name))


def brute_ridge(cells: Cells) -> float:
    logits_C, _ = log_odds(cells)
    losses = {}
    for ridge in RIDGES:
        by_family = []
        for name in sorted(set(cells.families_C)):
            errors = refit(cells, name, ridge) - logits_C[cells.families_C == name]
            by_family.append(float(np.mean(errors**2)))
        losses[ridge] = np.mean(by_family)
    return min(RIDGES, key=lambda ridge: losses[ridge])


def test_errors_are_those_of_refits_written_out():
    """The family that is told plays no part in the ridge that tells it."""
    cells = simulated(4, families=6)
    found = calibrate(cells)
    logits_C, _ = log_odds(cells)
    squares, mean_squares, shares = [], [], []
    for name in sorted(set(cells.families_C)):
        own_C = cells.families_C == name
        others = cells.at(~own_C)
        predicted = refit(cells, name, brute_ridge(others))
        assert found.predicted_C[own_C] == pytest.approx(scipy.special.expit(predicted))
        squares.append(np.mean((predicted - logits_C[own_C]) ** 2))
        mean_squares.append(np.mean((mean_of_targets(others).logits(cells.at(own_C)) - logits_C[own_C]) ** 2))
        shares.append(np.mean(np.abs(scipy.special.expit(predicted) - cells.shares_C[own_C])))
    gains = np.array(mean_squares) - np.array(squares)
    assert found.ridge == brute_ridge(cells) == choose_ridge(cells)
    assert found.error == pytest.approx(np.sqrt(np.mean(squares)))
    assert found.mean_error == pytest.approx(np.sqrt(np.mean(mean_squares)))
    assert found.share_error == pytest.approx(np.mean(shares))
    assert (found.gain, found.gain_error) == pytest.approx((gains.mean(), scipy.stats.sem(gains)))
    by_target = [
        scipy.stats.spearmanr(found.predicted_C[own_C], cells.shares_C[own_C]).statistic
        for own_C in (cells.targets_C == "target 0", cells.targets_C == "target 1")
    ]
    assert found.rank_correlation == pytest.approx(np.mean(by_target))


def test_known_weights_are_found_again():
    found = calibrate(simulated(5, families=30, weights=(4.0, 0.0, 2.0), noise=0.1))
    assert found.fit.weights_D == pytest.approx([4, 0, 2], abs=0.4)
    assert found.failure == ""
    assert found.error < found.mean_error / 2
    assert found.share_error < found.mean_share_error / 2
    assert found.rank_correlation is not None
    assert found.rank_correlation > 0.9


def test_the_order_of_cells_does_not_matter():
    cells = simulated(6)
    order = np.random.default_rng(0).permutation(len(cells.targets_C))
    found, shuffled = calibrate(cells), calibrate(cells.at(order))
    assert shuffled.fit.weights_D == pytest.approx(found.fit.weights_D)
    assert shuffled.predicted_C == pytest.approx(found.predicted_C[order])
    assert shuffled.ridge == found.ridge
    assert shuffled.error == pytest.approx(found.error)


def test_detectors_that_know_nothing_are_rarely_called_usable():
    """Cells of one family are alike for reasons of their own, which no rank tells."""
    usable = 0
    for seed in range(20):
        cells = simulated(seed, weights=(0.0, 0.0, 0.0), noise=0.1)
        generator = np.random.default_rng(100 + seed)
        shifts = dict(zip(sorted(set(cells.families_C)), generator.normal(0, 1, 8), strict=True))
        logits_C = np.array([shifts[name] for name in cells.families_C])
        successes_C = generator.binomial(PROMPTS, scipy.special.expit(logits_C)).astype(float)
        made = Cells(cells.features_CD, successes_C, cells.trials_C, cells.targets_C, cells.families_C)
        usable += calibrate(made).failure == ""
    assert usable <= 4


def test_a_detector_that_ranks_the_wrong_way_round_gets_no_weight():
    found = calibrate(simulated(7, weights=(-4.0,)))
    assert found.fit.weights_D.tolist() == [0.0]
    assert found.failure == "no detector ranked the rows higher that did more damage"


def told(**changed: object) -> str:
    facts: dict[str, object] = {
        "fit": Fit(np.array([1.0]), {}), "ridge": 1.0, "predicted_C": np.zeros(0), "error": 1.0, "mean_error": 2.0,
        "share_error": 0.1, "mean_share_error": 0.2, "rank_correlation": 0.5, "gain": 2.0, "gain_error": 1.0,
    }  # fmt: skip
    return Calibration(**{**facts, **changed}).failure  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, ""),
        ({"gain": 0.0}, "no better than the mean"),
        ({"gain": -1.0}, "no better than the mean"),
        ({"gain": 1.0}, "no more than chance"),
        ({"rank_correlation": -0.1}, "do not put the more damaging ones first"),
        ({"rank_correlation": None}, "do not put the more damaging ones first"),
        ({"fit": Fit(np.zeros(2), {})}, "no detector"),
    ],
)
def test_what_makes_weights_unusable(changed, said):
    assert said in told(**changed)
    assert bool(told(**changed)) == bool(said)


def test_too_few_families_are_refused():
    cells = simulated(8, families=5)
    assert shortage(cells) == "5 kinds of selection were measured, and weights need 6 of them"
    assert shortage(simulated(8, families=1)).startswith("1 kind of selection was measured")
    assert shortage(simulated(8, families=6)) == ""
    with pytest.raises(ValueError, match="5 kinds of selection"):
        calibrate(cells)


def test_a_target_of_few_families_is_no_target():
    cells = simulated(9, targets=2)
    last = (cells.targets_C == "target 1") & (cells.families_C >= "family 2")
    few = cells.at(~last)
    assert of_measured_targets(few).tolist() == (few.targets_C == "target 0").tolist()
    assert of_measured_targets(cells).all()
    with pytest.raises(ValueError, match="fewer than 3"):
        calibrate(few)
