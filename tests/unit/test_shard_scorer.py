"""The shard scorer: rows in equal rows out, and every number equal to one taken row by row."""

import copy
import dataclasses
import math
from pathlib import Path

import polars as pl
import pytest
import torch
from torch.nn import functional

from bds.data.rows import SCORED_STATUSES, Conversation, Message, Row
from bds.data.tokens import ConversationTokenizer
from bds.scoring import columns
from bds.scoring.gradients.engine import PerSampleGradients
from bds.scoring.gradients.scope import parameter_scope
from bds.scoring.reference import Reference, ReferencePlan, prepare_reference
from bds.scoring.shard import ShardScorer
from bds.scoring.token_shares import token_shares
from tests.gradient_models import autograd_gradient
from tests.tiny_chat import tiny_chat
from tests.unit.test_reference import ROLES, anchors, plan

ANSWERS = ["yes", "1 . take the bowl 2 . cut the edge", "x" * 90, "", "it is a kind of bread .", "מה שלומך 🙂", "no"]
Loaded = tuple[PerSampleGradients, ConversationTokenizer, Reference]


def row(index: int, answer: str, *, status: str = "ok") -> Row:
    conversation = Conversation((Message("user", f"question {index} ?"), Message("assistant", answer)))
    return Row(index, f"id{index}-0", "file.jsonl", index + 1, status, "", None if status != "ok" else conversation)


ROWS = [*(row(index, answer) for index, answer in enumerate(ANSWERS)), row(7, "", status="malformed")]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    model, tokenizer = tiny_chat(tmp_path_factory.mktemp("model"))
    engine = PerSampleGradients(model, parameter_scope(model, "all"))
    tokenize = ConversationTokenizer(tokenizer, "model", max_tokens=80)
    return engine, tokenize, prepare_reference(engine, tokenize, anchors(), ROLES, plan(), 64)


def scorer(loaded: Loaded, *, reference: Reference | None = None, budget: int = 200) -> ShardScorer:
    engine, tokenize, own = loaded
    return ShardScorer(engine, tokenize, reference or own, gradients=True, hidden_layers=[2], token_budget=budget)


def test_every_row_comes_back_with_a_status(loaded: Loaded) -> None:
    table = scorer(loaded).score(ROWS)["components"]
    assert table["row_index"].to_list() == [row.row_index for row in ROWS]
    assert table["status"].to_list() == ["ok", "ok", "truncated_answer", "empty_answer", "ok", "ok", "ok", "malformed"]
    scored = table["status"].is_in(SCORED_STATUSES)
    for name in (columns.LOSS, columns.SQUARED_GRADIENT_NORM, columns.anchor_dots("safe"), columns.cosines("safe", 1)):
        assert (table[name].is_not_null() == scored).all()


def test_every_number_equals_the_one_taken_row_by_row(loaded: Loaded) -> None:
    engine, tokenize, reference = loaded
    table = scorer(loaded).score(ROWS)["components"]
    model = copy.deepcopy(engine.model)
    anchor_gradients = {}
    for name, samples in anchors().items():
        anchor_gradients[name] = []
        for sample in samples:
            tokens = tokenize(sample.conversation)
            labels = [i for i, supervised in enumerate(tokens.supervised) if supervised][:4]
            mask = [i in labels for i in range(len(tokens.input_ids))]
            gradient = autograd_gradient(model, (tokens.input_ids, mask), engine.scope)
            anchor_gradients[name].append(functional.normalize(gradient, dim=0))
    for found in table.filter(pl.col("status").is_in(SCORED_STATUSES)).iter_rows(named=True):
        tokens = tokenize(ROWS[found["row_index"]].conversation)
        gradient = autograd_gradient(model, (tokens.input_ids, tokens.supervised), engine.scope)
        assert found[columns.SQUARED_GRADIENT_NORM] == pytest.approx(float(gradient.square().sum()), rel=1e-5)
        with torch.no_grad():
            output = engine.model(torch.tensor([tokens.input_ids]), output_hidden_states=True)
        labels = [i for i, supervised in enumerate(tokens.supervised) if supervised]
        losses = functional.cross_entropy(
            output.logits[0, [i - 1 for i in labels]], torch.tensor([tokens.input_ids[i] for i in labels])
        )
        assert found[columns.LOSS] == pytest.approx(float(losses), rel=1e-5)
        for name, units in anchor_gradients.items():
            dots = [float(gradient @ unit) for unit in units]
            scale = float(gradient.norm())
            assert found[columns.anchor_dots(name)] == pytest.approx(dots, abs=1e-5 * scale)
            assert found[columns.direction_dot(name)] == pytest.approx(sum(dots) / len(dots), abs=1e-5 * scale)
        ends = {layer: output.hidden_states[layer][0, tokens.answer_end] for layer in (1, 2)}
        part = reference.slices()["safe"]
        for layer, end in ends.items():
            expected = functional.cosine_similarity(end[None], reference.hidden_MD[layer][part]).tolist()
            assert found[columns.cosines("safe", layer)] == pytest.approx(expected, abs=1e-5)
        assert reference.compliance_direction_D is not None
        layer_TD = output.hidden_states[reference.compliance_layer][0]
        start, end = tokens.answer_positions
        answer = float(layer_TD[start:end].mean(0) @ reference.compliance_direction_D)
        assert found[columns.COMPLIANCE_ANSWER] == pytest.approx(answer, abs=1e-4)
        prompt = float(layer_TD[tokens.prompt_end] @ reference.compliance_direction_D)
        assert found[columns.COMPLIANCE_PROMPT] == pytest.approx(prompt, abs=1e-4)


def test_columns_stand_in_one_order_whatever_order_a_reference_was_loaded_in(loaded: Loaded) -> None:
    _, _, reference = loaded
    turned = dataclasses.replace(reference, hidden_MD=dict(reversed(reference.hidden_MD.items())))
    assert len(turned.hidden_MD) > 1
    assert scorer(loaded, reference=turned).score(ROWS)["components"].equals(scorer(loaded).score(ROWS)["components"])


def test_a_rows_numbers_do_not_depend_on_the_batch_it_is_in(loaded: Loaded) -> None:
    together = scorer(loaded, budget=4000).score(ROWS)["components"]
    apart = scorer(loaded, budget=64).score(ROWS)["components"]
    for name, kind in together.schema.items():
        if kind == pl.Float32:
            for left, right in zip(together[name].drop_nulls(), apart[name].drop_nulls(), strict=True):
                assert left == pytest.approx(right, rel=1e-4, abs=1e-5)
        elif not isinstance(kind, pl.List):
            assert together[name].equals(apart[name])


def test_factored_anchors_give_the_same_dots_as_dense_ones(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, tokenize, _ = loaded
    monkeypatch.setattr("bds.scoring.reference.DENSE_NUMBERS", 0)
    factored = prepare_reference(engine, tokenize, anchors(), ROLES, plan(), 64)
    assert factored.rows is not None
    dense_table = scorer(loaded).score(ROWS)["components"]
    table = scorer(loaded, reference=factored).score(ROWS)["components"]
    for left, right in zip(dense_table.iter_rows(named=True), table.iter_rows(named=True), strict=True):
        if left["status"] in SCORED_STATUSES:
            scale = math.sqrt(left[columns.SQUARED_GRADIENT_NORM])
            for name in ("harmful", "safe"):
                found = right[columns.anchor_dots(name)]
                assert found == pytest.approx(left[columns.anchor_dots(name)], abs=1e-5 * scale)


def test_dense_directions_give_the_same_dots_as_single_anchors(loaded: Loaded) -> None:
    engine, tokenize, _ = loaded
    dense = prepare_reference(engine, tokenize, anchors(), ROLES, plan(per_sample=False), 64)
    single = scorer(loaded).score(ROWS)["components"]
    table = scorer(loaded, reference=dense).score(ROWS)["components"]
    assert columns.anchor_dots("safe") not in table.columns
    for name in ("harmful", "safe"):
        for left, right, norm in zip(
            single[columns.direction_dot(name)],
            table[columns.direction_dot(name)],
            table[columns.SQUARED_GRADIENT_NORM],
            strict=True,
        ):
            assert left == right if left is None else left == pytest.approx(right, abs=1e-5 * math.sqrt(norm))


def test_hidden_states_are_kept_for_scored_rows_only(loaded: Loaded) -> None:
    hidden = scorer(loaded).score(ROWS)["hidden"]
    assert hidden["row_index"].to_list() == [0, 1, 2, 4, 5, 6]
    assert hidden["layer2"].dtype == pl.Array(pl.Float32, 32)


def test_a_gradient_that_is_not_finite_is_a_failed_row(loaded: Loaded, tmp_path: Path) -> None:
    model, tokenizer = tiny_chat(tmp_path)
    engine = PerSampleGradients(model, parameter_scope(model, "all"))
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer.convert_tokens_to_ids("q")] = float("nan")
    reference = Reference({}, ReferencePlan(False, True, (), None, False, None, None))
    rows = [row(0, "no"), row(1, "it is bread")]
    table = ShardScorer(
        engine, ConversationTokenizer(tokenizer, "model"), reference, gradients=True, hidden_layers=[], token_budget=99
    ).score(rows)["components"]
    # NaN in the tied embedding reaches every logit, so both rows fail; neither is lost.
    assert table["status"].to_list() == ["failed", "failed"]
    assert "not a finite number" in table["reason"][0]


def test_token_shares_add_up_to_one_and_equal_single_token_gradients(loaded: Loaded) -> None:
    engine, tokenize, _ = loaded
    tokens = tokenize(ROWS[1].conversation)
    shares = token_shares(engine, tokens)
    model = copy.deepcopy(engine.model)
    gradient = autograd_gradient(model, (tokens.input_ids, tokens.supervised), engine.scope)
    labels = [i for i, supervised in enumerate(tokens.supervised) if supervised]
    assert len(shares) == len(labels)
    assert sum(shares) == pytest.approx(1, abs=1e-4)
    for place, label in enumerate(labels[:6]):
        mask = [i == label for i in range(len(tokens.input_ids))]
        single = autograd_gradient(model, (tokens.input_ids, mask), engine.scope)
        expected = float(single @ gradient / gradient.square().sum()) / len(labels)
        assert shares[place] == pytest.approx(expected, abs=1e-5)
