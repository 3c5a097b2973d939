"""The output head and the loss, over supervised positions only.

The gradient of the mean cross-entropy with respect to the logits is closed: (softmax - onehot) / n. So the head's
contribution and the gradient that enters the decoder are produced chunk by chunk in the forward pass, and the logits
of one chunk are the only ones that ever exist. Some models bend their logits, z = cap * tanh(scale * r / cap), which
puts a factor before them: dz/dr = scale * (1 - (z / cap)^2).

Shapes: B samples, T positions, L supervised positions of a sample at most, D hidden, V vocabulary, C columns.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from bds.scoring.gradients.products import accumulator
from bds.scoring.gradients.queries import Query

LOGITS_IN_A_CHUNK = 1 << 25
"""Numbers in one chunk of logits: 128 MiB of float32. One sample is never split."""


@dataclass(frozen=True)
class OutputHead:
    """How hidden states become logits, read off the model's configuration; the engine's self-check proves it."""

    module: nn.Linear
    weight: str
    bias: str | None
    in_scope: bool
    scale: float
    cap: float | None

    def logits(self, hidden: Tensor) -> Tensor:
        kind = accumulator(hidden.dtype)
        logits = functional.linear(hidden, self.module.weight, self.module.bias).to(kind) * self.scale
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)

    def slope(self, logits: Tensor) -> Tensor | float:
        return self.scale if self.cap is None else self.scale * (1 - (logits / self.cap).square())


def output_head(model: nn.Module, scope: frozenset[str]) -> OutputHead:
    """Reads the head, its logit scale (Cohere, Granite) and its soft cap (Gemma 2) from the model."""
    config = model.config.get_text_config()  # type: ignore[operator, union-attr]
    module = model.get_output_embeddings()  # type: ignore[operator]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    weight = names[id(module.weight)]
    bias = None if module.bias is None else names[id(module.bias)]
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    return OutputHead(module, weight, bias, weight in scope, scale, getattr(config, "final_logit_softcapping", None))


class HeadLoss(torch.autograd.Function):
    """Mean cross-entropy of each sample [B] from decoder outputs. Its probe gradient is the head's contribution [B, C].

    Call `.sum().backward()` on the result: the gradients kept from the forward pass are those of the sum.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        hidden_BTD: Tensor,
        probe_BC: Tensor,
        ids_BT: Tensor,
        supervised_BT: Tensor,
        head: OutputHead,
        query: Query | None,
    ) -> Tensor:
        kind = accumulator(hidden_BTD.dtype)
        samples = len(ids_BT)
        # Position t predicts token t + 1, so the last position predicts nothing.
        predicts_BT = functional.pad(supervised_BT[:, 1:], (0, 1))
        count_B = predicts_BT.sum(1)
        loss_B = torch.zeros(samples, dtype=kind, device=hidden_BTD.device)
        grad_hidden_BTD = torch.zeros_like(hidden_BTD) if query is not None else None
        columns_BC = torch.zeros_like(probe_BC)
        vocabulary = head.module.weight.shape[0]
        longest = max(1, int(count_B.max()))
        chunk = max(1, LOGITS_IN_A_CHUNK // (longest * vocabulary))
        for start in range(0, samples, chunk):
            part = slice(start, min(start + chunk, samples))
            length = int(count_B[part].max())
            if length == 0:
                continue
            position_BL = torch.argsort((~predicts_BT[part]).to(torch.int8), dim=1, stable=True)[:, :length]
            valid_BL = torch.arange(length, device=ids_BT.device) < count_B[part, None]
            target_BL = ids_BT[part].gather(1, (position_BL + 1).clamp_max(ids_BT.shape[1] - 1))
            index_BLD = position_BL[..., None].expand(-1, -1, hidden_BTD.shape[2])
            hidden_BLD = hidden_BTD[part].gather(1, index_BLD) * valid_BL[..., None]
            logits_BLV = head.logits(hidden_BLD)
            normaliser_BL = torch.logsumexp(logits_BLV, -1)
            token_loss_BL = (normaliser_BL - logits_BLV.gather(2, target_BL[..., None])[..., 0]) * valid_BL
            denominator_B = count_B[part].clamp_min(1).to(kind)
            loss_B[part] = token_loss_BL.sum(1) / denominator_B
            if query is None or grad_hidden_BTD is None:
                continue
            grad_BLV = torch.exp(logits_BLV - normaliser_BL[..., None])
            grad_BLV.scatter_add_(2, target_BL[..., None], -torch.ones_like(target_BL[..., None], dtype=kind))
            grad_BLV *= (valid_BL / denominator_B[:, None])[..., None]
            grad_BLV *= head.slope(logits_BLV)
            rounded_BLV = grad_BLV.to(hidden_BTD.dtype)
            grad_hidden_BTD[part].scatter_add_(1, index_BLD, rounded_BLV @ head.module.weight)
            if head.in_scope:
                columns_BC[part] += query.head(head.weight, hidden_BLD, rounded_BLV, ids_BT[part])
            if head.bias is not None and head.in_scope:
                columns_BC[part] += query.vector(head.bias, grad_BLV.sum(1))
        if grad_hidden_BTD is not None:
            ctx.save_for_backward(grad_hidden_BTD, columns_BC)
        return loss_B

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden_BTD, columns_BC = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad_hidden_BTD, columns_BC, None, None, None, None
