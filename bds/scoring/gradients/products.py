"""Matrix products that accumulate and return float32 whatever they are given, and the squared norm of a product.

Shapes: B samples, T rows a sample, I and O a module's input and output features, N rows, S other rows.
"""

import torch
from torch import Tensor

_HALF = (torch.bfloat16, torch.float16)


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The type in which statistics of a model of `dtype` are summed: float64 for float64, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def batched_product(left_BNI: Tensor, right_BIS: Tensor) -> Tensor:
    """`left @ right` per sample, with float32 sums and float32 output for half-precision inputs."""
    if left_BNI.dtype not in _HALF:
        return torch.bmm(left_BNI, right_BIS)
    if left_BNI.is_cuda:
        return torch.bmm(left_BNI, right_BIS, out_dtype=torch.float32)
    return torch.bmm(left_BNI.float(), right_BIS.float())


def product(left_NI: Tensor, right_IS: Tensor) -> Tensor:
    """`left @ right`, with float32 sums and float32 output for half-precision inputs."""
    if left_NI.dtype not in _HALF:
        return left_NI @ right_IS
    if left_NI.is_cuda:
        return torch.mm(left_NI, right_IS.to(left_NI.dtype), out_dtype=torch.float32)
    return left_NI.float() @ right_IS.float()


def squared_norm_is_cheaper_by_gram(rows: int, inputs: int, outputs: int) -> bool:
    """Two [T, T] Gram matrices cost T (I + O) multiplications a row, the [O, I] gradient itself I O."""
    return rows * (inputs + outputs) <= inputs * outputs


def gram(rows_BTI: Tensor) -> Tensor:
    """Inner products of every two rows of a sample, [B, T, T]."""
    return batched_product(rows_BTI, rows_BTI.mT)


def squared_norm_direct(input_BTI: Tensor, grad_BTO: Tensor) -> Tensor:
    """||grad^T input||_F^2 per sample, by forming one [O, I] gradient a sample, [B]."""
    return batched_product(grad_BTO.mT, input_BTI).square().sum((1, 2))
