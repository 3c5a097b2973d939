"""What a spec asks of detectors and selections, checked against what there is, before any model loads."""

import math
import re
from collections.abc import Mapping, Sequence

from bds.errors import SpecError
from bds.scoring.detectors import DETECTORS, HARMFUL_NEEDS, SAFE_NEEDS, Need
from bds.scoring.selection import MATCHED_KINDS, RANKED_KINDS, selection_name
from bds.spec.fields import suggestion
from bds.spec.models import DetectorSpec, SelectionSpec

FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_detectors(
    specs: Sequence[DetectorSpec], roles: Mapping[str, str], anchor_counts: Mapping[str, int] | None = None
) -> None:
    """Refuse detectors that cannot run.

    Args:
        specs: The detectors asked for.
        roles: "harmful" or "safe" for every anchor set.
        anchor_counts: Anchors in every set, once the files are read; without it `top_n` is not checked.

    Raises:
        SpecError: an unknown detector, an option that the detector does not take, missing anchors, an unknown set in
            `weights`, larf with no way to its layer or two, two compliance directions, two detectors of one column,
            a detector made of others that do not stand before it, weights without their file, or `top_n` above the
            harmful anchors.
    """
    first_of: dict[str, int] = {}
    compliance_layers: set[int | None] = set()
    larf_prompts: set[str] = set()
    for index, spec in enumerate(specs):
        field = f"field score.detectors.{index}"
        if spec.name not in DETECTORS:
            raise SpecError(
                f"{field}.name: '{spec.name}' is not a detector; {suggestion(spec.name, list(DETECTORS))}"
                " (`bds ls detectors` describes them)"
            )
        _check_options(spec, field)
        _check_anchors(spec, field, roles)
        if Need.OTHER_RANKS in DETECTORS[spec.name].needs:
            _check_combined(spec, field, list(first_of))
        if Need.LEARNED_WEIGHTS in DETECTORS[spec.name].needs and spec.calibration is None:
            raise SpecError(
                f"{field}: {spec.name} needs its weights; add `calibration:` with a file that a study wrote"
            )
        if spec.name == "larf" and (spec.layer is None) == (spec.probe_prompts is None):
            wrong = "needs its layer" if spec.layer is None else "has both a layer and a way to choose one"
            raise SpecError(
                f"{field}: larf {wrong}; set either `layer: N` or `probe_prompts: FILE` (over-refusal prompts)"
            )
        if spec.probe_prompts is not None:
            larf_prompts.add(spec.probe_prompts)
            if len(larf_prompts) > 1:
                raise SpecError(
                    f"{field}.probe_prompts: one run chooses one layer for larf; set `layer: N` here instead"
                )
        if spec.top_n is not None and anchor_counts is not None:
            harmful = sum(count for name, count in anchor_counts.items() if roles[name] == "harmful")
            if spec.top_n > harmful:
                raise SpecError(
                    f"{field}.top_n: {spec.top_n} is more than the {harmful} harmful anchors; lower it or add anchors"
                )
        if spec.name == "compliance_shift":
            compliance_layers.add(spec.layer)
            if len(compliance_layers) > 1:
                raise SpecError(
                    f"{field}.layer: one run has one compliance direction; give every compliance_shift the same layer"
                )
        if spec.column in first_of:
            raise SpecError(
                f"{field}: column '{spec.column}' is taken by score.detectors.{first_of[spec.column]};"
                " give one of them another `label`"
            )
        first_of[spec.column] = index


def _check_options(spec: DetectorSpec, field: str) -> None:
    taken = DETECTORS[spec.name].options
    for option in DetectorSpec.model_fields.keys() - {"name", "label"} - taken:
        if getattr(spec, option) is not None:
            takes = f"it takes {', '.join(sorted(taken))}" if taken else "it takes none"
            raise SpecError(f"{field}.{option}: {spec.name} has no option {option} ({takes}); remove it")


def _check_anchors(spec: DetectorSpec, field: str, roles: Mapping[str, str]) -> None:
    if spec.weights is not None:
        _check_weights(spec.weights, field, roles)
        return
    needs = DETECTORS[spec.name].needs
    needed = [role for role, served in (("harmful", HARMFUL_NEEDS), ("safe", SAFE_NEEDS)) if needs & served]
    missing = [role for role in needed if role not in roles.values()]
    if missing:
        needs_words = " and a ".join(needed)
        add = " and ".join(f"anchors.sets.{role}" for role in missing)
        raise SpecError(f"{field}: {spec.name} needs a {needs_words} anchor set; add {add}, or leave this detector out")


def _check_combined(spec: DetectorSpec, field: str, before: Sequence[str]) -> None:
    combined = spec.of or []
    if not combined:
        does = "averages" if spec.name == "rank_average" else "weighs"
        raise SpecError(f"{field}: {spec.name} needs the detectors that it {does}; add `of:` with two or more columns")
    for index, column in enumerate(combined):
        if column not in before:
            known = suggestion(column, before) if before else "name it there"
            raise SpecError(
                f"{field}.of.{index}: no detector before this one has the column '{column}'; {known}, or put it first"
            )
        if column in combined[:index]:
            raise SpecError(f"{field}.of.{index}: '{column}' is named twice; remove one")


def _check_weights(weights: Mapping[str, float], field: str, roles: Mapping[str, str]) -> None:
    for name, weight in weights.items():
        if name not in roles:
            known = suggestion(name, list(roles)) if roles else "add it under anchors.sets"
            raise SpecError(f"{field}.weights: there is no anchor set '{name}'; {known}")
        if not math.isfinite(weight):
            raise SpecError(f"{field}.weights.{name}: {weight} is not a finite number; write one such as 1 or -1")
    if not any(weights.values()):
        raise SpecError(
            f"{field}.weights: every weight is 0, so every score would be; give at least one set another weight"
        )


def resolve_layers(specs: Sequence[DetectorSpec], decoder_blocks: int) -> list[DetectorSpec]:
    """The same detectors with every `layer` counted from 0 (the embedding) to `decoder_blocks`; -1 is the last.

    Raises:
        SpecError: a layer that the model does not have.
    """
    return [
        spec
        if spec.layer is None
        else spec.model_copy(
            update={"layer": resolve_layer(spec.layer, decoder_blocks, f"score.detectors.{index}.layer")}
        )
        for index, spec in enumerate(specs)
    ]


def resolve_layer(layer: int, decoder_blocks: int, field: str) -> int:
    """One layer counted from 0 (the embedding) to `decoder_blocks`; -1 is the last.

    Raises:
        SpecError: the model has no such layer; the sentence names `field`.
    """
    if not -decoder_blocks - 1 <= layer <= decoder_blocks:
        raise SpecError(
            f"field {field}: the model has no layer {layer};"
            f" write 0 (the embedding) to {decoder_blocks} (the last), or -1 for the last"
        )
    return layer if layer >= 0 else layer + decoder_blocks + 1


def check_selections(specs: Sequence[SelectionSpec], detectors: Sequence[DetectorSpec]) -> None:
    """Refuse selections that cannot be made.

    Raises:
        SpecError: a kind without the detector it needs or with one it ignores, a detector that is not scored, an option
            that the kind does not take, a name that is no file name, or two selections of one name.
    """
    known = [detector.column for detector in detectors]
    first_of: dict[str, int] = {}
    for index, spec in enumerate(specs):
        field = f"field select.{index}"
        needs_detector = spec.kind in RANKED_KINDS | MATCHED_KINDS
        if needs_detector and spec.detector is None:
            raise SpecError(f"{field}: {spec.kind} needs a detector; add `detector:` with one of {', '.join(known)}")
        if not needs_detector and spec.detector is not None:
            raise SpecError(f"{field}.detector: {spec.kind} draws without looking at scores; remove the detector")
        if spec.detector is not None and spec.detector not in known:
            raise SpecError(
                f"{field}.detector: '{spec.detector}' is not scored in this run; {suggestion(spec.detector, known)}"
                ", or add it under score.detectors"
            )
        if spec.drop_short_answers and spec.kind == "filtered":
            raise SpecError(
                f"{field}.drop_short_answers: filtered keeps what is not flagged, short or not; remove the option"
            )
        name = selection_name(spec)
        if not FILE_NAME.fullmatch(name):
            raise SpecError(
                f"{field}.name: '{name}' cannot name a file; use letters, digits, dots, dashes and underscores"
            )
        if name in first_of:
            raise SpecError(
                f"{field}: '{name}' is also the name of select.{first_of[name]}; give one of them another `name`"
            )
        first_of[name] = index
