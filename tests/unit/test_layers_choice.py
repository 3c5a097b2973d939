"""Layer choice: planted sensitive blocks and directions, scatter matrices built in full, scipy's ANOVA."""

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from bds.errors import PreflightError
from bds.scoring import layers
from bds.scoring.layers import LARF_FACTORS, choose_larf_layer, compliance_direction, decoder_blocks, scaled

PROMPTS = [f"how do i stop the quiet lamp number {number}" for number in range(10)]
REFUSAL = "i am sorry , i cannot help with that"


@pytest.fixture
def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, num_hidden_layers=3, **sizes))


def norms(model: nn.Module) -> list[float]:
    return [sum(float(p.detach().square().sum()) for p in block.parameters()) for block in decoder_blocks(model)]


def refusing_by_block(model: nn.Module, refusals: list[dict[float, int]], base: int):
    """A stand-in for generation: how many prompts are refused depends on which block is scaled, and by how much."""
    unscaled = norms(model)

    def answers(model, tokenizer, prompts, max_new_tokens):
        refused = base
        for block, (now, then) in enumerate(zip(norms(model), unscaled, strict=True)):
            factor = round((now / then) ** 0.5, 3)
            if factor != 1:
                refused = refusals[block].get(factor, base)
        return [REFUSAL] * refused + ["use the small key"] * (len(prompts) - refused)

    return answers


def test_larf_takes_the_block_that_moves_the_refusals_most(llama, monkeypatch):
    by_block = [{0.7: 3}, {0.7: 1, 0.8: 2, 1.2: 6, 1.3: 8}, {1.3: 9}]
    monkeypatch.setattr(layers, "greedy_answers", refusing_by_block(llama, by_block, base=4))
    choice = choose_larf_layer(llama, None, PROMPTS)
    assert choice.layer == 2
    assert (choice.prompts, choice.refusals, choice.factors) == (10, 4, LARF_FACTORS)
    assert [probe.layer for probe in choice.curve] == [1, 2, 3]
    assert choice.curve[1].refusals == (1, 2, 4, 4, 6, 8)
    assert [probe.change for probe in choice.curve] == pytest.approx([1 / 6, 11 / 6, 5 / 6])


def test_the_chosen_layer_is_the_output_of_the_scaled_block(llama):
    """hidden_states[i] is the input of block i (the off-by-one of LARF's code): scaling block i must leave it alone."""
    tokens_BT = torch.arange(8)[None]
    before = llama(tokens_BT, output_hidden_states=True).hidden_states
    with scaled(decoder_blocks(llama)[1], 1.3):
        during = llama(tokens_BT, output_hidden_states=True).hidden_states
    changed = [not torch.equal(a, b) for a, b in zip(before, during, strict=True)]
    assert changed == [False, False, True, True]


def test_among_equal_blocks_the_earliest_wins(llama, monkeypatch):
    monkeypatch.setattr(layers, "greedy_answers", refusing_by_block(llama, [{}, {0.7: 2}, {1.3: 6}], base=4))
    assert choose_larf_layer(llama, None, PROMPTS).layer == 2


def test_no_effect_and_no_prompts_are_errors_with_a_way_out(llama, monkeypatch):
    monkeypatch.setattr(layers, "greedy_answers", refusing_by_block(llama, [{}, {}, {}], base=4))
    with pytest.raises(PreflightError, match=r"4 of the 10 probe prompts are refused; set the detector's layer"):
        choose_larf_layer(llama, None, PROMPTS)
    with pytest.raises(PreflightError, match="hold no prompt"):
        choose_larf_layer(llama, None, [])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fails_at", [None, 1, 5])
def test_the_weights_come_back_bit_for_bit(llama, monkeypatch, dtype, fails_at):
    llama = llama.to(dtype)
    decoder_blocks(llama)[0].mlp.up_proj.weight.data[0, 0] = -0.0
    originals = {name: parameter.detach().clone() for name, parameter in llama.named_parameters()}
    calls = []

    def answers(model, tokenizer, prompts, max_new_tokens):
        calls.append(norms(model))
        if len(calls) == fails_at:
            raise RuntimeError("generation failed")
        return [REFUSAL] * (len(calls) % 3) + ["use the small key"] * (len(prompts) - len(calls) % 3)

    monkeypatch.setattr(layers, "greedy_answers", answers)
    if fails_at is None:
        choose_larf_layer(llama, None, PROMPTS)
        assert len(calls) == 1 + 3 * len(LARF_FACTORS)
        assert len({tuple(call) for call in calls}) == len(calls), "every generation saw other weights"
    else:
        with pytest.raises(RuntimeError, match="generation failed"):
            choose_larf_layer(llama, None, PROMPTS)
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    for name, parameter in llama.named_parameters():
        assert torch.equal(parameter.detach().view(bits), originals[name].view(bits)), name


def test_decoder_blocks_of_other_architectures():
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=32))
    assert list(decoder_blocks(gpt2)) == list(gpt2.transformer.h)
    neox = GPTNeoXForCausalLM(
        GPTNeoXConfig(vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
    )
    assert list(decoder_blocks(neox)) == list(neox.gpt_neox.layers)
    gpt2.config.n_layer = 7
    with pytest.raises(PreflightError, match="keeps its 7 decoder blocks in no list"):
        decoder_blocks(gpt2)


def random_anchors(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    harmful_NLD = torch.randn(9, 4, 6, generator=generator)
    safe_MLD = torch.randn(5, 4, 6, generator=generator)
    return harmful_NLD, safe_MLD


def test_scores_equal_the_full_scatter_matrices():
    harmful_NLD, safe_MLD = random_anchors()
    result = compliance_direction(harmful_NLD, safe_MLD)
    for layer in range(4):
        x, y = harmful_NLD[:, layer].double().numpy(), safe_MLD[:, layer].double().numpy()
        v = x.mean(0) - y.mean(0)
        v /= np.linalg.norm(v)
        together = np.concatenate([x, y])
        standard = (together - together.mean(0)) / together.std(0, ddof=1)
        classes = [standard[: len(x)], standard[len(x) :]]
        between = sum(len(c) * np.outer(c.mean(0) - standard.mean(0), c.mean(0) - standard.mean(0)) for c in classes)
        within = sum((c - c.mean(0)).T @ (c - c.mean(0)) for c in classes)
        assert float(result.scores_L[layer]) == pytest.approx(v @ between @ v / (v @ (between + within) @ v), rel=1e-10)
        assert float(
            compliance_direction(harmful_NLD, safe_MLD, layer=layer).direction_D @ torch.tensor(v).float()
        ) == (pytest.approx(1, abs=1e-6))


def test_scores_are_the_variance_explained_of_an_anova():
    harmful_NLD, safe_MLD = random_anchors(1)
    result = compliance_direction(harmful_NLD, safe_MLD)
    together_ALD = torch.cat([harmful_NLD, safe_MLD]).double()
    for layer in range(4):
        v = (harmful_NLD[:, layer].double().mean(0) - safe_MLD[:, layer].double().mean(0)).numpy()
        projected = (together_ALD[:, layer] / together_ALD[:, layer].std(0)).numpy() @ v
        statistic = scipy.stats.f_oneway(projected[:9], projected[9:]).statistic
        assert float(result.scores_L[layer]) == pytest.approx(statistic / (statistic + 9 + 5 - 2), rel=1e-10)


def test_a_planted_direction_is_found_at_its_layer():
    harmful_NLD, safe_MLD = random_anchors(2)
    planted_D = torch.tensor([0.0, 0.0, 3.0, 0.0, -4.0, 0.0])
    harmful_NLD[:, 2] += 10 * planted_D
    result = compliance_direction(harmful_NLD, safe_MLD)
    assert result.layer == 2
    assert float(result.direction_D @ planted_D / 5) > 0.99
    assert float(result.scores_L[2]) > 0.95
    assert float(result.direction_D.norm()) == pytest.approx(1, abs=1e-6)


def test_the_embedding_is_not_taken_unasked():
    harmful_NLD, safe_MLD = random_anchors(3)
    harmful_NLD[:, 0] += 50
    result = compliance_direction(harmful_NLD, safe_MLD)
    assert int(result.scores_L.argmax()) == 0
    assert result.layer == 1 + int(result.scores_L[1:].argmax())
    assert compliance_direction(harmful_NLD, safe_MLD, layer=0).layer == 0


def test_layers_without_a_difference_score_zero_and_are_an_error_when_nothing_else_is_left():
    harmful_NLD, safe_MLD = random_anchors(4)
    harmful_NLD[:, 1], safe_MLD[:, 1] = 1.0, 1.0
    harmful_NLD[0, 3] = torch.inf
    result = compliance_direction(harmful_NLD, safe_MLD)
    assert result.layer == 2
    assert result.scores_L[[1, 3]].tolist() == [0, 0]
    with pytest.raises(PreflightError, match="at layer 1"):
        compliance_direction(harmful_NLD, safe_MLD, layer=1)
    with pytest.raises(PreflightError, match="no difference between harmful and safe anchor answers at any"):
        compliance_direction(torch.ones(3, 4, 6), torch.ones(2, 4, 6))


def test_a_constant_feature_and_half_precision_do_no_harm():
    harmful_NLD, safe_MLD = random_anchors(5)
    harmful_NLD[..., 0], safe_MLD[..., 0] = 7.0, 7.0
    whole = compliance_direction(harmful_NLD, safe_MLD)
    without = compliance_direction(harmful_NLD[..., 1:], safe_MLD[..., 1:])
    assert torch.allclose(whole.scores_L, without.scores_L)
    half = compliance_direction(harmful_NLD.bfloat16(), safe_MLD.bfloat16())
    assert torch.allclose(whole.scores_L, half.scores_L, atol=0.05)
