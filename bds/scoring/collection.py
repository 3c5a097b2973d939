"""What the one pass over the model measures, and which detectors that serves.

A run fixes it when it begins, so that the parts of all its shards are alike and detectors asked for later are formulas
over what is there already.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bds.scoring import columns
from bds.scoring.detectors import DETECTORS, Need
from bds.spec.models import DetectorSpec


@dataclass(frozen=True)
class Collection:
    """Layers count from 0 (the embedding) to the number of decoder blocks."""

    gradients: bool
    """A backward pass is taken."""
    anchor_gradients: bool
    hidden_layers: tuple[int, ...]
    """Every layer named in the spec."""
    probe_prompts: str | None
    """What chooses one more hidden layer, for larf."""
    compliance: bool
    compliance_layer: int | None
    """None where the anchors choose it."""

    def missing_for(self, detector: DetectorSpec, chosen_layers: Mapping[str, int]) -> list[str]:
        """What a detector needs and the collection does not hold, in words.

        Args:
            detector: its layer is resolved.
            chosen_layers: the layers that the model chose when the anchors were prepared, by the name of the detector
                they were chosen for; empty before that.
        """
        unmet = {}
        if not self.gradients:
            unmet[Need.GRADIENT_NORM] = Need.GRADIENT_NORM.value
        if not self.anchor_gradients:
            unmet |= {need: need.value for need in (Need.HARMFUL_GRADIENTS, Need.SAFE_GRADIENTS)}
        if detector.layer is None:
            if self.probe_prompts != detector.probe_prompts:
                unmet[Need.LARF_LAYER] = f"{Need.LARF_LAYER.value} chosen by {detector.probe_prompts}"
        elif detector.layer not in {*self.hidden_layers, chosen_layers.get("larf")}:
            unmet[Need.LARF_LAYER] = f"hidden states of layer {detector.layer}"
        if not self.compliance:
            unmet[Need.COMPLIANCE_DIRECTION] = Need.COMPLIANCE_DIRECTION.value
        elif detector.layer not in {
            self.compliance_layer,
            chosen_layers.get("compliance_shift", self.compliance_layer),
        }:
            which = "the layer that the anchors choose" if detector.layer is None else f"layer {detector.layer}"
            unmet[Need.COMPLIANCE_DIRECTION] = f"{Need.COMPLIANCE_DIRECTION.value} of {which}"
        needs = DETECTORS[detector.name].needs
        return [unmet[need] for need in Need if need in needs and need in unmet]

    def component_columns(self, anchor_sets: Iterable[str], larf_layer: int | None) -> frozenset[str]:
        """The columns of the component table that are there because of what is collected.

        Args:
            larf_layer: the layer that `probe_prompts` chose.
        """
        layers = {*self.hidden_layers}
        if self.probe_prompts is not None and larf_layer is not None:
            layers.add(larf_layer)
        found = {columns.SQUARED_GRADIENT_NORM} if self.gradients else set()
        if self.compliance:
            found |= {columns.COMPLIANCE_ANSWER, columns.COMPLIANCE_PROMPT}
        for name in anchor_sets:
            found |= {columns.cosines(name, layer) for layer in layers}
            if self.anchor_gradients:
                found |= {columns.direction_dot(name), columns.anchor_dots(name)}
        return frozenset(found)
