"""BM25 of every row against the anchors as queries: the baseline that looks at words only, in any language."""

from collections.abc import Mapping, Sequence

import polars as pl

from bds.scoring import columns

UNSPACED_SCRIPTS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
"""Scripts that write words without spaces: their runs become overlapping pairs of characters."""

SPACED_WORD = rf"[\p{{L}}\p{{M}}\p{{N}}--[{UNSPACED_SCRIPTS}]]+"
UNSPACED_RUN = rf"[{UNSPACED_SCRIPTS}]+"


def bm25_columns(texts: Sequence[str | None], anchors: Mapping[str, Sequence[str]]) -> pl.DataFrame:
    """One List(Float32) column `bm25.<set>`: for every row, its BM25 for every anchor of the set in order.

    BM25(row, query) = sum over the query's words w, repeats counted, of
        log(1 + (N - n_w + 1/2) / (n_w + 1/2)) * f_w / (f_w + k1 (1 - b + b |row| / mean |row|))
    with f_w the occurrences of w in the row, n_w the rows that hold w, |row| the row's words, k1 = 1.5, b = 0.75:
    Lucene's form (Kamphuis et al., ECIR 2020), as bm25s computes it. N, n_w and mean |row| are those of `texts`, so
    `texts` must be the WHOLE dataset. A row of None (it has no text) gets null and does not count among them.
    """
    from bm25s import BM25  # two seconds to import: only a run that scores bm25 pays them

    rows = [row for row, text in enumerate(texts) if text is not None]
    row_words = words([text for text in texts if text is not None])
    vocabulary: dict[str, int] = {}
    row_ids = [[vocabulary.setdefault(word, len(vocabulary)) for word in row] for row in row_words]
    index = BM25(method="lucene", k1=1.5, b=0.75, backend="numpy", csc_backend="numpy")
    if vocabulary:
        index.index((row_ids, vocabulary), create_empty_token=False, show_progress=False)

    def scores(query: list[str]) -> pl.Series:
        known = [vocabulary[word] for word in query if word in vocabulary]
        if not known:
            return pl.Series([0.0] * len(rows), dtype=pl.Float32)
        return pl.Series(index.get_scores_from_ids(known), dtype=pl.Float32)

    scored = pl.DataFrame(
        {
            columns.bm25(name): _as_lists([scores(query) for query in words(queries)])
            for name, queries in anchors.items()
        }
    )
    positions = pl.DataFrame({"row": rows}, schema={"row": pl.Int64})
    every_row = pl.DataFrame({"row": range(len(texts))}, schema={"row": pl.Int64})
    return every_row.join(
        pl.concat([positions, scored], how="horizontal"), on="row", how="left", maintain_order="left"
    ).drop("row")


def _as_lists(per_anchor: Sequence[pl.Series]) -> pl.Series:
    """Columns of one number an anchor as one column of lists."""
    numbered = pl.DataFrame([series.alias(str(number)) for number, series in enumerate(per_anchor)])
    return numbered.select(pl.concat_list(pl.all()).alias("scores"))["scores"]


def words(texts: Sequence[str]) -> list[list[str]]:
    """The words of every text: runs of letters, marks and digits, in lower case and compatibility form (NFKC).

    Runs of a script without spaces give overlapping pairs of characters ("abc" gives "ab", "bc"), a run of one itself.
    """
    plain = pl.Series(texts, dtype=pl.String).str.normalize("NFKC").str.to_lowercase()
    spaced = plain.str.extract_all(SPACED_WORD).to_list()
    unspaced = plain.str.extract_all(UNSPACED_RUN).to_list()
    return [
        found + [pair for run in runs for pair in _pairs(run)] for found, runs in zip(spaced, unspaced, strict=True)
    ]


def _pairs(run: str) -> list[str]:
    return [run[start : start + 2] for start in range(len(run) - 1)] or [run]
