"""Anchor gradients, kept as the token rows they are made of (factored), or as one dense mean a set (direction).

Factored, the dot product of sample i with anchor sample j needs no gradient of either:
    <g_i, g_j> = sum_{t in i} sum_{s in j} (a_t . a_s)(b_t . b_s)
and one product over all anchor rows S gives the whole row of dots, so that every single anchor, subset, weighting and
leave-one-out is free afterwards. A tied head and embedding add the two cross terms between them.

Shapes: B samples, T positions, L supervised positions, S anchor rows, M anchor samples, I and O in and out features,
D hidden, V vocabulary.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bds.scoring.gradients.products import accumulator, product
from bds.scoring.gradients.queries import Asked


@dataclass
class Rows:
    """Rows of all anchor samples under one parameter; `owner_S` is the anchor sample of each row."""

    left: Tensor
    """Inputs [S, I], or token ids [S] under an embedding."""
    grad_SO: Tensor
    owner_S: Tensor


@dataclass
class AnchorRows:
    """The factored gradients of M anchor samples."""

    count: int
    linear: dict[str, Rows] = field(default_factory=dict)
    embedding: dict[str, Rows] = field(default_factory=dict)
    head: dict[str, Rows] = field(default_factory=dict)
    vector: dict[str, Tensor] = field(default_factory=dict)
    """Gradients [M, D] of biases and norms."""

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "AnchorRows":
        """Rows in the model's `dtype`; vectors stay in the accumulator's."""

        def moved(table: dict[str, Rows]) -> dict[str, Rows]:
            return {
                name: Rows(
                    rows.left.to(device) if rows.left.dtype == torch.long else rows.left.to(device, dtype),
                    rows.grad_SO.to(device, dtype),
                    rows.owner_S.to(device),
                )
                for name, rows in table.items()
            }

        vector = {name: grad.to(device, accumulator(dtype)) for name, grad in self.vector.items()}
        return AnchorRows(self.count, moved(self.linear), moved(self.embedding), moved(self.head), vector)

    def to_tensors(self) -> dict[str, Tensor]:
        """A flat mapping for a safetensors file; `from_tensors` reads it back."""
        tensors: dict[str, Tensor] = {"count": torch.tensor(self.count)}
        for kind in ("linear", "embedding", "head"):
            for name, rows in getattr(self, kind).items():
                tensors[f"{kind}|{name}|left"] = rows.left.contiguous()
                tensors[f"{kind}|{name}|grad"] = rows.grad_SO.contiguous()
                tensors[f"{kind}|{name}|owner"] = rows.owner_S.contiguous()
        for name, grad in self.vector.items():
            tensors[f"vector|{name}"] = grad.contiguous()
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "AnchorRows":
        rows = cls(int(tensors["count"]))
        for key, tensor in tensors.items():
            kind, _, rest = key.partition("|")
            if kind == "vector":
                rows.vector[rest] = tensor
            elif rest.endswith("|left"):
                name = rest.removesuffix("|left")
                getattr(rows, kind)[name] = Rows(
                    tensor, tensors[f"{kind}|{name}|grad"], tensors[f"{kind}|{name}|owner"]
                )
        return rows


class AnchorRecorder:
    """A query of no columns that keeps the anchors' rows. One object serves all batches of anchors, in order."""

    columns = 0
    asked = Asked.ANCHOR_ROWS

    def __init__(self) -> None:
        self._first = 0
        self._head_start = 0
        self._parts: dict[str, dict[str, list[tuple[Tensor, Tensor, Tensor]]]] = {
            "linear": defaultdict(list),
            "embedding": defaultdict(list),
            "head": defaultdict(list),
        }
        self._vector: dict[str, list[Tensor]] = defaultdict(list)

    @property
    def samples(self) -> int:
        """Anchor samples recorded so far."""
        return self._first

    def batch_done(self, samples: int) -> None:
        self._first += samples
        self._head_start = 0

    def _keep(self, kind: str, parameter: str, left: Tensor, grad_BTO: Tensor, first: int) -> Tensor:
        kept_BT = grad_BTO.abs().amax(-1) > 0
        owner_BT = torch.arange(len(left), device=left.device)[:, None].expand_as(kept_BT) + first
        self._parts[kind][parameter].append((left[kept_BT], grad_BTO[kept_BT], owner_BT[kept_BT]))
        return grad_BTO.new_zeros(len(left), 0)

    def linear(self, parameter: str, input_BTI: Tensor, grad_BTO: Tensor, transposed: bool) -> Tensor:
        return self._keep("linear", parameter, input_BTI, grad_BTO, self._first)

    def vector(self, parameter: str, grad_BD: Tensor) -> Tensor:
        self._vector[parameter].append(grad_BD)
        return grad_BD.new_zeros(len(grad_BD), 0)

    def embedding(self, parameter: str, ids_BT: Tensor, grad_BTD: Tensor) -> Tensor:
        return self._keep("embedding", parameter, ids_BT, grad_BTD, self._first)

    def head(self, parameter: str, hidden_BLD: Tensor, grad_BLV: Tensor, ids_BT: Tensor) -> Tensor:
        empty = self._keep("head", parameter, hidden_BLD, grad_BLV, self._first + self._head_start)
        self._head_start += len(hidden_BLD)
        return empty

    def rows(self) -> AnchorRows:
        def joined(kind: str) -> dict[str, Rows]:
            return {
                name: Rows(*(torch.cat(parts) for parts in zip(*recorded, strict=True)))
                for name, recorded in self._parts[kind].items()
            }

        vector = {name: torch.cat(grads) for name, grads in self._vector.items()}
        return AnchorRows(self._first, joined("linear"), joined("embedding"), joined("head"), vector)


class AnchorDots:
    """<g_i, g_j> for every anchor sample j, one column an anchor."""

    asked = Asked.NORMS_AND_DOTS

    def __init__(self, anchors: AnchorRows) -> None:
        self._anchors = anchors
        self.columns = anchors.count

    def _sum_by_owner(self, products_BS: Tensor, owner_S: Tensor) -> Tensor:
        return products_BS.new_zeros(len(products_BS), self.columns).index_add_(1, owner_S, products_BS)

    def _pairs(self, left_BTI: Tensor, grad_BTO: Tensor, rows: Rows) -> Tensor:
        samples, positions = left_BTI.shape[:2]
        inner = product(left_BTI.reshape(samples * positions, -1), rows.left.T)
        outer = product(grad_BTO.reshape(samples * positions, -1), rows.grad_SO.T)
        return self._sum_by_owner((inner * outer).view(samples, positions, -1).sum(1), rows.owner_S)

    def _none(self, like: Tensor) -> Tensor:
        return torch.zeros(len(like), self.columns, dtype=accumulator(like.dtype), device=like.device)

    def linear(self, parameter: str, input_BTI: Tensor, grad_BTO: Tensor, transposed: bool) -> Tensor:
        rows = self._anchors.linear.get(parameter)  # no anchor token may have reached this expert
        return self._none(input_BTI) if rows is None else self._pairs(input_BTI, grad_BTO, rows)

    def vector(self, parameter: str, grad_BD: Tensor) -> Tensor:
        return grad_BD @ self._anchors.vector[parameter].T

    def embedding(self, parameter: str, ids_BT: Tensor, grad_BTD: Tensor) -> Tensor:
        rows = self._anchors.embedding[parameter]
        samples, positions = ids_BT.shape
        inner = product(grad_BTD.reshape(samples * positions, -1), rows.grad_SO.T.to(grad_BTD.dtype))
        same_BTS = ids_BT[:, :, None] == rows.left
        dots = self._sum_by_owner((inner.view(samples, positions, -1) * same_BTS).sum(1), rows.owner_S)
        if parameter in self._anchors.head:  # tied
            head = self._anchors.head[parameter]
            inner_BTS = product(grad_BTD.reshape(samples * positions, -1), head.left.T.to(grad_BTD.dtype))
            at_ids_BTS = head.grad_SO.to(grad_BTD.dtype)[:, ids_BT].permute(1, 2, 0)
            dots = dots + self._sum_by_owner((inner_BTS.view(samples, positions, -1) * at_ids_BTS).sum(1), head.owner_S)
        return dots

    def head(self, parameter: str, hidden_BLD: Tensor, grad_BLV: Tensor, ids_BT: Tensor) -> Tensor:
        dots = self._pairs(hidden_BLD, grad_BLV, self._anchors.head[parameter])
        if parameter in self._anchors.embedding:  # tied
            rows = self._anchors.embedding[parameter]
            samples, positions = hidden_BLD.shape[:2]
            kind = accumulator(hidden_BLD.dtype)
            inner_BLS = product(hidden_BLD.reshape(samples * positions, -1).to(kind), rows.grad_SO.T.to(kind))
            at_ids_BLS = grad_BLV[:, :, rows.left].to(kind)
            dots = dots + self._sum_by_owner((inner_BLS.view(samples, positions, -1) * at_ids_BLS).sum(1), rows.owner_S)
        return dots
