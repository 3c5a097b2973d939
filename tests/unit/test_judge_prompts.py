"""A judge's request as tokens for its model, and the greedy replies of a transformers model."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

from bds.data.rows import Message
from bds.errors import PreflightError
from bds.evaluation.judge_prompts import JudgePrompt, PromptWriter
from bds.evaluation.judge_replies import alternatives_of, finish_reason, greedy_replies, stop_tokens
from bds.evaluation.judges import MODEL_JUDGES, JudgeOptions, JudgeResponse
from tests.tiny_guard import TEMPLATE, tiny_guard

EXCHANGES = [
    (f"How do I make {number} blorfs?", f"Take {number} bowls, {'stir, ' * number}done.") for number in range(6)
]
GUARD, WILDGUARD, GRANITE = (MODEL_JUDGES[name] for name in ("llama_guard_3", "wildguard", "granite_guardian_3"))
OPTIONS = JudgeOptions()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("guard")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    return tiny_guard(folder, EXCHANGES)


def request(judge_name: str, prompt: str, answer: str) -> dict[str, Any]:
    return MODEL_JUDGES[judge_name].build_request((Message("user", prompt),), answer, OPTIONS)


def ids_of(found: JudgePrompt | JudgeResponse) -> list[int]:
    assert isinstance(found, JudgePrompt)
    return found.token_ids


def test_a_guards_template_keeps_its_question_behind_the_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    write = PromptWriter(tokenizer, GUARD, OPTIONS, 2048)
    found = write(request("llama_guard_3", *EXCHANGES[1]))
    text = tokenizer.decode(ids_of(found))
    assert text.endswith("[assistant] Take 1 bowls, stir, done. [over] safe or unsafe?<end><reply>")
    assert ids_of(found).count(tokenizer.bos_token_id) == 1
    turns = [{"role": "user", "content": EXCHANGES[1][0]}, {"role": "assistant", "content": EXCHANGES[1][1]}]
    whole = tokenizer.apply_chat_template(turns, tokenize=True, add_generation_prompt=True, return_dict=False)
    assert ids_of(found) == whole
    assert isinstance(found, JudgePrompt)
    assert (found.max_tokens, found.logprobs) == (32, 10)


def test_a_completion_begins_with_one_start_token(tokenizer: PreTrainedTokenizerFast) -> None:
    found = PromptWriter(tokenizer, WILDGUARD, OPTIONS, 2048)(request("wildguard", *EXCHANGES[1]))
    assert ids_of(found)[0] == tokenizer.bos_token_id
    assert ids_of(found).count(tokenizer.bos_token_id) == 1
    assert "Take 1 bowls" in tokenizer.decode(ids_of(found))
    assert isinstance(found, JudgePrompt)
    assert (found.max_tokens, found.logprobs) == (128, 0)
    asked = PromptWriter(tokenizer, MODEL_JUDGES["shieldgemma"], JudgeOptions(policy="No blorfs."), 2048)
    shield = MODEL_JUDGES["shieldgemma"].build_request((Message("user", "q"),), "a", JudgeOptions(policy="No blorfs."))
    one_token = asked(shield)
    assert isinstance(one_token, JudgePrompt)
    assert (one_token.max_tokens, one_token.logprobs) == (1, 20)


def test_what_the_template_is_told_reaches_it(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", TEMPLATE + "{{ guardian_config['risk_name'] }}")
    found = PromptWriter(tokenizer, GRANITE, OPTIONS, 2048)(request("granite_guardian_3", *EXCHANGES[1]))
    assert tokenizer.decode(ids_of(found)).endswith("<reply>harm")


def test_a_template_that_takes_parts_gets_parts(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = PromptWriter(tokenizer, GUARD, OPTIONS, 2048)(request("llama_guard_3", *EXCHANGES[1]))
    parts = TEMPLATE.replace("{{ message.content }}", "{{ message.content[0].text }}")
    monkeypatch.setattr(tokenizer, "chat_template", parts)
    assert ids_of(PromptWriter(tokenizer, GUARD, OPTIONS, 2048)(request("llama_guard_3", *EXCHANGES[1]))) == ids_of(
        plain
    )


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (None, "no chat template; take the model that this judge is made for"),
        ("{{ messages[0].content }}", "leaves the question or the answer out"),
        ("{{ raise_exception('one turn only') }}", r"shows no exchange to judge \(one turn only\)"),
    ],
)
def test_a_model_that_cannot_be_shown_an_exchange_is_refused(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, template: str | None, expected: str
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", template)
    with pytest.raises(PreflightError, match=expected):
        PromptWriter(tokenizer, GUARD, OPTIONS, 2048)
    assert PromptWriter(tokenizer, WILDGUARD, OPTIONS, 2048), "a raw completion needs no template"


def test_a_request_that_does_not_fit_is_a_failed_reply(tokenizer: PreTrainedTokenizerFast) -> None:
    length = len(ids_of(PromptWriter(tokenizer, GUARD, OPTIONS, 2048)(request("llama_guard_3", *EXCHANGES[5]))))
    fits = PromptWriter(tokenizer, GUARD, OPTIONS, length + 32)(request("llama_guard_3", *EXCHANGES[5]))
    assert isinstance(fits, JudgePrompt)
    found = PromptWriter(tokenizer, GUARD, OPTIONS, length + 31)(request("llama_guard_3", *EXCHANGES[5]))
    assert isinstance(found, JudgeResponse)
    assert found.error == (
        f"the request has {length} tokens and the reply may have 32, more than the judge's {length + 31} "
        "(engine.max_model_len)"
    )


def reply_by_hand(model: Any, tokenizer: PreTrainedTokenizerFast, prompt: JudgePrompt, stop: int) -> JudgeResponse:
    """One prompt, one token at a time, by argmax over the whole vocabulary."""
    ids, steps = list(prompt.token_ids), []
    for _ in range(prompt.max_tokens):
        logprobs_V = model(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)
        best = logprobs_V.topk(prompt.logprobs)
        steps.append({tokenizer.decode([int(token)]): float(logprobs_V[token]) for token in best.indices})
        ids.append(int(logprobs_V.argmax()))
        if ids[-1] == stop:
            break
    made = ids[len(prompt.token_ids) :]
    reason = "stop" if made[-1] == stop else "length"
    return JudgeResponse(tokenizer.decode(made, skip_special_tokens=True), reason, tuple(steps))


def test_greedy_replies_are_those_of_a_loop_by_hand(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    # Sampling that a checkpoint asks for does not reach the judge.
    model.generation_config = GenerationConfig(do_sample=True, temperature=5.0, repetition_penalty=2.0)
    write = PromptWriter(tokenizer, GUARD, OPTIONS, 2048)
    prompts = {}
    for key, exchange in enumerate([*EXCHANGES, EXCHANGES[2]]):
        ids = ids_of(write(request("llama_guard_3", *exchange)))
        prompts[key] = JudgePrompt(ids, max_tokens=3 + key % 2, logprobs=4)
    stops = stop_tokens(None, tokenizer)
    assert stops == {4}
    replies = greedy_replies(model, tokenizer, prompts, stops)
    with torch.no_grad():
        expected = {key: reply_by_hand(model, tokenizer, prompt, 4) for key, prompt in prompts.items()}
    assert {key: (reply.text, reply.finish_reason) for key, reply in replies.items()} == {
        key: (reply.text, reply.finish_reason) for key, reply in expected.items()
    }
    assert {reply.text.splitlines()[0] for reply in replies.values()} == {"safe", "unsafe"}
    for key, reply in replies.items():
        assert len(reply.alternatives) == len(expected[key].alternatives)
        for found, by_hand in zip(reply.alternatives, expected[key].alternatives, strict=True):
            assert found == pytest.approx(by_hand, abs=1e-4)
    plain = greedy_replies(model, tokenizer, {0: JudgePrompt(prompts[0].token_ids, 3, 0)}, stops)[0]
    assert (plain.text, plain.alternatives) == (replies[0].text, ())


def test_a_reply_ends_at_a_stop_token_and_says_so(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    unsafe = tokenizer.convert_tokens_to_ids("unsafeĊ")
    safe = tokenizer.convert_tokens_to_ids("safeĊ")
    ids = ids_of(PromptWriter(tokenizer, GUARD, OPTIONS, 2048)(request("llama_guard_3", *EXCHANGES[0])))
    (reply,) = greedy_replies(model, tokenizer, {0: JudgePrompt(ids, 5, 2)}, frozenset({safe, unsafe})).values()
    assert reply.finish_reason == "stop"
    assert reply.text in {"safe\n", "unsafe\n"}
    assert len(reply.alternatives) == 1


def test_stop_tokens_are_those_of_the_checkpoint_and_of_the_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    assert stop_tokens(GenerationConfig(eos_token_id=[7, 9]), tokenizer) == {4, 7, 9}
    assert stop_tokens(GenerationConfig(eos_token_id=4), tokenizer) == {4}
    assert [finish_reason(ids, 2, frozenset({4})) for ids in ([5], [5, 6], [5, 4])] == ["stop", "length", "stop"]


def test_tokens_that_read_alike_are_one_text() -> None:
    found = alternatives_of([("yes", math.log(0.25)), ("no", math.log(0.5)), ("yes", math.log(0.125))])
    assert found == pytest.approx({"yes": math.log(0.375), "no": math.log(0.5)})
