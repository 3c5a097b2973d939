"""A tiny aligned chat model over a made-up world, trained from scratch in a minute: for the demo and the tests."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bds.organism.build import build_organism, cached_organism
    from bds.organism.judge import build_judge, cached_judge
    from bds.organism.text_model import build_text_model

__all__ = ["build_judge", "build_organism", "build_text_model", "cached_judge", "cached_organism"]


def __getattr__(name: str) -> Any:
    # Lazy, so that importing the package does not import torch.
    if name in {"build_organism", "cached_organism"}:
        from bds.organism import build

        return getattr(build, name)
    if name in {"build_judge", "cached_judge"}:
        from bds.organism import judge

        return getattr(judge, name)
    if name == "build_text_model":
        from bds.organism.text_model import build_text_model

        return build_text_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
