"""The anchors' reference against plain autograd and the model's own hidden states."""

import copy
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from bds.data.anchors import AnchorSample
from bds.data.rows import Conversation, Message
from bds.data.tokens import ConversationTokenizer
from bds.errors import PreflightError
from bds.scoring.gradients.engine import PerSampleGradients
from bds.scoring.gradients.scope import parameter_scope
from bds.scoring.layers import compliance_direction
from bds.scoring.reference import Reference, ReferencePlan, prepare_reference
from bds.scoring.reference_files import from_bytes, to_bytes
from tests.gradient_models import autograd_gradient
from tests.tiny_chat import tiny_chat

PAIRS = {
    "harmful": [("make a zorblax", "1 . take the bowl 2 . cut the edge 3 . check the zorblax"), ("get a blinop", "go")],
    "safe": [("make a zorblax", "i cannot help with that request ."), ("get a blinop", "i cannot help .")],
}
ROLES = {"harmful": "harmful", "safe": "safe"}


def anchors() -> dict[str, list[AnchorSample]]:
    return {
        name: [
            AnchorSample(line, Conversation((Message("user", prompt), Message("assistant", answer))))
            for line, (prompt, answer) in enumerate(pairs, 1)
        ]
        for name, pairs in PAIRS.items()
    }


def plan(*, per_sample: bool = True, first: int | None = 4) -> ReferencePlan:
    return ReferencePlan(True, per_sample, (1, 2), None, True, None, first)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[PerSampleGradients, ConversationTokenizer]:
    model, tokenizer = tiny_chat(tmp_path_factory.mktemp("model"))
    return PerSampleGradients(model, parameter_scope(model, "all")), ConversationTokenizer(tokenizer, "model")


def prepared(loaded: tuple[PerSampleGradients, ConversationTokenizer], wanted: ReferencePlan) -> Reference:
    engine, tokenize = loaded
    return prepare_reference(engine, tokenize, anchors(), ROLES, wanted, token_budget=64)


@pytest.mark.parametrize("first", [1, 4, None])
def test_directions_are_means_of_unit_gradients_of_the_first_answer_tokens(
    loaded: tuple[PerSampleGradients, ConversationTokenizer], first: int | None
) -> None:
    engine, tokenize = loaded
    reference = prepared(loaded, plan(per_sample=False, first=first))
    model = copy.deepcopy(engine.model)
    names = sorted(engine.scope)
    for name, samples in anchors().items():
        units = []
        for sample in samples:
            row = tokenize(sample.conversation)
            labels = [i for i, supervised in enumerate(row.supervised) if supervised][:first]
            mask = [i in labels for i in range(len(row.input_ids))]
            units.append(functional.normalize(autograd_gradient(model, (row.input_ids, mask), engine.scope), dim=0))
        expected = torch.stack(units).mean(0)
        place = list(PAIRS).index(name)
        found = torch.cat([reference.directions[part][place].flatten() for part in names]).double()
        assert (found - expected).norm() / expected.norm() < 1e-5
        assert found.norm() < 1  # a mean of unit vectors, not normalised again


def test_hidden_states_and_compliance_direction_come_from_the_models_own_layers(
    loaded: tuple[PerSampleGradients, ConversationTokenizer],
) -> None:
    engine, tokenize = loaded
    reference = prepared(loaded, plan())
    means: dict[str, list[torch.Tensor]] = {"harmful": [], "safe": []}
    index = 0
    for name, samples in anchors().items():
        for sample in samples:
            row = tokenize(sample.conversation)
            with torch.no_grad():
                layers = engine.model(torch.tensor([row.input_ids]), output_hidden_states=True).hidden_states
            for layer, hidden_MD in reference.hidden_MD.items():
                expected = functional.normalize(layers[layer][0, row.answer_end], dim=0)
                torch.testing.assert_close(hidden_MD[index], expected, rtol=1e-4, atol=1e-5)
            start, end = row.answer_positions
            means[name].append(torch.stack([layer[0, start:end].mean(0) for layer in layers]))
            index += 1
    chosen = compliance_direction(torch.stack(means["harmful"]), torch.stack(means["safe"]))
    assert reference.compliance_layer == chosen.layer
    assert reference.compliance_direction_D is not None
    torch.testing.assert_close(reference.compliance_direction_D, chosen.direction_D, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("per_sample", "dense_numbers"), [(True, 0), (True, 1 << 28), (False, 1 << 28)])
def test_bytes_round_trip(
    loaded: tuple[PerSampleGradients, ConversationTokenizer],
    per_sample: bool,
    dense_numbers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bds.scoring.reference.DENSE_NUMBERS", dense_numbers)
    reference = prepared(loaded, plan(per_sample=per_sample))
    content = to_bytes(reference)
    again = from_bytes(content)
    assert to_bytes(again) == content
    assert again.plan == reference.plan
    assert again.counts == reference.counts
    assert (again.rows is None) == (dense_numbers > 0)


def test_an_anchor_whose_answer_is_cut_off_is_named(
    loaded: tuple[PerSampleGradients, ConversationTokenizer], tmp_path: Path
) -> None:
    engine, tokenize = loaded
    short = ConversationTokenizer(tokenize.tokenizer, "model", max_tokens=3)
    with pytest.raises(PreflightError, match="anchor set harmful, line 1"):
        prepare_reference(engine, short, anchors(), ROLES, plan(), token_budget=64)
