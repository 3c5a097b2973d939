"""Each dataset format as a conversation, and each way a record can fail to be one."""

import pytest

from bds.data.formats import FORMATS, choose_format, detect_format
from bds.data.rows import BadRow, Message
from bds.errors import PreflightError, SpecError

U, A, S = "user", "assistant", "system"

GOOD = {
    "alpaca": ({"instruction": "i", "input": "", "output": "o"}, [(U, "i"), (A, "o")]),
    "alpaca with input": ({"instruction": "i", "input": "x", "output": "o"}, [(U, "i\n\nx"), (A, "o")]),
    "alpaca without input": ({"instruction": "i", "output": "o"}, [(U, "i"), (A, "o")]),
    "alpaca null input": ({"instruction": "i", "input": None, "output": "o"}, [(U, "i"), (A, "o")]),
    "alpaca system": ({"instruction": "i", "output": "o", "system": "s"}, [(S, "s"), (U, "i"), (A, "o")]),
    "dolly": ({"instruction": "i", "context": "c", "response": "o", "category": "x"}, [(U, "i\n\nc"), (A, "o")]),
    "gsm8k": ({"question": "q", "answer": "a\n#### 4"}, [(U, "q"), (A, "a\n#### 4")]),
    "prompt_completion": ({"prompt": "p", "completion": " c"}, [(U, "p"), (A, " c")]),
    "columns": ({"prompt": "p", "answer": "c"}, [(U, "p"), (A, "c")]),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "h"}, {"from": "gpt", "value": "g"}]},
        [(U, "h"), (A, "g")],
    ),
    "messages": (
        {
            "messages": [
                {"role": S, "content": "s"},
                {"role": U, "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": A, "content": "c"},
                {"role": U, "content": "d"},
                {"role": A, "content": "e"},
            ]
        },
        [(S, "s"), (U, "ab"), (A, "c"), (U, "d"), (A, "e")],
    ),
    "messages joined": (
        {"messages": [{"role": U, "content": "a"}, {"role": U, "content": "b"}, {"role": A, "content": "c"}]},
        [(U, "a\n\nb"), (A, "c")],
    ),
    "messages leading assistant": (
        {"messages": [{"role": A, "content": "a"}, {"role": U, "content": "b"}, {"role": A, "content": "c"}]},
        [(A, "a"), (U, "b"), (A, "c")],
    ),
}


@pytest.mark.parametrize(("name", "record", "turns"), [(k, *v) for k, v in GOOD.items()], ids=GOOD)
def test_a_format_is_detected_and_read(name, record, turns):
    form = detect_format([record])
    assert form.name == name.split()[0]
    assert form.to_conversation(record).messages == tuple(Message(*turn) for turn in turns)


def test_parts_of_a_prompt_stay_apart_for_the_papers_template():
    alpaca = FORMATS["alpaca"].to_conversation(GOOD["alpaca with input"][0])
    dolly = FORMATS["dolly"].to_conversation(GOOD["dolly"][0])
    assert (alpaca.instruction, alpaca.context, alpaca.layout) == ("i", "x", "alpaca")
    assert (dolly.instruction, dolly.context, dolly.layout) == ("i", "c", "dolly")


BAD = {
    "null output": ("alpaca", {"instruction": "i", "output": None}, "malformed", "column 'output' is null, not text"),
    "number": ("gsm8k", {"question": "q", "answer": 4}, "malformed", "column 'answer' is a number, not text"),
    "list": ("alpaca", {"instruction": ["i"], "output": "o"}, "malformed", "column 'instruction' is a list, not text"),
    "missing": ("alpaca", {"instruction": "i"}, "malformed", "column 'output' is missing; this row has instruction"),
    "empty": ("alpaca", {"instruction": "i", "output": ""}, "empty_answer", "the last assistant turn holds no text"),
    "whitespace": ("alpaca", {"instruction": "i", "output": " \n\t\u00a0"}, "empty_answer", "the last assistant turn"),
    "surrogate": ("gsm8k", {"question": "q", "answer": "\ud83d"}, "malformed", "half of a surrogate pair"),
    "no turns": ("messages", {"messages": []}, "no_answer", "no assistant turn"),
    "user only": ("messages", {"messages": [{"role": U, "content": "a"}]}, "no_answer", "no assistant turn"),
    "null turns": ("messages", {"messages": None}, "malformed", "column 'messages' is null, not a list of turns"),
    "text turns": ("messages", {"messages": "hi"}, "malformed", "column 'messages' is text, not a list of turns"),
    "text turn": ("messages", {"messages": ["hi"]}, "malformed", "turn 1 of 'messages' is text, not an object"),
    "no content": ("messages", {"messages": [{"role": U}]}, "malformed", "turn 1 of 'messages' has no 'content'"),
    "null content": (
        "messages",
        {"messages": [{"role": A, "content": None}]},
        "malformed",
        "turn 1 of 'messages' is null",
    ),
    "tool": ("messages", {"messages": [{"role": "tool", "content": "x"}]}, "malformed", "has the role 'tool'"),
    "null role": ("messages", {"messages": [{"role": None, "content": "x"}]}, "malformed", "has the role None"),
    "image": (
        "messages",
        {"messages": [{"role": U, "content": [{"type": "image_url"}]}]},
        "malformed",
        "a part of type 'image_url'; only text can be scored",
    ),
    "null part": ("messages", {"messages": [{"role": U, "content": [None]}]}, "malformed", "a part of type 'null'"),
    "null text part": (
        "messages",
        {"messages": [{"role": U, "content": [{"type": "text", "text": None}]}]},
        "malformed",
        "turn 1 of 'messages' is null, not text",
    ),
    "empty last": (
        "sharegpt",
        {
            "conversations": [
                {"from": "gpt", "value": "a"},
                {"from": "human", "value": "b"},
                {"from": "gpt", "value": " "},
            ]
        },
        "empty_answer",
        "the last assistant turn holds no text",
    ),
}


@pytest.mark.parametrize(("name", "record", "status", "said"), BAD.values(), ids=BAD)
def test_a_bad_record_has_a_status_and_a_reason(name, record, status, said):
    with pytest.raises(BadRow, match=said) as caught:
        FORMATS[name].to_conversation(record)
    assert caught.value.status == status


def test_detection_takes_the_format_of_most_records_and_whole_conversations_first():
    alpaca, gsm8k = GOOD["alpaca"][0], GOOD["gsm8k"][0]
    assert detect_format([gsm8k, alpaca, alpaca]).name == "alpaca"
    both = {**GOOD["prompt_completion"][0], **GOOD["messages"][0]}
    assert detect_format([both]).name == "messages"


def test_columns_map_any_names():
    record = {"ask": "p", "reply": "a", "persona": "s", "extra": "x"}
    form = choose_format("auto", {"prompt": "ask", "answer": "reply", "system": "persona", "input": "extra"}, [record])
    conversation = form.to_conversation(record)
    assert [m.content for m in conversation.messages] == ["s", "p\n\nx", "a"]
    turns = choose_format("columns", {"messages": "chat"}, [{"chat": GOOD["messages"][0]["messages"]}])
    assert len(turns.to_conversation({"chat": GOOD["messages"][0]["messages"]}).messages) == 5
    with pytest.raises(BadRow, match="column 'chat' is missing"):
        turns.to_conversation({"other": 1})


@pytest.mark.parametrize(
    ("name", "mapping", "said"),
    [
        ("auto", {"prompt": "ask", "answer": "nope"}, "maps answer to the column 'nope', .* it has ask, reply"),
        ("auto", {"prompt": "ask"}, "the role 'answer' is missing"),
        ("auto", {"prompt": "ask", "anwser": "reply"}, "'anwser' is no role; use prompt, answer"),
        ("auto", {"messages": "ask", "system": "reply"}, "give it alone"),
        ("alpaca", {"prompt": "ask", "answer": "reply"}, "exclude each other"),
        ("alpacca", None, "'alpacca' is unknown; use auto or one of messages, sharegpt, alpaca"),
        ("alpaca", None, "needs the columns instruction, output, but the data has ask, reply"),
    ],
)
def test_a_wrong_spec_is_one_sentence(name, mapping, said):
    with pytest.raises(SpecError, match=said):
        choose_format(name, mapping, [{"ask": "p", "reply": "a"}])


def test_unknown_columns_are_listed_with_a_mapping_to_paste():
    with pytest.raises(
        PreflightError, match=r"the columns Query, Reply, id; .* data.columns: \{prompt: Query, answer: Reply\}"
    ):
        detect_format([{"Query": "p", "Reply": "a"}, {"id": 3}])
