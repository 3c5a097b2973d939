"""The gradient engine against plain autograd on a batch of one, for every architecture family it promises."""

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from bds.errors import PreflightError, SpecError
from bds.scoring.gradients.anchors import AnchorDots, AnchorRecorder, AnchorRows
from bds.scoring.gradients.engine import PerSampleGradients, make_batch
from bds.scoring.gradients.queries import DirectionDots, NormsAndDirectionDots, Together, with_expert_views
from bds.scoring.gradients.scope import parameter_scope
from tests.gradient_models import (
    CONFIGS,
    DoubleThroughout,
    autograd_gradient,
    made_up_samples,
    tiny_lora_model,
    tiny_model,
)

SAMPLES = made_up_samples([37, 5, 23, 64, 11, 48, 2, 30])
ANCHORS = made_up_samples([20, 33, 12], seed=7)
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


@dataclass
class Case:
    engine: PerSampleGradients
    dtype: torch.dtype
    samples_NP: Tensor
    anchors_MP: Tensor
    names: list[str]


def in_double(dtype: torch.dtype) -> contextlib.AbstractContextManager[object]:
    return DoubleThroughout() if dtype == torch.float64 else contextlib.nullcontext()


@pytest.fixture(
    scope="module",
    params=[(name, dtype) for name in [*CONFIGS, "lora", "last_layers"] for dtype in TOLERANCE],
    ids=lambda value: f"{value[0]}-{str(value[1])[6:]}",
)
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    name, dtype = request.param
    with in_double(dtype):
        if name == "lora":
            model, parameters = tiny_lora_model(dtype), "lora"
        elif name == "last_layers":
            model, parameters = tiny_model("llama_untied", dtype), "last_layers:1"
        else:
            model, parameters = tiny_model(name, dtype), "all"
        reference = copy.deepcopy(model)
        scope = parameter_scope(model, parameters)
        yield Case(
            PerSampleGradients(model, scope),
            dtype,
            torch.stack([autograd_gradient(reference, sample, scope) for sample in SAMPLES]),
            torch.stack([autograd_gradient(reference, sample, scope) for sample in ANCHORS]),
            sorted(scope),
        )


def recorded_anchors(engine: PerSampleGradients) -> AnchorRows:
    recorder = AnchorRecorder()
    for part in (ANCHORS[:2], ANCHORS[2:]):
        engine.run(make_batch(part, "cpu"), recorder)
        recorder.batch_done(len(part))
    return recorder.rows()


def as_directions(engine: PerSampleGradients, flat_KP: Tensor, names: list[str]) -> dict[str, Tensor]:
    shapes = dict(engine.model.named_parameters())
    directions, start = {}, 0
    for name in names:
        size = shapes[name].numel()
        directions[name] = flat_KP[:, start : start + size].reshape(-1, *shapes[name].shape).to(engine.dtype)
        start += size
    return directions


def test_squared_norm_equals_autograd(case: Case) -> None:
    _, columns, _ = case.engine.run(make_batch(SAMPLES, "cpu"), case.engine.squared_norms())
    expected = case.samples_NP.square().sum(1)
    error = (columns[:, 0].double() - expected).abs() / expected
    assert error.max() <= TOLERANCE[case.dtype]


def test_direction_dots_equal_autograd(case: Case) -> None:
    generator = torch.Generator().manual_seed(1)
    flat_KP = torch.randn(2, case.samples_NP.shape[1], dtype=torch.float64, generator=generator)
    directions = with_expert_views(as_directions(case.engine, flat_KP, case.names))
    scale = case.samples_NP.norm(dim=1)[:, None] * flat_KP.norm(dim=1)
    expected = case.samples_NP @ flat_KP.T

    _, dots, _ = case.engine.run(make_batch(SAMPLES, "cpu"), DirectionDots(directions))
    assert ((dots.double() - expected).abs() / scale).max() <= TOLERANCE[case.dtype]

    together = NormsAndDirectionDots(directions, tied=case.engine.tied)
    _, columns, _ = case.engine.run(make_batch(SAMPLES, "cpu"), together)
    assert ((columns[:, 1:].double() - expected).abs() / scale).max() <= TOLERANCE[case.dtype]
    norms = case.samples_NP.square().sum(1)
    assert ((columns[:, 0].double() - norms).abs() / norms).max() <= TOLERANCE[case.dtype]


def test_anchor_dots_equal_autograd_after_a_round_trip_through_tensors(case: Case) -> None:
    anchors = AnchorRows.from_tensors(recorded_anchors(case.engine).to_tensors())
    _, columns, _ = case.engine.run(make_batch(SAMPLES, "cpu"), AnchorDots(anchors))
    scale = case.samples_NP.norm(dim=1)[:, None] * case.anchors_MP.norm(dim=1)
    assert ((columns.double() - case.samples_NP @ case.anchors_MP.T).abs() / scale).max() <= TOLERANCE[case.dtype]


def test_a_sample_does_not_depend_on_its_batch(case: Case) -> None:
    def columns(samples: list[tuple[list[int], list[bool]]]) -> Tensor:
        query = Together([case.engine.squared_norms(), AnchorDots(recorded_anchors(case.engine))])
        return case.engine.run(make_batch(samples, "cpu"), query)[1].double()

    together = columns(SAMPLES)
    norms = together[:, :1].sqrt() * case.anchors_MP.norm(dim=1)
    for index, sample in enumerate(SAMPLES):
        alone = columns([sample])[0]
        assert abs(alone[0] / together[index, 0] - 1) <= TOLERANCE[case.dtype]
        assert ((alone[1:] - together[index, 1:]).abs() / norms[index]).max() <= TOLERANCE[case.dtype]


def test_loss_and_hidden_states_equal_the_models_own(case: Case) -> None:
    layers = range(case.engine.hidden_states)
    loss_B, _, hidden = case.engine.run(make_batch(SAMPLES, "cpu"), case.engine.squared_norms(), layers=layers)
    forward_loss_B, forward_hidden = case.engine.run_forward(make_batch(SAMPLES, "cpu"), layers=layers)
    torch.testing.assert_close(loss_B, forward_loss_B, rtol=1e-6, atol=0)
    assert list(hidden) == list(forward_hidden) == list(layers)
    for index, (ids, supervised) in enumerate(SAMPLES):
        with torch.no_grad():
            output = case.engine.model(
                input_ids=torch.tensor([ids]),
                labels=torch.tensor([[i if s else -100 for i, s in zip(ids, supervised, strict=True)]]),
                output_hidden_states=True,
            )
        assert float(loss_B[index]) == pytest.approx(float(output.loss), rel=1e-5)
        for layer, expected in zip(hidden.values(), output.hidden_states, strict=True):
            torch.testing.assert_close(layer[index, : len(ids)], expected[0], rtol=1e-4, atol=1e-5)


def test_nothing_is_left_on_the_model(case: Case) -> None:
    def traces() -> tuple[int, list[bool]]:
        modules = list(case.engine.model.modules())
        return sum(len(module._forward_hooks) for module in modules), ["forward" in vars(module) for module in modules]

    before = traces()
    case.engine.run(make_batch(SAMPLES[:2], "cpu"), case.engine.squared_norms())
    assert traces() == before
    assert not any(parameter.requires_grad for parameter in case.engine.model.parameters())


def test_half_precision_accumulates_in_float32_and_stays_near_the_truth() -> None:
    model = tiny_model("llama_tied")
    scope = parameter_scope(model, "all")
    truth = torch.stack([autograd_gradient(model, sample, scope) for sample in SAMPLES]).square().sum(1)
    engine = PerSampleGradients(tiny_model("llama_tied", torch.bfloat16), scope)
    _, columns, _ = engine.run(make_batch(SAMPLES, "cpu"), engine.squared_norms())
    assert columns.dtype == torch.float32
    # bfloat16 keeps 8 bits: both passes are off by a few per cent, but no part is missing.
    assert ((columns[:, 0].double() - truth).abs() / truth).max() < 0.05


class _Scaled(nn.Module):
    """Multiplies by a learned number: a parameter that no formula of the engine covers."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.5))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden * self.gain


def test_a_parameter_that_cannot_be_covered_is_named() -> None:
    model = tiny_model("llama_untied")
    model.model.layers[1].mlp.act_fn = _Scaled()
    with pytest.raises(PreflightError, match=r"model\.layers\.1\.mlp\.act_fn\.gain"):
        PerSampleGradients(model, parameter_scope(model, "all"))


class LyingRMSNorm(nn.Module):
    """Calls itself a norm and multiplies by the square of its weight."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.eps = 1e-6

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self.eps) * self.weight.square()


def test_a_module_that_the_formulas_describe_wrongly_is_named_by_the_self_check() -> None:
    model = tiny_model("llama_untied")
    model.model.norm = LyingRMSNorm(model.model.norm.weight.detach().clone() * 3)
    with pytest.raises(PreflightError, match=r"disagree on the parameter 'model\.norm\.weight'"):
        PerSampleGradients(model, parameter_scope(model, "all"))


def test_a_weight_used_twice_is_found_by_the_self_check() -> None:
    model = tiny_model("llama_untied")
    model.model.layers[1].mlp.up_proj = model.model.layers[0].mlp.up_proj
    with pytest.raises(PreflightError, match=r"model\.layers\.0\.mlp\.up_proj\.weight"):
        PerSampleGradients(model, parameter_scope(model, "all"))


def test_scopes_name_the_parameters_they_mean() -> None:
    tied = tiny_model("llama_tied")
    last = parameter_scope(tied, "last_layers:1")
    assert "model.norm.weight" in last
    assert "model.layers.1.mlp.up_proj.weight" in last
    assert not {name for name in last if "layers.0" in name or "embed" in name}
    untied = tiny_model("gpt_neox")
    every_block = parameter_scope(untied, "last_layers:2")
    (embedding,) = parameter_scope(untied, "all") - every_block
    assert dict(untied.named_parameters())[embedding] is untied.get_input_embeddings().weight
    with pytest.raises(SpecError, match="no LoRA adapter"):
        parameter_scope(tied, "lora")
    with pytest.raises(SpecError, match="the last 3 layers but the model has 2"):
        parameter_scope(tied, "last_layers:3")
