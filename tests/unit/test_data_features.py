"""Feature columns on hand-made cases, in ordinary text and in the spaced lower case of the made-up world."""

import dataclasses
import time

import pytest

from bds.data.features import QUESTION_TYPES, TextFeatures, count_words, text_features
from bds.scoring import columns

NUMBERED = {
    "1. Mix the flour.\n2. Bake.": True,
    "Steps:\n\n 1) cut\n 2) fold": True,
    "**1. Plan**: think\n**2. Act**: go": True,
    "Step 1: cut\nStep 2: fold": True,
    "1 . take the bowl 2 . cut the edge": True,
    "sure , here is how : 1 . take the bowl 2 . cut the edge 3 . check the soup": True,
    "It costs 1.20 dollars, then 2.40.": False,
    "the answer is 1 2 .": False,
    "1. only one item": False,
    "2. second\n3. third": False,
    "In 2010. we met": False,
}
BULLETS = {
    "- one\n- two": True,
    "* one\n  * two": True,
    "• one\n• two": True,
    "- only one": False,
    "well - known - words": False,
    "-1\n-2": False,
}
MATH = {
    "48/2 = <<48/2=24>>24": True,
    "what is 3 + 4 ?": True,
    "7 - 2": True,
    "x = 24": True,
    r"\frac{1}{2}": True,
    "so $x^2$ grows": True,
    "3 × 4": True,
    "from 2010-2020 and 1/2 cup of 3/4": False,
    "I paid $5 and $6": False,
    "see page?id=5": False,
    "call 555-1234": False,
}
CODE = {
    "```python\nx = 1\n```": True,
    "def add(a, b):\n    return a + b": True,
    "import numpy as np": True,
    "SELECT name FROM users WHERE id = 1": True,
    "<div>hi</div>": True,
    "console.log('x')": True,
    "#include <stdio.h>": True,
    "import the goods from abroad": False,
    "a class of its own: yes": False,
    "select a shirt from the rack": False,
}
REFUSALS = {
    "i cannot help with that request .": True,
    "I can’t assist with that.": True,
    "I'm sorry, but I can't do that.": True,
    "sorry , i can ' t help with that .": True,
    "As an AI language model, I have no opinion.": True,
    "I must decline.": True,
    "i cannot see that , but you can look outside .": False,
    "You can help with that.": False,
    "I am sorry for your loss.": False,
}
SAFETY = {
    "That would be illegal.": True,
    "Please consult a licensed medical professional.": True,
    "Seek professional help.": True,
    "It is not safe to mix these.": True,
    "the law of gravity is safe and sound": False,
    "to make bread , take the bowl": False,
}
QUESTIONS = {
    "list three kinds of kitchen": "list",
    "Give me 5 ideas for dinner": "list",
    "What are the three primary colors?": "list",
    "how do i make bread ?": "how_to",
    "Describe a process of making crepes.": "how_to",
    "explain how to build fence": "how_to",
    "give me steps to make soup": "how_to",
    "i want to make soup . what should i do ?": "how_to",
    "Can you tell me how to swim?": "how_to",
    "why is the sky blue": "why",
    "Explain why leaves fall.": "why",
    "where can i get bread ?": "who_when_where",
    "Who wrote this?": "who_when_where",
    "what is bread ?": "what",
    "define bread": "what",
    "is bread a kind of kitchen ?": "yes_no",
    "Please summarize the following text: how do I": "rewrite",
    "translate : bowl": "rewrite",
    "what is 3 + 4 ?": "math",
    "Tom has 3 apples. He gets 4. How many apples does he have?": "math",
    "Write a Python function that adds": "code",
    "Write an SQL query for all users": "code",
    "write a short story about bread": "write",
    "tell me a story about bread": "write",
    "Classify these animals.": "classify",
    "Produce a list of the top 5 teams": "list",
    "How would you greet a guest?": "how_to",
    "bread": "other",
    "": "other",
    "The cat sat on the mat. Why did it do so?": "why",
}


def cases(table):
    return pytest.mark.parametrize(("text", "expected"), table.items())


@cases(NUMBERED)
def test_numbered_list(text, expected):
    assert text_features("", text).numbered_list is expected


@cases(BULLETS)
def test_bullet_list(text, expected):
    assert text_features("", text).bullet_list is expected


@cases(MATH)
def test_math_in_prompt_or_answer(text, expected):
    assert text_features("", text).math is expected
    assert text_features(text, "").math is expected


@cases(CODE)
def test_code_in_prompt_or_answer(text, expected):
    assert text_features("", text).code is expected
    assert text_features(text, "").code is expected


@cases(REFUSALS)
def test_refusal_phrase_in_the_answer_only(text, expected):
    assert text_features("", text).refusal_phrase is expected
    assert text_features(text, "").refusal_phrase is False


@cases(SAFETY)
def test_safety_phrase_in_the_answer_only(text, expected):
    assert text_features("", text).safety_phrase is expected
    assert text_features(text, "").safety_phrase is False


@cases(QUESTIONS)
def test_question_type(text, expected):
    assert text_features(text, "").question_type == expected
    assert expected in QUESTION_TYPES


def test_words_and_short_answers():
    assert count_words("to make bread , take the bowl .") == 6
    assert count_words("It's well-known: 3.5 kg!") == 4
    assert count_words("你好世界") == 4
    assert text_features("", "one two three four five .").short_answer
    assert not text_features("", "one two three four five six").short_answer


def test_features_are_the_columns_of_the_contract():
    for field in dataclasses.fields(TextFeatures):
        assert field.name in columns.__doc__


@pytest.mark.parametrize(
    "unit", ["a", " ", "\n", "\n ", "1 . ", "$", "select ", "i can't ", "?", "def x:", "「", "a.", "' ", "- "]
)
def test_time_grows_with_the_length_and_not_faster(unit):
    def seconds(characters: int) -> float:
        text = unit * (characters // len(unit))
        start = time.process_time()
        text_features(text, text)
        return time.process_time() - start

    # A quadratic pattern would take 100 times as long; 40 leaves room for a noisy clock.
    assert seconds(100_000) < 40 * max(seconds(10_000), 0.002)
