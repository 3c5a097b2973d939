"""What scoring takes: estimated on the meta device, against what torch's allocator gave out in real passes."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig, MixtralConfig, PretrainedConfig

import bds.scoring.memory as memory_module
import bds.scoring.reference as reference_module
from bds.errors import PreflightError
from bds.scoring.collection import Collection
from bds.scoring.dry_run import LiveBytes, UnknownMemoryError, dry_run, fused_attention
from bds.scoring.gradients.anchors import AnchorDots
from bds.scoring.gradients.engine import PerSampleGradients, make_batch
from bds.scoring.gradients.queries import NormsAndDirectionDots, Query, Together, with_expert_views
from bds.scoring.gradients.scope import parameter_scope
from bds.scoring.loading import load_model, model_shell, weights_needed
from bds.scoring.memory import AnchorTokens, MemoryModel, Room, ScoringMemory, fit, fit_again, lowered
from bds.scoring.reference import Reference, ReferencePlan
from bds.spec.models import AuditSpec, LoraSpec, ModelSpec

GIB = 2**30
MIB = 2**20
VOCABULARY = 4000
SMALL = MIB // 4
"""Counters, masks and ids, which nothing estimates."""
LENGTHS = (40, 30, 50)
"""Tokens of the anchors, of which the last ten have loss: two in one set and one in another."""

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "pad_token_id": None,
}
CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "llama_untied": lambda: LlamaConfig(**_SIZES, num_key_value_heads=2, tie_word_embeddings=False),
    "llama_tied": lambda: LlamaConfig(**_SIZES, num_key_value_heads=6, tie_word_embeddings=True),
    "gpt_neox": lambda: GPTNeoXConfig(**_SIZES, tie_word_embeddings=False),
    "mixtral": lambda: MixtralConfig(**_SIZES, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2),
    "llama_large_vocabulary": lambda: LlamaConfig(**{**_SIZES, "vocab_size": 24000, "num_hidden_layers": 1}),
}

ALL = Collection(
    gradients=True,
    anchor_gradients=True,
    hidden_layers=(1,),
    probe_prompts=None,
    compliance=False,
    compliance_layer=None,
)


def given_out(run: Callable[[], object]) -> int:
    """The most bytes that the CPU's allocator had given out at any time, kernels' own buffers among them."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    now = most = 0
    for event in sorted(recorded.profiler.kineto_results.events(), key=lambda event: event.start_ns()):  # type: ignore[union-attr]
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


def saved(folder: Path, name: str) -> ModelSpec:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIGS[name]()).save_pretrained(folder)
    return ModelSpec(path=str(folder))


def spec_of(model: ModelSpec, **fields: Mapping[str, object]) -> AuditSpec:
    blocks: dict[str, object] = {"data": {"path": "/rows"}, "run": {"dir": "/run"}, "model": model.model_dump()}
    return AuditSpec.model_validate(blocks | fields)


def anchors_of(lengths: tuple[int, ...] = LENGTHS) -> AnchorTokens:
    return AnchorTokens(lengths, supervised=(10,) * len(lengths), sets=(len(lengths) - 1, 1))


def made_up(length: int, supervised: int) -> tuple[list[int], list[bool]]:
    ids = torch.randint(0, VOCABULARY, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    return ids, [position >= length - supervised for position in range(length)]


def weight_bytes(model: nn.Module) -> int:
    return sum(part.numel() * part.element_size() for part in [*model.parameters(), *model.buffers()])


class Measured:
    """The real passes of an audit on the CPU."""

    def __init__(self, spec: AuditSpec) -> None:
        self.spec = spec
        model = load_model(spec.model, spec.score.parameters, spec.score.lora, "cpu")
        self.engine = PerSampleGradients(model, parameter_scope(model, spec.score.parameters))
        plan = ReferencePlan(
            gradients=True,
            per_sample=spec.anchors.gradients == "per_sample",
            hidden_layers=(),
            larf_layer=None,
            compliance=False,
            compliance_layer=None,
            first_answer_tokens=10,
        )
        self.reference = Reference({"harmful": len(LENGTHS) - 1, "safe": 1}, plan)

    def preparing(self) -> int:
        samples = [made_up(length, 10) for length in LENGTHS]
        add = functools.partial(
            reference_module._add_gradients, self.reference, self.engine, samples, self.spec.score.token_budget
        )
        return weight_bytes(self.engine.model) + given_out(add)

    def scoring(self, shapes: list[tuple[int, int]]) -> int:
        """With the anchors that `preparing` made, over the shapes of batches that a budget allows."""
        kept = list(self.reference.directions.values())
        rows = self.reference.rows
        if rows is not None:
            kept = list(rows.to_tensors().values())
        most = max(given_out(lambda shape=shape: self._batch(*shape)) for shape in shapes)  # type: ignore[misc]
        return weight_bytes(self.engine.model) + sum(part.numel() * part.element_size() for part in kept) + most

    def _batch(self, samples: int, positions: int) -> None:
        query: Query = self.engine.squared_norms()
        if self.reference.rows is not None:
            query = Together([query, AnchorDots(self.reference.rows)])
        else:
            query = NormsAndDirectionDots(with_expert_views(self.reference.directions), tied=self.engine.tied)
        batch = make_batch([made_up(positions, positions - 1)] * samples, "cpu")
        self.engine.run(batch, query, layers=[0])


@pytest.mark.parametrize(
    ("name", "samples", "positions", "fields"),
    [
        ("llama_untied", 4, 256, {}),
        ("llama_untied", 1, 512, {}),
        ("llama_tied", 2, 256, {}),
        ("llama_tied", 4, 128, {"anchors": {"gradients": "direction"}}),
        ("llama_untied", 4, 128, {"score": {"parameters": "lora"}}),
        ("gpt_neox", 4, 256, {}),
        ("gpt_neox", 3, 128, {"score": {"parameters": "last_layers:1"}}),
        ("mixtral", 4, 128, {}),
        ("llama_large_vocabulary", 2, 256, {}),
    ],
)
def test_the_estimate_is_what_the_allocator_gives_out(
    tmp_path: Path, name: str, samples: int, positions: int, fields: dict[str, dict[str, object]]
) -> None:
    score = {"token_budget": samples * positions, **fields.get("score", {})}
    spec = spec_of(saved(tmp_path, name), **{**fields, "tokens": {"max_tokens": positions}, "score": score})
    estimate = MemoryModel(spec, ALL, anchors_of(), "cpu").at(samples * positions)
    measured = Measured(spec)
    preparing = measured.preparing()
    scoring = measured.scoring([(samples, positions), (samples * positions // 64, 64)])
    assert preparing <= estimate.preparing + SMALL
    assert estimate.preparing <= 1.5 * preparing
    assert scoring <= estimate.scoring + SMALL
    assert estimate.scoring <= 1.1 * scoring
    assert estimate.weights == weight_bytes(measured.engine.model)


@pytest.mark.parametrize("name", ["llama_untied", "llama_tied", "mixtral"])
def test_factored_anchors_are_estimated_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(memory_module, "DENSE_NUMBERS", 1000)
    monkeypatch.setattr(reference_module, "DENSE_NUMBERS", 1000)
    spec = spec_of(saved(tmp_path, name), tokens={"max_tokens": 128}, score={"token_budget": 512})
    estimate = MemoryModel(spec, ALL, anchors_of(), "cpu").at(512)
    measured = Measured(spec)
    preparing = measured.preparing()
    rows = measured.reference.rows
    assert rows is not None
    held = sum(tensor.numel() * 4 for tensor in rows.to_tensors().values())
    scoring = measured.scoring([(4, 128), (8, 64)])
    # Rows without gradient are not kept; which ones only the numbers say.
    assert held <= estimate.anchors <= 1.4 * held
    assert preparing <= estimate.preparing + SMALL
    assert estimate.preparing <= 1.5 * preparing
    assert scoring <= estimate.scoring + SMALL
    assert estimate.scoring <= 1.3 * scoring


def test_a_pass_without_gradients_keeps_hidden_states_alone(tmp_path: Path) -> None:
    spec = spec_of(saved(tmp_path, "llama_untied"), tokens={"max_tokens": 256}, score={"token_budget": 1024})
    forward = replace(ALL, gradients=False, anchor_gradients=False)
    estimate = MemoryModel(spec, forward, AnchorTokens((), (), ()), "cpu").at(1024)
    # The embedding and the output of every block, before and after the last norm.
    kept = 1024 * 192 * 4
    assert 4 * kept <= estimate.activations <= 6 * kept
    assert estimate.preparing == estimate.anchors == 0

    engine = PerSampleGradients(load_model(spec.model, "all", LoraSpec(), "cpu"), frozenset())
    batch = make_batch([made_up(256, 255)] * 4, "cpu")
    measured = given_out(lambda: engine.run_forward(batch, layers=[0]))
    assert measured <= estimate.activations + estimate.workspace <= 1.1 * measured


def test_weights_by_hand(tmp_path: Path) -> None:
    model = saved(tmp_path, "llama_untied")
    layer = 192 * 192 * 2 + 2 * 192 * 64 + 3 * 192 * 512 + 2 * 192
    numbers = 2 * VOCABULARY * 192 + 3 * layer + 192
    assert weights_needed(model, "cpu") == 4 * numbers
    assert weights_needed(model.model_copy(update={"dtype": "bfloat16"}), "cuda") == 2 * numbers
    shell = model_shell(model, "all", LoraSpec(), torch.bfloat16)
    assert {part.device.type for part in shell.parameters()} == {"meta"}


def test_a_configuration_is_enough(tmp_path: Path) -> None:
    """Llama 3.1 8B as its configuration says: 8,030,261,248 parameters, none of them here."""
    LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        dtype="bfloat16",
    ).save_pretrained(tmp_path)
    model = ModelSpec(path=str(tmp_path))
    assert weights_needed(model, "cuda") == 2 * 8_030_261_248
    assert weights_needed(model, "cpu") == 4 * 8_030_261_248


def test_the_peak_of_a_sum_by_hand() -> None:
    held = torch.empty(1000, device="meta")
    with LiveBytes(positions=1) as alive:
        doubled = held * 2
        halves = doubled.view(2, 500)
        total = (halves + 1).sum()
        assert (alive.now, alive.peak) == (4004, 8004)
        del doubled
        assert alive.now == 4004, "a view keeps its storage alive"
        del halves
        assert alive.now == 4
        del total
    assert (alive.now, alive.peak) == (0, 8004)


@pytest.mark.parametrize(
    ("dtype", "heads", "kept"), [(torch.bfloat16, 2, 0), (torch.float32, 8, 0), (torch.float32, 2, 1)]
)
def test_on_a_gpu_shared_heads_in_float32_keep_their_scores(dtype: torch.dtype, heads: int, kept: int) -> None:
    query = torch.empty(2, 8, 256, 16, dtype=dtype, device="meta", requires_grad=True)
    key = torch.empty(2, heads, 256, 16, dtype=dtype, device="meta", requires_grad=True)
    scores = 2 * 8 * 256 * 256 * 4
    with fused_attention("cuda"), LiveBytes(positions=1) as alive:
        output = torch.nn.functional.scaled_dot_product_attention(query, key, key, is_causal=True, enable_gqa=heads < 8)
        assert output.shape == query.shape
        assert (alive.now >= scores) == bool(kept)


def test_what_cannot_run_dry_is_said_to_be_unknown() -> None:
    with pytest.raises(UnknownMemoryError, match="NotImplementedError"), dry_run("cpu", positions=3):
        torch.empty(3, device="meta").tolist()
    with pytest.raises(PreflightError, match="as it is"), dry_run("cpu", positions=3):
        raise PreflightError("as it is")


class Doubling(MemoryModel):
    """Takes 2 GiB, and 1 GiB more for every 1024 tokens of the budget."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def at(self, token_budget: int) -> ScoringMemory:
        self.asked.append(token_budget)
        return ScoringMemory(token_budget, 10**9, 2 * GIB, 0, token_budget * MIB, 0, 0, 0, 0)


SPEC = spec_of(
    ModelSpec(path="/model"),
    tokens={"max_tokens": 1024},
    score={"token_budget": 8192},
    anchors={"sets": {"harmful": "/h.jsonl"}},
)


@pytest.mark.parametrize(("size", "budget"), [(10, 8192), (9.99, 4096), (6, 4096), (5, 2048), (3, 1024)])
def test_the_budget_is_halved_until_it_fits(size: float, budget: int) -> None:
    room = Room(int(size * GIB), "the GPU of node a")
    found = fit(Doubling(), SPEC, room)
    assert found.token_budget == budget
    told = lowered(found, SPEC, room)
    assert (told is None) == (budget == 8192)
    if budget == 1024:
        assert told == (
            "batches hold 1,024 padded tokens instead of score.token_budget 8,192, because the GPU of node a has 3.0 "
            "GiB for an actor, which then takes 3.0 GiB: weights 2.0, anchors 0, activations of 1,024 tokens 1.0, "
            "workspace 0"
        )


def test_where_one_row_does_not_fit_it_is_refused_with_the_parts() -> None:
    model = Doubling()
    with pytest.raises(PreflightError) as caught:
        fit(model, SPEC, Room(int(2.9 * GIB), "the GPU of node a"))
    assert model.asked == [8192, 4096, 2048, 1024]
    assert str(caught.value) == (
        "the GPU of node a has 2.9 GiB for an actor, which takes 3.0 GiB: weights 2.0, anchors 0, activations of 1,024 "
        "tokens 1.0, workspace 0; take shorter tokens.max_tokens, score.parameters: lora or last_layers:N, fewer "
        "anchors, anchors.gradients: direction, model.dtype: bfloat16, resources.parts_per_model: 2 to spread it over "
        "more processes, or a machine with more memory"
    )


def test_a_run_keeps_the_budget_that_it_began_with() -> None:
    model = Doubling()
    assert fit_again(model, 2048, Room(4 * GIB, "this machine")).token_budget == 2048
    with pytest.raises(PreflightError, match=r"this machine has 3\.9 GiB .* the run began with .* --fresh"):
        fit_again(model, 2048, Room(int(3.9 * GIB), "this machine"))
    assert model.asked == [2048, 2048]


def test_the_largest_pass_counts() -> None:
    parts = ScoringMemory(1024, 1, weights=5, anchors=1, activations=1, workspace=1, preparing=9, checking=7, storing=6)
    assert (parts.scoring, parts.total) == (8, 9)
    assert parts.describe().endswith("; preparing the anchors in float32 takes 0.000")
    assert ";" not in replace(parts, preparing=8).describe()


def test_processes_share_all_but_the_workspace() -> None:
    whole = ScoringMemory(
        64, 10, weights=100, anchors=9, activations=50, workspace=7, preparing=90, checking=110, storing=0
    )
    each = whole.spread_over(2)
    assert (each.weights, each.anchors, each.activations, each.workspace) == (50, 5, 25, 7)
    assert (each.preparing, each.checking, each.storing, each.total) == (45, 55, 0, 87)
