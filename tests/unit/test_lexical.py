"""BM25: the closed form written out, a case worked by hand, words of many scripts."""

import json
import math
import os
import subprocess
import sys
from collections import Counter

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bds.scoring.lexical import bm25_columns, words


def closed_form(texts: list[str | None], query: str, k1: float = 1.5, b: float = 0.75) -> list[float | None]:
    """Lucene's BM25 straight from its definition, with whitespace for words."""
    rows = [text.split() for text in texts if text is not None]
    mean_length = sum(map(len, rows)) / max(1, len(rows))
    scores: list[float | None] = []
    for text in texts:
        if text is None:
            scores.append(None)
            continue
        score = 0.0
        for word in query.split():
            holding = sum(word in row for row in rows)
            occurrences = Counter(text.split())[word]
            if occurrences:
                idf = math.log(1 + (len(rows) - holding + 0.5) / (holding + 0.5))
                length_part = k1 * (1 - b + b * len(text.split()) / mean_length)
                score += idf * occurrences / (occurrences + length_part)
        scores.append(score)
    return scores


def test_worked_by_hand():
    """Two rows of two words: mean length 2, so every length part is k1 = 1.5. 'lamp' is in one row, 'blue' in both."""
    table = bm25_columns(["blue lamp", "blue blue"], {"harmful": ["lamp", "blue"]})
    lamp = math.log(1 + (2 - 1 + 0.5) / (1 + 0.5)) * 1 / (1 + 1.5)
    blue = math.log(1 + (2 - 2 + 0.5) / (2 + 0.5))
    expected = [[lamp, blue * 1 / (1 + 1.5)], [0.0, blue * 2 / (2 + 1.5)]]
    assert lamp == pytest.approx(math.log(2) / 2.5)
    assert table["bm25.harmful"].to_list() == [pytest.approx(row, rel=1e-6) for row in expected]


vocabulary = st.sampled_from(["lamp", "river", "stone", "blue", "seven"])
sentences = st.lists(vocabulary, max_size=8).map(" ".join)


@settings(deadline=None, max_examples=60)
@given(texts=st.lists(st.one_of(st.none(), sentences), max_size=8), queries=st.lists(sentences, min_size=1, max_size=3))
def test_equals_the_closed_form(texts, queries):
    table = bm25_columns(texts, {"harmful": queries, "safe": [queries[0]]})
    assert table.schema == {"bm25.harmful": pl.List(pl.Float32), "bm25.safe": pl.List(pl.Float32)}
    assert table.height == len(texts)
    expected = [closed_form(texts, query) for query in queries]
    for row, found in enumerate(table["bm25.harmful"].to_list()):
        if texts[row] is None:
            assert found is None
        else:
            assert found == pytest.approx([scores[row] for scores in expected], rel=1e-5, abs=1e-7)
    firsts = [None if found is None else found[:1] for found in table["bm25.harmful"].to_list()]
    assert table["bm25.safe"].to_list() == firsts


def test_words_of_many_scripts():
    assert words(["Stop the BLUE-lamp's 7th wire!"]) == [["stop", "the", "blue", "lamp", "s", "7th", "wire"]]
    assert words(["हिन्दी में"]) == [["हिन्दी", "में"]], "vowel signs belong to the word"
    assert words(["السلام عليكم"]) == [["السلام", "عليكم"]]
    assert words(["ﬁne Ａ１"]) == [["fine", "a1"]], "compatibility forms are one with the plain letters"
    assert words(["日本語 lamp"]) == [["lamp", "日本", "本語"]]
    assert words(["水", "", "😀 !?"]) == [["水"], [], []]


def test_text_without_spaces_is_matched_in_part():
    scores = bm25_columns(["青い灯台の下", "赤い石の上", "lamp"], {"harmful": ["灯台"]})["bm25.harmful"].to_list()
    assert scores[0][0] > 0
    assert scores[1:] == [[0.0], [0.0]]


def test_nothing_to_compare():
    assert bm25_columns(["", None], {"harmful": ["lamp"]})["bm25.harmful"].to_list() == [[0.0], None]
    assert bm25_columns(["lamp"], {"harmful": ["?!"]})["bm25.harmful"].to_list() == [[0.0]]


def test_same_numbers_in_another_process_and_nothing_is_printed():
    """Another hash seed orders every set of words in another way."""
    texts = [" ".join(f"word{(7 * row + 3 * place * place) % 40}" for place in range(12)) for row in range(50)]
    program = (
        "import json, sys; from bds.scoring.lexical import bm25_columns; texts = json.load(sys.stdin);"
        "print(json.dumps(bm25_columns(texts, {'harmful': texts[:9]})['bm25.harmful'].to_list()))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(texts),
        env={**os.environ, "PYTHONHASHSEED": "20"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(run.stdout) == bm25_columns(texts, {"harmful": texts[:9]})["bm25.harmful"].to_list()
    assert run.stderr == ""
