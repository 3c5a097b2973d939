"""The answer mask, proved by decoding it back, for every kind of tokenizer and template."""

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bds.data.rows import Conversation, Message
from bds.data.tokens import SAMPLE, ConversationTokenizer, TokenizedRow, check_template
from bds.errors import PreflightError
from tests.unit.data_tokenizers import (
    CHATML,
    CHATML_MARKED,
    LAST_ONLY,
    LLAMA2,
    LLAMA3,
    PLAIN,
    REASONING,
    SPECIAL,
    TIGHT,
    byte_level,
    conversation,
    sentence_piece,
    slow_bytes,
    trimmed_byte_level,
    word_level,
)

ANSWERS = {
    "plain": "the answer is four .",
    "emoji": "fine 😀👩‍👩‍👧 ok 🇫🇷",
    "right_to_left": "مرحبا بالعالم, שלום",
    "crlf": "one\r\ntwo\r\n\r\nthree",
    "chinese": "你好，世界。",
    "combining": "e\u0301cole a\u0308",
    "one_character": "4",
    "code": "```python\n\tdef f(x):\n\t\treturn x  # \\n\n```",
}
FAST = {"byte_level": byte_level, "trimmed_byte_level": trimmed_byte_level, "sentence_piece": sentence_piece}
TEMPLATES = {"chatml": CHATML, "marked": CHATML_MARKED, "tight": TIGHT, "llama2": LLAMA2, "llama3": LLAMA3}
END = {"llama2": "</s>"}


def supervised_text(tokenizer, row: TokenizedRow) -> str:
    return tokenizer.decode([i for i, label in zip(row.input_ids, row.supervised, strict=True) if label])


def positions_of(row: TokenizedRow) -> list[int]:
    return [index for index, label in enumerate(row.supervised) if label]


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("build", [*FAST.values(), slow_bytes], ids=[*FAST, "slow_bytes"])
def test_supervised_tokens_decode_to_answer_and_end_of_turn(build, template, answer):
    tokenizer = build(TEMPLATES[template])
    end = END.get(template, "<|end|>")
    row = ConversationTokenizer(tokenizer, max_tokens=10_000)(conversation("hello", answer))
    assert row.status == "ok"
    decoded = supervised_text(tokenizer, row)
    # The decoder of sentence pieces drops one space at the start of any text.
    assert decoded.removesuffix(end).lstrip(" ") == answer.lstrip(" ")
    assert decoded.endswith(end)
    start, stop = row.answer_positions
    assert tokenizer.decode(row.input_ids[start:stop]).lstrip(" ") == answer
    assert row.answer_end == stop - 1
    assert row.prompt_end == start - 1
    assert row.supervised_tokens == row.answer_tokens + 1 == sum(row.supervised)
    assert row.prompt_tokens == start


@pytest.mark.parametrize("build", FAST.values(), ids=FAST)
def test_ids_are_those_of_apply_chat_template(build):
    for template in TEMPLATES.values():
        tokenizer = build(template)
        turns = [{"role": m.role, "content": m.content} for m in SAMPLE.messages]
        expected = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True)["input_ids"]
        assert ConversationTokenizer(tokenizer)(SAMPLE).input_ids == expected
        assert expected.count(tokenizer.bos_token_id) <= 1


@pytest.mark.parametrize("supervise", ["all", "last"])
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("build", [byte_level, trimmed_byte_level, slow_bytes])
def test_many_turns(build, template, supervise):
    tokenizer = build(TEMPLATES[template])
    end = END.get(template, "<|end|>")
    system = None if template == "llama2" else "be kind"
    row = ConversationTokenizer(tokenizer, supervise=supervise, max_tokens=10_000)(
        conversation("a", "one", "b", "two two", "c", "three", system=system)
    )
    answers = ["one", "two two", "three"] if supervise == "all" else ["three"]
    # A token may hold the template's space before an answer with its first word.
    assert supervised_text(tokenizer, row).replace(f"{end} ", end).lstrip() == "".join(a + end for a in answers)
    assert row.supervised_tokens == row.answer_tokens + len(answers)
    assert tokenizer.decode(row.input_ids[slice(*row.answer_positions)]).lstrip() == "three"
    assert all(row.supervised[row.answer_positions[0] : row.answer_positions[1]])


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_template_words_inside_an_answer_do_not_end_it(template):
    tokenizer = byte_level(template)
    answer = "user\nassistant [INST] </s> <|start|>assistant\nno<|end|> more"
    row = ConversationTokenizer(tokenizer)(conversation("hello", answer))
    assert tokenizer.decode(row.input_ids[slice(*row.answer_positions)]).lstrip() == answer
    assert row.supervised_tokens == row.answer_tokens + 1


def test_same_answer_in_every_turn_and_in_the_prompt_is_told_apart():
    tokenizer = byte_level(CHATML)
    row = ConversationTokenizer(tokenizer)(conversation("yes", "yes", "yes", "yes"))
    assert supervised_text(tokenizer, row) == "yes<|end|>yes<|end|>"


@pytest.mark.parametrize("build", [byte_level, sentence_piece])
def test_mask_agrees_with_generation_markers(build):
    tokenizer = build(CHATML_MARKED)
    for answer in [*ANSWERS.values(), "  two spaces", "ends in space  "]:
        chat = conversation("hello", answer, "again", "x" + answer)
        turns = [{"role": m.role, "content": m.content} for m in chat.messages]
        expected = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
        row = ConversationTokenizer(tokenizer, max_tokens=10_000)(chat)
        assert row.input_ids == expected["input_ids"]
        assert [int(label) for label in row.supervised] == expected["assistant_masks"]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


@settings(max_examples=150, deadline=None)
@given(prompt=TEXT, answer=TEXT.filter(lambda text: text.strip()), trim=st.booleans())
def test_any_unicode_answer_is_masked_exactly_between_special_tokens(prompt, answer, trim):
    tokenizer = byte_level(TIGHT, trim)
    row = ConversationTokenizer(tokenizer, max_tokens=10_000)(conversation(prompt, answer))
    assert row.status == "ok"
    assert supervised_text(tokenizer, row) == answer + "<|end|>"


@settings(max_examples=150, deadline=None)
@given(
    answer=TEXT.filter(lambda text: text.strip()),
    template=st.sampled_from(sorted(TEMPLATES)),
    build=st.sampled_from([byte_level, trimmed_byte_level, slow_bytes]),
)
def test_only_whitespace_of_an_answer_can_stay_without_loss(answer, template, build):
    tokenizer = build(TEMPLATES[template])
    row = ConversationTokenizer(tokenizer, max_tokens=10_000)(conversation("hello", answer))
    masked = supervised_text(tokenizer, row).removesuffix(END.get(template, "<|end|>"))
    # Its edge whitespace may be trimmed by the template, or share a token with the template's newline.
    assert masked.strip() == answer.strip()
    assert masked in f" {answer} "


def test_leading_spaces_and_trailing_newlines_belong_to_the_answer():
    tokenizer = byte_level(CHATML)
    row = ConversationTokenizer(tokenizer)(conversation("hello", "  hello you\n"))
    assert supervised_text(tokenizer, row) == "  hello you\n<|end|>"


@pytest.mark.parametrize(
    ("answer", "labels"),
    [("fine", ["Ċfine", "<|end|>"]), ("\nfine", ["fine", "<|end|>"]), ("fine\n", ["Ċfine", "Ċ", "<|end|>"])],
)
def test_a_token_that_straddles_the_edge_counts_when_it_holds_more_than_whitespace(answer, labels):
    # Vocabulary in which the template's newline merges with the answer's first word, or with its first newline.
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [("f", "i"), ("fi", "n"), ("fin", "e"), ("Ċ", "Ċ"), ("Ċ", "fine")]
    tokens = [*SPECIAL, *alphabet, *("".join(pair) for pair in pairs)]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, pairs))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.add_special_tokens(SPECIAL)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=CHATML, eos_token="<|end|>")
    row = ConversationTokenizer(tokenizer)(conversation("a", answer))
    assert [tokenizer.convert_ids_to_tokens(row.input_ids[i]) for i in positions_of(row)] == labels


def test_word_level_tokenizer_without_space_tokens():
    tokenizer = word_level(
        "<|start|> {{ messages[0].content }} <|start|> {{ messages[1].content }} </s>", "what is it a cup"
    )
    row = ConversationTokenizer(tokenizer)(conversation("What is it", "it is a cup"))
    labels = [tokenizer.convert_ids_to_tokens(row.input_ids[i]) for i in positions_of(row)]
    assert labels == ["it", "is", "a", "cup", "</s>"]
    assert (row.prompt_tokens, row.answer_tokens, row.prompt_end, row.answer_end) == (5, 4, 4, 8)


def test_reasoning_template_that_rewrites_turns():
    tokenizer = byte_level(REASONING)
    plain = ConversationTokenizer(tokenizer)(conversation("a", "one", "b", "two"))
    assert supervised_text(tokenizer, plain) == "one<|end|>two<|end|>"
    assert "<think>\n\n</think>\n\ntwo" in tokenizer.decode(plain.input_ids)
    thought = "<think>\nhm\n</think>\n\n"
    with_thought = ConversationTokenizer(tokenizer)(conversation("a", f"{thought}one", "b", f"{thought}two"))
    text = supervised_text(tokenizer, with_thought)
    assert text.startswith("one<|end|>")
    assert text.endswith("hm\n</think>\n\ntwo<|end|>")


def test_template_that_keeps_only_the_last_exchange():
    tokenizer = byte_level(LAST_ONLY)
    row = ConversationTokenizer(tokenizer)(conversation("a", "one", "b", "two"))
    assert (row.status, supervised_text(tokenizer, row)) == ("ok", "two<|end|>")


def test_template_without_end_of_turn_token_is_said():
    tokenizer = byte_level(PLAIN)
    row = ConversationTokenizer(tokenizer)(conversation("a", "one", "b", "two"))
    assert supervised_text(tokenizer, row).split() == ["one", "two"]
    assert "without a special token" in check_template(tokenizer, "model").warnings[0]


@pytest.mark.parametrize("template", ["model", "he2024"])
@pytest.mark.parametrize("build", [byte_level, sentence_piece, slow_bytes])
def test_truncation_is_counted_at_every_length(build, template):
    tokenizer = build(TIGHT)
    chat = conversation("hello world", "the answer is four .", *(() if template == "he2024" else ("a", "fine")))
    whole = ConversationTokenizer(tokenizer, template, max_tokens=10_000)(chat)
    content = positions_of(whole)
    first = content[0]
    if template == "he2024":
        first = whole.answer_positions[0]
    for max_tokens in range(1, len(whole.input_ids) + 2):
        row = ConversationTokenizer(tokenizer, template, max_tokens=max_tokens)(chat)
        assert row.truncated_tokens == max(0, len(whole.input_ids) - max_tokens)
        if max_tokens <= first:
            assert row.status == "truncated_prompt"
            assert row.input_ids == []
        else:
            assert row.input_ids == whole.input_ids[:max_tokens]
            assert row.supervised == whole.supervised[:max_tokens]
            assert row.status == ("ok" if max_tokens > content[-1] else "truncated_answer")
            assert row.supervised[row.answer_end]
            assert row.answer_end < max_tokens
            assert row.answer_tokens <= whole.answer_tokens
        if row.status != "ok":
            assert str(max_tokens) in row.reason


def test_cut_conversation_points_at_the_last_turn_that_is_left():
    tokenizer = byte_level(CHATML)
    chat = conversation("hello", "one", "a very long question", "two")
    whole = ConversationTokenizer(tokenizer)(chat)
    row = ConversationTokenizer(tokenizer, max_tokens=whole.answer_positions[0])(chat)
    assert row.status == "truncated_answer"
    assert tokenizer.decode(row.input_ids[slice(*row.answer_positions)]) == "one"
    last = ConversationTokenizer(tokenizer, supervise="last", max_tokens=whole.answer_positions[0])(chat)
    assert last.status == "truncated_prompt"


def test_bad_rows_get_a_status_and_no_exception():
    tokenize = ConversationTokenizer(byte_level(LLAMA2))
    refused = tokenize(conversation("a", "b", system="c"))
    assert (refused.status, refused.reason) == (
        "malformed",
        "the chat template refuses this conversation: only user and assistant turns are supported",
    )
    assert tokenize(Conversation((Message("user", "a"),))).status == "no_answer"
    assert tokenize(conversation("a", " \n ")).status == "empty_answer"
    assert ConversationTokenizer(byte_level(CHATML))(conversation("a", "")).status == "empty_answer"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for m in messages %}{{ m.content }", "broken at its line 1"),
        ("{{ raise_exception('never') }}", "cannot render one question and one answer"),
        ("{{ messages[0].content }}", "leaves the assistant's answer out"),
    ],
)
def test_unusable_templates_are_one_sentence(template, said):
    with pytest.raises(PreflightError, match=said):
        ConversationTokenizer(byte_level(template))


def test_model_without_chat_template_names_the_way_out():
    with pytest.raises(PreflightError, match=r"set tokens.template to he2024 or to the path of a Jinja file"):
        ConversationTokenizer(byte_level(None))


def test_missing_template_file_is_one_sentence(tmp_path):
    with pytest.raises(PreflightError, match="neither model nor he2024 nor a readable Jinja file"):
        ConversationTokenizer(byte_level(CHATML), str(tmp_path / "none.jinja"))


def test_template_file_replaces_the_models_own(tmp_path):
    path = tmp_path / "tight.jinja"
    path.write_text(TIGHT)
    row = ConversationTokenizer(byte_level(CHATML), str(path))(SAMPLE)
    assert row == ConversationTokenizer(byte_level(TIGHT))(SAMPLE)


def test_tokens_do_not_depend_on_the_day():
    tokenizer = byte_level("{{ strftime_now('%d %b %Y') }} " + TIGHT)
    text = tokenizer.decode(ConversationTokenizer(tokenizer)(SAMPLE).input_ids)
    assert text.startswith("26 Jul 2024 ")


def test_check_template_decodes_a_sample_back():
    check = check_template(byte_level(CHATML), "model")
    assert check.supervised_text == "Two plus two is four.<|end|>"
    assert check.text.startswith("<|start|>user\nWhat is two plus two?<|end|>")
    assert check.warnings == ()


def test_a_tokenizer_travels_to_workers():
    tokenize = ConversationTokenizer(byte_level(CHATML))
    assert pickle.loads(pickle.dumps(tokenize))(SAMPLE) == tokenize(SAMPLE)


def test_an_answer_of_a_megabyte():
    tokenizer = byte_level(CHATML)
    answer = "the answer is four .\n" * 50_000
    row = ConversationTokenizer(tokenizer, max_tokens=64)(conversation("hello", answer))
    assert (row.status, len(row.input_ids)) == ("truncated_answer", 64)
    assert row.truncated_tokens > 100_000
