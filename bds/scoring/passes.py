"""What a spec's detectors ask of the model: which components, which layers, which reference. Decided before any model
loads."""

from collections.abc import Mapping
from dataclasses import dataclass

from bds.scoring.checks import resolve_layer, resolve_layers
from bds.scoring.collection import Collection
from bds.scoring.detectors import DETECTORS, DetectorContext, Need, default_detectors
from bds.spec.models import AuditSpec, DetectorSpec

GRADIENT_NEEDS = frozenset({Need.GRADIENT_NORM, Need.HARMFUL_GRADIENTS, Need.SAFE_GRADIENTS})


@dataclass(frozen=True)
class Passes:
    """Layers count from 0 (the embedding) to the number of decoder blocks."""

    detectors: tuple[DetectorSpec, ...]
    collection: Collection
    """The least that serves the detectors. A run begun with other detectors may have collected more."""
    representation_layer: int
    """The first of `score.layers`."""
    larf: DetectorSpec | None
    """The detector whose layer is chosen by its probe prompts."""
    compliance: DetectorSpec | None
    harmful_sets: tuple[str, ...]
    safe_sets: tuple[str, ...]

    def context(
        self, larf_layer: int | None, learned: Mapping[str, Mapping[str, float]] | None = None
    ) -> DetectorContext:
        """`learned` has the weights of each `calibrated`, by its column."""
        return DetectorContext(
            self.harmful_sets, self.safe_sets, self.representation_layer, larf_layer, learned=learned or {}
        )

    @property
    def needs_text(self) -> bool:
        return any(Need.HARMFUL_TEXT in DETECTORS[spec.name].needs for spec in self.detectors)


def requested_detectors(spec: AuditSpec) -> list[DetectorSpec]:
    """The detectors of the spec, or every one that its anchors allow with their published options."""
    if spec.score.detectors is not None:
        return spec.score.detectors
    roles = roles_of(spec)
    harmful, safe = (tuple(name for name, role in roles.items() if role == wanted) for wanted in ("harmful", "safe"))
    return default_detectors(DetectorContext(harmful, safe, representation_layer=0))


def roles_of(spec: AuditSpec) -> dict[str, str]:
    return {name: entry.role for name, entry in spec.anchors.sets.items()}


def plan_passes(spec: AuditSpec, decoder_blocks: int) -> Passes:
    """Raises SpecError where a layer is not in the model."""
    detectors = resolve_layers(requested_detectors(spec), decoder_blocks)
    kept = [
        resolve_layer(layer, decoder_blocks, f"score.layers.{index}") for index, layer in enumerate(spec.score.layers)
    ]
    larf_layers = [detector.layer for detector in detectors if detector.name == "larf" and detector.layer is not None]
    needs: frozenset[Need] = frozenset().union(*(DETECTORS[detector.name].needs for detector in detectors))
    by_role: Mapping[str, tuple[str, ...]] = {
        wanted: tuple(name for name, role in roles_of(spec).items() if role == wanted) for wanted in ("harmful", "safe")
    }
    larf = next((detector for detector in detectors if detector.probe_prompts is not None), None)
    compliance = next((detector for detector in detectors if detector.name == "compliance_shift"), None)
    return Passes(
        detectors=tuple(detectors),
        collection=Collection(
            gradients=bool(needs & GRADIENT_NEEDS),
            anchor_gradients=bool(needs & {Need.HARMFUL_GRADIENTS, Need.SAFE_GRADIENTS}),
            hidden_layers=tuple(dict.fromkeys([*kept, *larf_layers])),
            probe_prompts=None if larf is None else larf.probe_prompts,
            compliance=compliance is not None,
            compliance_layer=None if compliance is None else compliance.layer,
        ),
        representation_layer=kept[0],
        larf=larf,
        compliance=compliance,
        harmful_sets=by_role["harmful"],
        safe_sets=by_role["safe"],
    )
