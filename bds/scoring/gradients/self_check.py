"""The proof at the start: squared gradient norms of single parameters, by the taps and by autograd, on one sample."""

from collections.abc import Mapping

import torch

from bds.errors import PreflightError

PARAMETERS_AT_ONCE = 64
"""Gradients by autograd that are in memory together."""


def tolerance_of(dtype: torch.dtype) -> float:
    """Half precision allows 10 %: a wrong formula is off by far more."""
    return 0.1 if dtype in (torch.bfloat16, torch.float16) else 1e-3


def expect_equal_norms(
    model: str, dtype: torch.dtype, found: Mapping[str, float], autograd: Mapping[str, float]
) -> None:
    """Compares squared norms by parameter; those of `autograd` may be some of those of `found`.

    A parameter whose gradient is zero up to rounding (a key's bias) is compared with the sum of all.

    Raises:
        PreflightError: they differ; the sentence names the parameter.
    """
    total = sum(found.values())
    for name, expected in autograd.items():
        if abs(found[name] - expected) > tolerance_of(dtype) * expected + 1e-6 * total:
            raise PreflightError(
                f"the gradient engine and autograd disagree on the parameter '{name}' of {model} (squared norm "
                f"{found[name]:.4g} against {expected:.4g}); choose score.parameters: lora or last_layers:N so that "
                "it is left out, or detectors that need no gradients"
            )
