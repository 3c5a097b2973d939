"""What is asked of every module's gradient contribution. A query turns contributions into [B, C] columns, summed over
modules.

A contribution is never a gradient. It is, for each sample,
    linear      rows in a_t and gradients out b_t, with gradient sum_t b_t a_t^T  (its transpose for a transposed
    weight) vector      the gradient itself, of a bias or a norm's weight
    embedding   token ids and gradients out, with gradient row v = sum of b_t over the positions t where id_t = v
    head        a linear contribution of the output head, over the supervised positions only

Shapes: B samples, T positions, L supervised positions, I and O in and out features, D hidden, V vocabulary, C columns,
K directions. Published forms: Goodfellow 2015 (arXiv 1510.01799) for the squared norm of a linear layer as a sum over
two Gram matrices, Wang et al. 2024 (arXiv 2406.11011, section 4) for dot products of two samples in the same form.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Protocol

import torch
from torch import Tensor

from bds.scoring.gradients.products import (
    accumulator,
    batched_product,
    gram,
    product,
    squared_norm_direct,
    squared_norm_is_cheaper_by_gram,
)


class Asked(Enum):
    """What one pass asks of the processes that hold other blocks of the model; each answers for its own parameters."""

    NOTHING = "hidden states; no backward pass follows"
    PASSAGE = "nothing but the gradient of what came in"
    SQUARED_NORMS = "squared norms"
    EACH_SQUARED_NORM = "the squared norm of each parameter, kept for the self-check"
    NORMS_AND_DOTS = "squared norms, and dots with what the process holds of the reference"
    ANCHOR_ROWS = "the rows of anchors, kept"
    GRADIENT_SUM = "gradients by autograd, added to the sum that the process holds"
    SELF_CHECK = "gradients by autograd, compared with the squared norms kept"


class Query(Protocol):
    """Columns asked of each contribution. One object serves one batch."""

    columns: int
    asked: Asked
    """The same of other processes: a query holds this process's tensors, so it cannot be sent itself."""

    def linear(self, parameter: str, input_BTI: Tensor, grad_BTO: Tensor, transposed: bool) -> Tensor: ...

    def vector(self, parameter: str, grad_BD: Tensor) -> Tensor: ...

    def embedding(self, parameter: str, ids_BT: Tensor, grad_BTD: Tensor) -> Tensor: ...

    def head(self, parameter: str, hidden_BLD: Tensor, grad_BLV: Tensor, ids_BT: Tensor) -> Tensor: ...


class SquaredNorms:
    """||g_i||^2, one column.

    linear     sum_{t,s} (a_t . a_s)(b_t . b_s), or || sum_t b_t a_t^T ||^2 where that is cheaper
    embedding  sum over distinct ids v of || sum_{t: id_t = v} b_t ||^2
    tied head  the same parameter gets g_embedding + g_head, whose square has the cross term
               2 <g_embedding, g_head> = 2 sum_{t,s} B_s[id_t] (h_s . b_t) with B the gradients of the logits
    """

    asked = Asked.SQUARED_NORMS
    columns = 1

    def __init__(self, *, tied: str | None) -> None:
        """`tied` names the parameter that is both input embedding and output head, if one is."""
        self._tied = tied
        self._head_chunks: list[tuple[Tensor, Tensor]] = []
        self._shared_input: Tensor | None = None
        self._shared_gram: Tensor | None = None

    def linear(self, parameter: str, input_BTI: Tensor, grad_BTO: Tensor, transposed: bool) -> Tensor:
        rows, inputs, outputs = input_BTI.shape[1], input_BTI.shape[2], grad_BTO.shape[2]
        if squared_norm_is_cheaper_by_gram(rows, inputs, outputs):
            return (self._input_gram(input_BTI) * gram(grad_BTO)).sum((1, 2))[:, None]
        return squared_norm_direct(input_BTI, grad_BTO)[:, None]

    def _input_gram(self, input_BTI: Tensor) -> Tensor:
        """Modules that read the same tensor (query, key and value; gate and up) share its Gram matrix."""
        last = self._shared_input
        if (
            last is None
            or self._shared_gram is None
            or last.data_ptr() != input_BTI.data_ptr()
            or last.shape != input_BTI.shape
            or last.stride() != input_BTI.stride()
        ):
            self._shared_input, self._shared_gram = input_BTI, gram(input_BTI)
        assert self._shared_gram is not None
        return self._shared_gram

    def vector(self, parameter: str, grad_BD: Tensor) -> Tensor:
        return grad_BD.square().sum(1, keepdim=True)

    def embedding(self, parameter: str, ids_BT: Tensor, grad_BTD: Tensor) -> Tensor:
        samples, _, width = grad_BTD.shape
        vocabulary = int(ids_BT.max()) + 1
        owner_BT = torch.arange(samples, device=ids_BT.device)[:, None].expand_as(ids_BT)
        keys, row_of_position = torch.unique(owner_BT * vocabulary + ids_BT, return_inverse=True)
        rows = grad_BTD.new_zeros(len(keys), width).index_add_(
            0, row_of_position.reshape(-1), grad_BTD.reshape(-1, width)
        )
        norm_B = grad_BTD.new_zeros(samples).index_add_(0, keys // vocabulary, rows.square().sum(1))
        if parameter == self._tied and self._head_chunks:
            norm_B = norm_B + 2 * self._tied_cross_term(grad_BTD)
        return norm_B[:, None]

    def _tied_cross_term(self, grad_BTD: Tensor) -> Tensor:
        parts, start = [], 0
        for hidden_BLD, grad_at_ids_BLT in self._head_chunks:
            stop = start + len(hidden_BLD)
            parts.append((torch.bmm(hidden_BLD, grad_BTD[start:stop].mT) * grad_at_ids_BLT).sum((1, 2)))
            start = stop
        return torch.cat(parts)

    def head(self, parameter: str, hidden_BLD: Tensor, grad_BLV: Tensor, ids_BT: Tensor) -> Tensor:
        self.remember_tied_head(parameter, hidden_BLD, grad_BLV, ids_BT)
        return self.linear(parameter, hidden_BLD, grad_BLV, transposed=False)

    def remember_tied_head(self, parameter: str, hidden_BLD: Tensor, grad_BLV: Tensor, ids_BT: Tensor) -> None:
        """Keeps what the cross term needs; the embedding's contribution arrives after the head's."""
        if parameter == self._tied:
            columns_BLT = ids_BT[:, None, :].expand(-1, grad_BLV.shape[1], -1)
            kind = accumulator(hidden_BLD.dtype)
            self._head_chunks.append((hidden_BLD.to(kind), grad_BLV.gather(2, columns_BLT).to(kind)))


class DirectionDots:
    """<g_i, G_k> for dense directions G_k, one column a direction.

    linear     <sum_t b_t a_t^T, G> = sum_t b_t . (G a_t): one product and a row-wise dot
    embedding  sum_t b_t . G[id_t]

    `directions` holds [K, ...] for each parameter in scope, `with_expert_views`.
    """

    asked = Asked.NORMS_AND_DOTS

    def __init__(self, directions: Mapping[str, Tensor]) -> None:
        self._directions = directions
        self.columns = len(next(iter(directions.values())))

    def linear(self, parameter: str, input_BTI: Tensor, grad_BTO: Tensor, transposed: bool) -> Tensor:
        kind = accumulator(input_BTI.dtype)
        grad_BTO = grad_BTO.to(kind)
        columns = []
        for weight in self._directions[parameter]:
            mapped = product(input_BTI.reshape(-1, input_BTI.shape[2]), weight if transposed else weight.T)
            columns.append((mapped.view_as(grad_BTO) * grad_BTO).sum((1, 2)))
        return torch.stack(columns, 1)

    def vector(self, parameter: str, grad_BD: Tensor) -> Tensor:
        return grad_BD @ self._directions[parameter].to(grad_BD.dtype).T

    def embedding(self, parameter: str, ids_BT: Tensor, grad_BTD: Tensor) -> Tensor:
        return torch.stack(
            [
                (torch.nn.functional.embedding(ids_BT, weight).to(grad_BTD.dtype) * grad_BTD).sum((1, 2))
                for weight in self._directions[parameter]
            ],
            1,
        )

    def head(self, parameter: str, hidden_BLD: Tensor, grad_BLV: Tensor, ids_BT: Tensor) -> Tensor:
        return self.linear(parameter, hidden_BLD, grad_BLV, transposed=False)


def with_expert_views(directions: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Adds `name#e` for every expert e of a fused expert weight, which is [K, E, ., .] here: contributions come so."""
    fused = {name: tensor for name, tensor in directions.items() if tensor.ndim == 4}
    views = {f"{name}#{e}": tensor[:, e] for name, tensor in fused.items() for e in range(tensor.shape[1])}
    return {**directions, **views}


GRADIENT_NUMBERS_AT_ONCE = 1 << 26
"""Numbers of the gradients formed together: 256 MiB of float32."""


class NormsAndDirectionDots:
    """||g_i||^2 and <g_i, G_k>, 1 + K columns: `SquaredNorms` and `DirectionDots` together, by the cheaper of two ways.

    Apart they cost T^2 (I + O) + K T I O multiplications a linear module. Forming each sample's gradient of this one
    module for a moment costs T I O + (1 + K) I O, which is less as soon as there are two directions.
    """

    asked = Asked.NORMS_AND_DOTS

    def __init__(self, directions: Mapping[str, Tensor], *, tied: str | None) -> None:
        self._directions = directions
        self._norms = SquaredNorms(tied=tied)
        self._dots = DirectionDots(directions)
        self._apart = Together([self._norms, self._dots])
        self.columns = self._apart.columns

    def linear(self, parameter: str, input_BTI: Tensor, grad_BTO: Tensor, transposed: bool) -> Tensor:
        if not self._gradient_is_cheaper(input_BTI, grad_BTO):
            return self._apart.linear(parameter, input_BTI, grad_BTO, transposed)
        left, right = (input_BTI, grad_BTO) if transposed else (grad_BTO, input_BTI)
        kind = accumulator(input_BTI.dtype)
        weights_KP = self._directions[parameter].flatten(1).to(kind)
        chunk = max(1, GRADIENT_NUMBERS_AT_ONCE // (left.shape[2] * right.shape[2]))
        parts = []
        for start in range(0, len(left), chunk):
            gradient_BP = batched_product(left[start : start + chunk].mT, right[start : start + chunk]).flatten(1)
            dots_BK = gradient_BP @ weights_KP.T
            # In place: a second buffer of the gradient's size would cost more than the sum.
            parts.append(torch.cat([gradient_BP.mul_(gradient_BP).sum(1, keepdim=True), dots_BK], 1))
        return torch.cat(parts)

    def _gradient_is_cheaper(self, input_BTI: Tensor, grad_BTO: Tensor) -> bool:
        rows, inputs, outputs = input_BTI.shape[1], input_BTI.shape[2], grad_BTO.shape[2]
        directions = self._dots.columns
        apart = rows * min(rows * (inputs + outputs), inputs * outputs) + directions * rows * inputs * outputs
        return (rows + directions + 1) * inputs * outputs < apart

    def vector(self, parameter: str, grad_BD: Tensor) -> Tensor:
        return self._apart.vector(parameter, grad_BD)

    def embedding(self, parameter: str, ids_BT: Tensor, grad_BTD: Tensor) -> Tensor:
        return self._apart.embedding(parameter, ids_BT, grad_BTD)

    def head(self, parameter: str, hidden_BLD: Tensor, grad_BLV: Tensor, ids_BT: Tensor) -> Tensor:
        self._norms.remember_tied_head(parameter, hidden_BLD, grad_BLV, ids_BT)
        return self.linear(parameter, hidden_BLD, grad_BLV, transposed=False)


class Together:
    """Several queries over one backward pass; their columns stand side by side."""

    asked = Asked.NORMS_AND_DOTS

    def __init__(self, queries: Sequence[Query]) -> None:
        self._queries = queries
        self.columns = sum(query.columns for query in queries)

    def linear(self, parameter: str, input_BTI: Tensor, grad_BTO: Tensor, transposed: bool) -> Tensor:
        return torch.cat([query.linear(parameter, input_BTI, grad_BTO, transposed) for query in self._queries], 1)

    def vector(self, parameter: str, grad_BD: Tensor) -> Tensor:
        return torch.cat([query.vector(parameter, grad_BD) for query in self._queries], 1)

    def embedding(self, parameter: str, ids_BT: Tensor, grad_BTD: Tensor) -> Tensor:
        return torch.cat([query.embedding(parameter, ids_BT, grad_BTD) for query in self._queries], 1)

    def head(self, parameter: str, hidden_BLD: Tensor, grad_BLV: Tensor, ids_BT: Tensor) -> Tensor:
        return torch.cat([query.head(parameter, hidden_BLD, grad_BLV, ids_BT) for query in self._queries], 1)


class ByParameter:
    """Another one-column query, kept apart for each parameter: column `order[name]`. The engine's self-check asks
    it."""

    asked = Asked.EACH_SQUARED_NORM

    def __init__(self, query: Query, order: Mapping[str, int]) -> None:
        assert query.columns == 1
        self._query, self.order = query, order
        self.columns = len(order)

    def _place(self, parameter: str, column_B1: Tensor) -> Tensor:
        placed = column_B1.new_zeros(len(column_B1), self.columns)
        placed[:, self.order[parameter.partition("#")[0]]] = column_B1[:, 0]
        return placed

    def linear(self, parameter: str, input_BTI: Tensor, grad_BTO: Tensor, transposed: bool) -> Tensor:
        return self._place(parameter, self._query.linear(parameter, input_BTI, grad_BTO, transposed))

    def vector(self, parameter: str, grad_BD: Tensor) -> Tensor:
        return self._place(parameter, self._query.vector(parameter, grad_BD))

    def embedding(self, parameter: str, ids_BT: Tensor, grad_BTD: Tensor) -> Tensor:
        return self._place(parameter, self._query.embedding(parameter, ids_BT, grad_BTD))

    def head(self, parameter: str, hidden_BLD: Tensor, grad_BLV: Tensor, ids_BT: Tensor) -> Tensor:
        return self._place(parameter, self._query.head(parameter, hidden_BLD, grad_BLV, ids_BT))
