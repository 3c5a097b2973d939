"""A model spread over processes against the same model in one: every number the same, no weight in two places."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bds.errors import PreflightError
from bds.runs.directory import RunDirectory
from bds.scoring.gradients.anchors import AnchorRecorder
from bds.scoring.gradients.engine import PerSampleGradients, make_batch
from bds.scoring.gradients.scope import parameter_scope
from bds.scoring.loading import load_weights
from bds.scoring.reference import AnchorGradients, Reference, ReferencePlan
from bds.scoring.reference_files import read_reference, write_reference
from bds.scoring.spread.chain import LocalChain
from bds.scoring.spread.division import Share, divide, load_share, own_blocks
from bds.scoring.spread.hub import HubGradients
from bds.scoring.spread.part import Part
from bds.spec.models import ModelSpec
from tests.gradient_models import DoubleThroughout, made_up_samples, tiny_model

BLOCKS = 4
SAMPLES = made_up_samples([37, 5, 23, 64, 11])
ANCHORS = made_up_samples([20, 33, 12], seed=7)
ARCHITECTURES = [
    "llama_untied",
    "llama_tied",
    "gpt_neox",
    "gpt2",
    "gemma2_soft_cap",
    "mixtral",
    "qwen3_moe",
    "cohere_logit_scale",
]
PLAN = ReferencePlan(True, True, (), None, False, None, None)


@dataclass
class Case:
    alone: PerSampleGradients
    hub: HubGradients


def spread(
    folder: Path, processes: int, dtype: torch.dtype, parameters: str = "all"
) -> tuple[HubGradients, list[nn.Module]]:
    """The engine, and the model of every process."""
    spec = ModelSpec(path=str(folder))
    shares = [Share(process, processes) for process in range(processes)]
    models = [plain(load_share(spec, share, dtype, "cpu")) for share in shares]

    def part(model: nn.Module, share: Share) -> Part:
        return Part(model, parameter_scope(model, parameters), own_blocks(model, share))

    chain = LocalChain(
        [functools.partial(part, model, share) for model, share in zip(models[1:], shares[1:], strict=True)]
    )
    scope = parameter_scope(models[0], parameters)
    return HubGradients(models[0], scope, len(own_blocks(models[0], shares[0])), chain), models


def plain(model: Any) -> nn.Module:
    """Experts one after the other: the fused kernel knows no float64."""
    model.set_experts_implementation("eager")
    own: nn.Module = model
    return own


def saved(name: str, folder: Path) -> Path:
    model: Any = tiny_model(name, blocks=BLOCKS)
    if hasattr(model.config, "sliding_window") and name.startswith("gemma"):
        model.config.sliding_window = 16
    model.save_pretrained(folder)
    return folder


@pytest.fixture(
    scope="module",
    params=[(name, processes, "all") for name in ARCHITECTURES for processes in (2, 3)]
    + [("llama_tied", 3, "last_layers:1")],
    ids=str,
)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    name, processes, parameters = request.param
    folder = saved(name, tmp_path_factory.mktemp(name))
    with DoubleThroughout():
        model = plain(load_weights(ModelSpec(path=str(folder)), torch.float64, "cpu"))
        alone = PerSampleGradients(model, parameter_scope(model, parameters))
        hub, _ = spread(folder, processes, torch.float64, parameters)
        return Case(alone, hub)


@pytest.fixture
def case(built: Case) -> Iterator[Case]:
    with DoubleThroughout():
        yield built


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert float((found - expected).abs().max() / expected.abs().max()) <= 1e-10


def test_norms_loss_and_hidden_states_are_those_of_one_process(case: Case) -> None:
    batch = make_batch(SAMPLES, "cpu")
    every = range(BLOCKS + 1)
    loss_B, columns_BC, layers = case.alone.run(batch, case.alone.squared_norms(), layers=every)
    own_loss_B, own_columns_BC, own_layers = case.hub.run(batch, case.hub.squared_norms(), layers=every)
    assert_same(own_loss_B, loss_B)
    assert_same(own_columns_BC / columns_BC, torch.ones_like(columns_BC))
    forward_loss_B, forward_layers = case.hub.run_forward(batch, layers=every)
    assert_same(forward_loss_B, loss_B)
    for index in every:
        assert_same(own_layers[index], layers[index])
        assert_same(forward_layers[index], layers[index])
    assert list(case.hub.run_forward(batch, layers=[BLOCKS - 1])[1]) == [BLOCKS - 1]


@pytest.mark.parametrize("factored", [True, False])
def test_dots_with_anchors_that_every_process_keeps_its_own_of(case: Case, factored: bool, tmp_path: Path) -> None:
    """Written in pieces and read back by one process and by all."""
    run, path = RunDirectory(str(tmp_path)), "anchors/reference.safetensors"
    reference = Reference({"harmful": len(ANCHORS)}, PLAN)
    one = Reference({"harmful": len(ANCHORS)}, PLAN)
    if factored:
        reference.rows, one.rows = recorded(case.hub).rows(), recorded(case.alone).rows()
    else:
        reference.directions, one.directions = summed(case.hub), summed(case.alone)
    write_reference(run, path, reference, case.hub.write_elsewhere(run.uri, path))

    whole = read_reference(run, path, lambda name: True)
    # Rows are recorded in the model's type and kept in float32; what is compared here is where they are.
    expected = columns(case.alone, whole)
    case.hub.read_elsewhere(run.uri, path)
    assert_same(columns(case.hub, read_reference(run, path, lambda name: name in case.hub.scope)), expected)
    direct = columns(case.alone, one)
    assert float((expected - direct).abs().max() / direct.abs().max()) < 1e-6


def recorded(engine: PerSampleGradients) -> AnchorRecorder:
    recorder = AnchorRecorder()
    for part in (ANCHORS[:2], ANCHORS[2:]):
        engine.run(make_batch(part, "cpu"), recorder)
        recorder.batch_done(len(part))
    return recorder


def summed(engine: PerSampleGradients) -> dict[str, Tensor]:
    groups = [
        engine.gradient_sum([(make_batch([sample], "cpu"), torch.ones(1, dtype=torch.float64))]) for sample in ANCHORS
    ]
    return {name: torch.stack([each[name] for each in groups]) for name in groups[0]}


def columns(engine: PerSampleGradients, reference: Reference) -> Tensor:
    query = AnchorGradients(reference, engine.device, engine.dtype).query(tied=engine.tied)
    return engine.run(make_batch(SAMPLES, "cpu"), query)[1]


@pytest.mark.parametrize(
    ("name", "processes"), [*((name, 3) for name in ARCHITECTURES), ("llama_tied", 2), ("llama_tied", BLOCKS)]
)
def test_numbers_are_the_same_to_the_bit_however_the_blocks_are_spread(
    name: str, processes: int, tmp_path: Path
) -> None:
    folder = saved(name, tmp_path)
    model = load_weights(ModelSpec(path=str(folder)), torch.float32, "cpu")
    alone = PerSampleGradients(model, parameter_scope(model, "all"))
    hub, _ = spread(folder, processes, torch.float32)
    batch = make_batch(SAMPLES, "cpu")
    every = range(BLOCKS + 1)
    loss_B, columns_BC, layers = alone.run(batch, alone.squared_norms(), layers=every)
    own_loss_B, own_columns_BC, own_layers = hub.run(batch, hub.squared_norms(), layers=every)
    assert torch.equal(own_loss_B, loss_B)
    assert torch.equal(own_columns_BC, columns_BC)
    assert all(torch.equal(own_layers[index], layers[index]) for index in every)


@pytest.mark.parametrize("name", ["llama_tied", "gpt2", "mixtral"])
def test_a_process_holds_its_own_weights_and_no_others(name: str, tmp_path: Path) -> None:
    folder = saved(name, tmp_path)
    _, models = spread(folder, 3, torch.float32)
    whole = load_weights(ModelSpec(path=str(folder)), torch.float32, "cpu")
    sizes = {parameter: own.numel() for parameter, own in whole.named_parameters()}
    here = [{n for n, own in model.named_parameters() if not own.is_meta} for model in models]
    assert sorted(parameter for names in here for parameter in names) == sorted(sizes)
    weights = dict(whole.named_parameters())
    for model, names in zip(models, here, strict=True):
        own = dict(model.named_parameters())
        assert all(torch.equal(own[parameter], weights[parameter]) for parameter in names)
        bytes_here = sum(own[parameter].untyped_storage().nbytes() for parameter in names)
        assert bytes_here == 4 * sum(sizes[parameter] for parameter in names)
        assert bytes_here < 4 * sum(sizes.values()) / 2


def test_the_largest_process_is_as_small_as_can_be() -> None:
    assert divide([10] * 6, 20, 2) == [range(2), range(2, 6)]
    assert divide([10] * 6, 0, 3) == [range(2), range(2, 4), range(4, 6)]
    assert divide([1, 1, 9], 1, 2) == [range(2), range(2, 3)]
    assert divide([5, 5], 99, 2) == [range(1), range(1, 2)]
    with pytest.raises(PreflightError, match="3 processes and the model has 2 decoder blocks"):
        divide([5, 5], 0, 3)


def test_a_part_that_the_formulas_describe_wrongly_is_named_by_the_self_check(tmp_path: Path) -> None:
    folder = saved("llama_untied", tmp_path)
    spec = ModelSpec(path=str(folder))
    hub_model, part_model = (load_share(spec, Share(process, 2), torch.float32, "cpu") for process in (0, 1))
    scope = parameter_scope(part_model, "all")
    blocks = own_blocks(part_model, Share(1, 2))
    norm: Any = part_model.get_submodule(f"model.layers.{blocks[-1]}.input_layernorm")
    own = norm.forward
    norm.forward = lambda hidden: own(hidden) * norm.weight
    chain = LocalChain([lambda: Part(part_model, scope, blocks)])
    with pytest.raises(PreflightError, match=rf"disagree on the parameter 'model\.layers\.{blocks[-1]}\.input_layern"):
        HubGradients(hub_model, scope, blocks.start, chain)


def test_a_decoder_that_hands_its_blocks_more_than_hidden_states_is_refused(tmp_path: Path) -> None:
    folder = saved("llama_untied", tmp_path)
    model: Any = load_share(ModelSpec(path=str(folder)), Share(1, 2), torch.float32, "cpu")
    rotary = model.model.rotary_emb
    own = rotary.forward
    rotary.forward = lambda hidden, position_ids: tuple(x + hidden.mean() for x in own(hidden, position_ids))
    with pytest.raises(PreflightError, match="cannot be spread over processes"):
        Part(model, parameter_scope(model, "all"), own_blocks(model, Share(1, 2)))
