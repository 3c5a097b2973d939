"""The papers' template, against the strings of their data loaders written out by hand."""

import pytest

from bds.data.formats import FORMATS
from bds.data.rows import Conversation, Message
from bds.data.templates import he2024_prompt
from bds.data.tokens import ConversationTokenizer, check_template
from tests.unit.data_tokenizers import byte_level, conversation, sentence_piece, slow_bytes

PLAIN = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
PAIRED = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)


def prompt(system: str, body: str) -> str:
    return f"[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{body} [/INST]"


CASES = {
    "alpaca": ({"instruction": "do", "input": "", "output": "o"}, PLAIN, "### Instruction:\ndo\n\n### Response:\n"),
    "alpaca with input": (
        {"instruction": "do", "input": "it", "output": "o"},
        PAIRED,
        "### Instruction:\ndo\n\n### Input:\nit\n\n### Response:\n",
    ),
    "dolly": ({"instruction": "do", "context": "", "response": "o"}, PLAIN, "### Instruction:\ndo\n\n### Response:\n"),
    "dolly with context": (
        {"instruction": "do", "context": "it", "response": "o"},
        PLAIN,
        "### Instruction:\ndo\n\nInput:\nit\n\n### Response:\n",
    ),
    "gsm8k": ({"question": "do", "answer": "o"}, PLAIN, "### Instruction:\ndo\n\n### Response:\n"),
}


@pytest.mark.parametrize(("name", "record", "system", "body"), [(k, *v) for k, v in CASES.items()], ids=CASES)
def test_prompt_of_each_corpus(name, record, system, body):
    assert he2024_prompt(FORMATS[name.split()[0]].to_conversation(record)) == prompt(system, body)


def test_anchors_have_no_instruction_wrapper_and_a_system_turn_takes_the_system_place():
    turns = (Message("user", "do"), Message("assistant", "o"))
    assert he2024_prompt(Conversation(turns, layout="anchor")) == prompt(PLAIN, "do")
    with_system = Conversation((Message("system", "be kind"), *turns))
    assert he2024_prompt(with_system) == prompt("be kind", "### Instruction:\ndo\n\n### Response:\n")


@pytest.mark.parametrize("build", [byte_level, sentence_piece, slow_bytes])
@pytest.mark.parametrize("answer", ["yes", "  two\n", "مرحبا 😀"])
def test_tokens_and_labels_are_those_of_the_papers_loader(build, answer):
    tokenizer = build(None)
    chat = conversation("do", answer)
    text = prompt(PLAIN, "### Instruction:\ndo\n\n### Response:\n")
    add_start = [tokenizer.bos_token_id] if build is sentence_piece else []
    prompt_ids = add_start + tokenizer(text, add_special_tokens=False)["input_ids"]
    example = (
        add_start + tokenizer(f"{text} {answer} ", add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    )
    row = ConversationTokenizer(tokenizer, "he2024")(chat)
    assert row.input_ids == example
    assert row.supervised == [index >= len(prompt_ids) for index in range(len(example))]
    assert row.supervised_tokens == len(example) - len(prompt_ids)
    assert row.prompt_end == row.prompt_tokens - 1
    start, end = row.answer_positions
    assert tokenizer.decode(row.input_ids[start:end]).strip() == answer.strip()
    assert end <= len(example) - 2 or not answer.strip()
    assert row.answer_tokens == end - start < row.supervised_tokens


def test_the_spaces_around_an_answer_are_labels_but_no_content():
    tokenizer = byte_level(None)
    row = ConversationTokenizer(tokenizer, "he2024")(conversation("do", "4"))
    labels = [tokenizer.decode([i]) for i, label in zip(row.input_ids, row.supervised, strict=True) if label]
    assert labels == [" ", "4", " ", "</s>"]
    assert (row.answer_tokens, row.supervised_tokens) == (1, 4)
    assert row.answer_positions == (row.prompt_tokens, row.prompt_tokens + 1)


def test_many_turns_do_not_fit_the_papers_template():
    row = ConversationTokenizer(byte_level(None), "he2024")(conversation("a", "b", "c", "d"))
    assert row.status == "malformed"
    assert (
        row.reason
        == "template he2024 holds one user turn and one answer, this row has user, assistant, user, assistant"
    )


def test_check_of_the_papers_template():
    check = check_template(byte_level(None), "he2024")
    assert check.supervised_text.strip() == "Two plus two is four. </s>"
    assert check.warnings == ()
