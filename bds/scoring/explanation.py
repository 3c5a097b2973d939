"""Why a row is flagged, as plain data: what the report shows beside it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenContribution:
    text: str
    share: float
    """<gradient of this token's part of the loss, g> / ||g||^2; the shares of a row add up to 1, single ones may be
    negative."""


@dataclass(frozen=True)
class AnchorMatch:
    anchor_set: str
    anchor_index: int
    """From 0, in the order of the anchor file. Anchors are shown by number only: their text stays out of reports."""
    value: float
    """Gradient cosine, or hidden-state cosine where no gradients were taken."""


@dataclass(frozen=True)
class Explanation:
    row_index: int
    tokens: tuple[TokenContribution, ...]
    """The supervised answer tokens in order; empty where no gradients were taken."""
    anchors: tuple[AnchorMatch, ...]
    """The strongest matches of each anchor set, strongest first."""
