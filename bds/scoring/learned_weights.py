"""The file that a calibration leaves: weights of detectors, and whether they told damage that they had not seen."""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bds.errors import PreflightError, SpecError
from bds.runs.directory import RunDirectory
from bds.spec.fields import suggestion
from bds.spec.models import DetectorSpec

KIND = "calibration"


@dataclass(frozen=True)
class LearnedWeights:
    """What the detector `calibrated` reads of a calibration."""

    path: str
    sha256: str
    """Of the file's bytes."""
    weights: dict[str, float]
    """By column of a detector."""
    detectors: dict[str, str]
    """The detector behind each column."""
    usable: bool
    reason: str
    """Why it is not usable; empty where it is."""


def learned_weights(
    detectors: Mapping[str, str], weights: Sequence[float] | None, reason: str, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """The file's content.

    Args:
        detectors: the detector behind each column.
        weights: in the same order; None where there was too little to learn from.
        reason: why the weights are not usable; empty where they are.
        facts: what else a reader wants to know.
    """
    return {
        **facts,
        "api_version": "bds/v1",
        "kind": KIND,
        "detectors": dict(detectors),
        "weights": None if weights is None else dict(zip(detectors, map(float, weights), strict=True)),
        "usable": not reason,
        "reason": reason,
    }


def read_learned_weights(path: str, field: str) -> LearnedWeights:
    """The weights of a file.

    Raises:
        PreflightError: the file cannot be read, is no calibration, or has no weights; the sentence names `field`.
    """
    folder, name = os.path.split(path)
    try:
        content = RunDirectory(folder).read_bytes(name)
    except FileNotFoundError as error:
        raise PreflightError(f"{field}: {path} does not exist; name a file that a study wrote") from error
    except PreflightError as error:
        raise PreflightError(f"{field}: {error}") from error
    try:
        value = json.loads(content)
    except ValueError as error:
        raise PreflightError(f"{field}: {path} is no JSON ({error}); name a file that a study wrote") from error
    if not isinstance(value, dict) or value.get("kind") != KIND:
        raise PreflightError(f"{field}: {path} is no calibration; name a file that a study wrote to its calibration/")
    if value.get("weights") is None and value.get("reason"):
        raise PreflightError(f"{field}: the calibration {path} has no weights: {value['reason']}; enlarge the study")
    if problem := _problem(value):
        raise PreflightError(
            f"{field}: the calibration {path} is damaged, {problem}; run its study again to write it anew"
        )
    if not any(value["weights"].values()):
        raise PreflightError(
            f"{field}: every weight of the calibration {path} is 0, so every score would be; leave this detector out"
        )
    return LearnedWeights(
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        weights=value["weights"],
        detectors=value["detectors"],
        usable=value["usable"],
        reason=value["reason"],
    )


def weights_of(specs: Sequence[DetectorSpec]) -> dict[str, LearnedWeights]:
    """The weights of every calibrated detector, by its column.

    Args:
        specs: detectors that `check_detectors` passed.

    Raises:
        PreflightError: a file that cannot be read, or holds no weights.
        SpecError: a file whose detectors are not those that the detector names.
    """
    found = {}
    by_column = {spec.column: spec for spec in specs}
    for index, spec in enumerate(specs):
        if spec.calibration is not None:
            field = f"field score.detectors.{index}"
            learned = read_learned_weights(spec.calibration, f"{field}.calibration")
            _check_columns(spec, learned, by_column, field)
            found[spec.column] = learned
    return found


def cautions(found: Mapping[str, LearnedWeights]) -> list[str]:
    """One line for each calibration that was found not usable and is used nonetheless."""
    return [
        f"{column}: the calibration {learned.path} is not usable: {learned.reason}"
        for column, learned in found.items()
        if not learned.usable
    ]


def _check_columns(
    spec: DetectorSpec, learned: LearnedWeights, by_column: Mapping[str, DetectorSpec], field: str
) -> None:
    named = spec.of or []
    for place, column in enumerate(named):
        if column not in learned.weights:
            raise SpecError(
                f"{field}.of.{place}: the calibration {learned.path} has no weight for '{column}'; "
                f"{suggestion(column, list(learned.weights))}"
            )
        if by_column[column].name != learned.detectors[column]:
            raise SpecError(
                f"{field}.of.{place}: '{column}' is {by_column[column].name} here and {learned.detectors[column]} in "
                f"the calibration {learned.path}; give it another `label`, or name another calibration"
            )
    missing = [column for column, weight in learned.weights.items() if weight and column not in named]
    if missing:
        raise SpecError(
            f"{field}.of: the calibration {learned.path} weighs '{missing[0]}' as well; add it to `of` and score it "
            "before this one, or name another calibration"
        )


def _problem(value: dict[str, Any]) -> str:
    weights, detectors = value.get("weights"), value.get("detectors")
    if not (isinstance(weights, dict) and all(_is_weight(weight) for weight in weights.values())):
        return "its `weights` are not numbers of 0 or more by column"
    if not (isinstance(detectors, dict) and detectors.keys() == weights.keys()):
        return "its `detectors` are not those of its `weights`"
    if not (isinstance(value.get("usable"), bool) and isinstance(value.get("reason"), str)):
        return "it does not say whether it is usable"
    return ""


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
