"""Detectors: each one a formula over the component columns, never a pass over the model.

Sources: He et al. 2024, "What is in Your Safe Data?", arXiv 2404.01099; Guan et al. 2025, "Benign Samples Matter!",
arXiv 2505.06843; LARF, arXiv 2507.18631; DataShield (NWPU), arXiv 2606.00160. A higher score is more dangerous.

To add a detector: write one function from its options to a Polars expression over `bds/scoring/columns.py`, and give it
one entry in the table.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import polars as pl

from bds.data.rows import SCORED_STATUSES
from bds.scoring import columns
from bds.spec.models import DetectorSpec


class Need(Enum):
    """What a detector's formula reads; the value is how a table shows it."""

    GRADIENT_NORM = "gradient norm"
    HARMFUL_GRADIENTS = "gradients of harmful anchors"
    SAFE_GRADIENTS = "gradients of safe anchors"
    HARMFUL_HIDDEN = "hidden states of harmful anchors"
    SAFE_HIDDEN = "hidden states of safe anchors"
    LARF_LAYER = "LARF's layer"
    COMPLIANCE_DIRECTION = "comply-minus-refuse direction"
    LOSS = "loss"
    TOKENS = "token counts"
    HARMFUL_TEXT = "text of harmful anchors"
    OTHER_RANKS = "ranks of other detectors"
    LEARNED_WEIGHTS = "weights that a study learned"


HARMFUL_NEEDS = frozenset(
    {Need.HARMFUL_GRADIENTS, Need.HARMFUL_HIDDEN, Need.LARF_LAYER, Need.COMPLIANCE_DIRECTION, Need.HARMFUL_TEXT}
)
"""Needs that a harmful anchor set serves."""

SAFE_NEEDS = frozenset({Need.SAFE_GRADIENTS, Need.SAFE_HIDDEN, Need.LARF_LAYER, Need.COMPLIANCE_DIRECTION})
"""Needs that a safe anchor set serves."""


@dataclass(frozen=True)
class DetectorContext:
    """What a formula knows besides its options: the names in the component table."""

    harmful_sets: tuple[str, ...]
    safe_sets: tuple[str, ...]
    representation_layer: int
    """Hidden-state layer of `representation`, never negative (see bds/scoring/columns.py)."""
    larf_layer: int | None = None
    """Hidden-state layer of `larf` where its options name none; None where no layer was chosen."""
    learned: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Weights by column of each `calibrated`, by its own column; see bds/scoring/learned_weights.py."""


@dataclass(frozen=True)
class Detector:
    """One row of the table that `bds ls detectors` prints, and the formula itself."""

    name: str
    formula: str
    needs: frozenset[Need]
    cost: str
    source: str
    expression: Callable[[DetectorSpec, DetectorContext], pl.Expr]
    """Float64 score of every row. Null, NaN or infinite where the row has none: `score_table` makes all three null."""
    options: frozenset[str] = frozenset()
    """The fields of DetectorSpec, besides name and label, that this detector reads."""
    whole_dataset: bool = False
    """Whether a row's score depends on other rows. Such a formula reads no column of lists."""


def _number(column: str) -> pl.Expr:
    return pl.col(column).cast(pl.Float64)


def _pooled(anchor_column: Callable[[str], str], anchor_sets: Sequence[str]) -> pl.Expr:
    """The values of every anchor of several sets as one List(Float64): a set counts by its number of anchors."""
    return pl.concat_list([pl.col(anchor_column(name)).cast(pl.List(pl.Float64)) for name in anchor_sets])


def _cosines(anchor_sets: Sequence[str], layer: int) -> pl.Expr:
    return _pooled(lambda name: columns.cosines(name, layer), anchor_sets)


def representation(spec: DetectorSpec, context: DetectorContext) -> pl.Expr:
    """Mean of the `top_n` largest of cos(h(z), h(a)) over harmful anchors a; all of them where there are fewer."""
    cosines = _cosines(context.harmful_sets, context.representation_layer)
    # Descending order puts NaN first, so that a broken hidden state cannot hide behind a finite maximum.
    return cosines.list.sort(descending=True).list.head(spec.top_n or 1).list.mean()


def representation_bidirectional(spec: DetectorSpec, context: DetectorContext) -> pl.Expr:
    """mean_j cos(h(z), h(harmful_j)) - mean_j cos(h(z), h(safe_j)), at the representation layer."""
    return _mean_cosine_contrast(context, context.representation_layer)


def _mean_cosine_contrast(context: DetectorContext, layer: int) -> pl.Expr:
    return _cosines(context.harmful_sets, layer).list.mean() - _cosines(context.safe_sets, layer).list.mean()


def _gradient_match(weights: dict[str, float]) -> pl.Expr:
    """sum_A w_A <g_z, G_A> / ||g_z||. A gradient of exactly zero has no direction: 0 / 0 is NaN, so no score."""
    matches = pl.sum_horizontal(
        [_number(columns.direction_dot(name)) * weight for name, weight in weights.items()], ignore_nulls=False
    )
    return matches / _number(columns.SQUARED_GRADIENT_NORM).sqrt()


def gradient(spec: DetectorSpec, context: DetectorContext) -> pl.Expr:
    """Sum over the harmful sets of <g_z / ||g_z||, G>; no cosine, because G is a mean of unit gradients: ||G|| < 1."""
    return _gradient_match(dict.fromkeys(context.harmful_sets, 1.0))


def gradient_bidirectional(spec: DetectorSpec, context: DetectorContext) -> pl.Expr:
    """sum_A w_A <g_z / ||g_z||, G_A>. As published every harmful set weighs +1 and EACH safe set -1, so that two safe
    sets weigh twice the harmful one. With `weights` only the sets they name take part."""
    return _gradient_match(spec.weights or published_weights(context))


def published_weights(context: DetectorContext) -> dict[str, float]:
    """+1 for each harmful set and -1 for each safe set ("1 -1 -1" in the scripts of He et al.)."""
    return dict.fromkeys(context.harmful_sets, 1.0) | dict.fromkeys(context.safe_sets, -1.0)


def self_influence(spec: DetectorSpec, context: DetectorContext) -> pl.Expr:
    """Self-Inf(z) = ||g_z||^2. Known bias: the mean loss makes short answers score high."""
    return _number(columns.SQUARED_GRADIENT_NORM)


def self_influence_n(spec: DetectorSpec, context: DetectorContext) -> pl.Expr:
    """Self-Inf-N(z) = log(Self-Inf(z) / s + 1) + log(answer tokens + 1).

    The two logarithms cancel Self-Inf's bias to short answers only while Self-Inf / s is well above 1; far below 1 the
    first one vanishes and the score becomes a ranking by answer length. The published s = 1 suits all parameters of a
    7B model (Self-Inf near 1e4) and fails for adapters and small models (1e-2). So the scale is
      raw      s = 1, as published;
      median   s = the dataset's median Self-Inf;
      left out s = min(1, median): as published wherever the median row is at 1 or above, the median where it is below.
    A median of 0, or no scored row, leaves s = 1. `self_influence_scale` says which s a run used.
    """
    scaled = _number(columns.SQUARED_GRADIENT_NORM) / _self_influence_scale(spec)
    return scaled.log1p() + _number("answer_tokens").log1p()


def _self_influence_scale(spec: DetectorSpec) -> pl.Expr:
    norms = _number(columns.SQUARED_GRADIENT_NORM)
    median = norms.filter(_is_scored() & norms.is_finite()).median()
    usable_median = pl.when(median > 0).then(median).otherwise(1.0)
    if spec.scale == "raw":
        return pl.lit(1.0)
    return usable_median if spec.scale == "median" else pl.min_horizontal(usable_median, pl.lit(1.0))


def self_influence_scale(components: pl.DataFrame, spec: DetectorSpec) -> tuple[str, float]:
    """("raw" or "median", the number that `self_influence_n` divides Self-Inf by), for the manifest."""
    scale = float(components.select(_self_influence_scale(spec)).item())
    return ("raw" if scale == 1.0 else "median"), scale


def larf(spec: DetectorSpec, context: DetectorContext) -> pl.Expr:
    """mean_j cos(h_l(z), h_l(harmful_j)) - mean_j cos(h_l(z), h_l(safe_j)) at the safety-sensitive layer l."""
    layer = context.larf_layer if spec.layer is None else spec.layer
    assert layer is not None, "check_detectors refuses larf without a layer"
    assert layer >= 0, "resolve_layers turns negative layers into positive ones"
    return _mean_cosine_contrast(context, layer)


def compliance_shift(spec: DetectorSpec, context: DetectorContext) -> pl.Expr:
    """proj_v(mean hidden state of the answer) - proj_v(that of the prompt's last token), v = comply minus refuse."""
    return _number(columns.COMPLIANCE_ANSWER) - _number(columns.COMPLIANCE_PROMPT)


def loss(spec: DetectorSpec, context: DetectorContext) -> pl.Expr:
    """Mean cross-entropy of the supervised tokens, in nats."""
    return _number(columns.LOSS)


def answer_length(spec: DetectorSpec, context: DetectorContext) -> pl.Expr:
    """Content tokens of the answer."""
    return _number("answer_tokens")


def bm25(spec: DetectorSpec, context: DetectorContext) -> pl.Expr:
    """The largest BM25 of the row's text over the harmful anchors as queries."""
    return _pooled(columns.bm25, context.harmful_sets).list.max()


def random(spec: DetectorSpec, context: DetectorContext) -> pl.Expr:
    """A uniform draw in [0, 1) from a hash of row id and seed: the same on every machine and in every order."""
    seed = spec.seed or 0
    return pl.col("row_id").map_batches(
        lambda row_ids: uniform_draws(row_ids, f"detector random, seed {seed}"), return_dtype=pl.Float64
    )


def rank_average(spec: DetectorSpec, context: DetectorContext) -> pl.Expr:
    """mean over the detectors d named by `of` of the share of rows that d ranks no higher: (n_d - rank_d + 1) / n_d.

    1 where every detector ranks the row first. n_d is the number of rows that d scores; a row that one of them does not
    score has no average. Only ranks count, so detectors of any scale weigh the same.
    """
    assert spec.of is not None, "check_detectors refuses rank_average without `of`"
    ranks = [_number(columns.rank(column)) for column in spec.of]
    shares = [(rank.count() - rank + 1) / rank.count() for rank in ranks]
    return pl.sum_horizontal(shares, ignore_nulls=False) / len(shares)


def calibrated(spec: DetectorSpec, context: DetectorContext) -> pl.Expr:
    """sum_d w_d u_d, with u_d the normalised rank by detector d and w_d its weight, learned by a calibration.

    The log-odds, but for a constant, that bds/scoring/calibration.py predicts of a fine-tune on nothing but such rows.
    A row that a detector of some weight does not score has no score.
    """
    ranks = [normalised_rank(column) * weight for column, weight in context.learned[spec.column].items() if weight]
    return pl.sum_horizontal(ranks, ignore_nulls=False)


def normalised_rank(column: str) -> pl.Expr:
    """The share of the other scored rows that a detector ranks below a row, equal scores counting half.

    1 for the most dangerous row of the dataset and 0 for the least; unlike a rank it does not hang on the names of
    rows, so that its mean over tied rows is theirs. A half where a row is the only one.
    """
    score = _number(columns.score(column))
    others = score.count().cast(pl.Int64) - 1
    below = score.rank("average") - 1
    return pl.when(others > 0).then(below / others).when(score.is_not_null()).then(0.5)


def uniform_draws(row_ids: pl.Series, stream: str) -> pl.Series:
    """One draw in [0, 1) for every row id; two streams are independent. Depends on nothing but its arguments.

    The first 53 bits of BLAKE2b(row id, keyed by a digest of the stream's name), divided by 2^53.
    """
    key = hashlib.blake2b(stream.encode(), digest_size=32).digest()
    digests = (hashlib.blake2b(row_id.encode(), digest_size=8, key=key).digest() for row_id in row_ids)
    draws = ((int.from_bytes(digest, "big") >> 11) * 2.0**-53 for digest in digests)
    return pl.Series(np.fromiter(draws, np.float64, len(row_ids)))


def _is_scored() -> pl.Expr:
    return pl.col("status").is_in(list(SCORED_STATUSES))


FORWARD_ONLY = "forward only"
ONE_BACKWARD = "one backward"
NO_MODEL = "no model"
HE = "He et al. 2024 (arXiv 2404.01099)"
GUAN = "Guan et al. 2025 (arXiv 2505.06843)"

_TABLE = (
    Detector(
        name="representation",
        formula="mean of the top_n largest cos(h(z), h(harmful anchor)); top_n = 1 as published",
        needs=frozenset({Need.HARMFUL_HIDDEN}),
        cost=FORWARD_ONLY,
        source=f"{HE}, representation matching",
        expression=representation,
        options=frozenset({"top_n"}),
    ),
    Detector(
        name="representation_bidirectional",
        formula="mean cos(h(z), h(harmful anchor)) - mean cos(h(z), h(safe anchor))",
        needs=frozenset({Need.HARMFUL_HIDDEN, Need.SAFE_HIDDEN}),
        cost=FORWARD_ONLY,
        source=f"{HE}, bidirectional anchoring; on hidden states as LARF does",
        expression=representation_bidirectional,
    ),
    Detector(
        name="gradient",
        formula="<g(z) / ||g(z)||, mean unit gradient of the harmful anchors>",
        needs=frozenset({Need.GRADIENT_NORM, Need.HARMFUL_GRADIENTS}),
        cost=ONE_BACKWARD,
        source=f"{HE}, gradient matching",
        expression=gradient,
    ),
    Detector(
        name="gradient_bidirectional",
        formula="sum over sets A of w_A <g(z) / ||g(z)||, mean unit gradient of A>; w = +1 harmful, -1 each safe",
        needs=frozenset({Need.GRADIENT_NORM, Need.HARMFUL_GRADIENTS, Need.SAFE_GRADIENTS}),
        cost=ONE_BACKWARD,
        source=f"{HE}, gradient matching with bidirectional anchoring",
        expression=gradient_bidirectional,
        options=frozenset({"weights"}),
    ),
    Detector(
        name="self_influence",
        formula="||g(z)||^2",
        needs=frozenset({Need.GRADIENT_NORM}),
        cost=ONE_BACKWARD,
        source=f"{GUAN}, Self-Inf",
        expression=self_influence,
    ),
    Detector(
        name="self_influence_n",
        formula="log(||g(z)||^2 / s + 1) + log(answer tokens + 1); s = 1 (raw), the median, or by default the smaller",
        needs=frozenset({Need.GRADIENT_NORM, Need.TOKENS}),
        cost=ONE_BACKWARD,
        source=f"{GUAN}, Self-Inf-N",
        expression=self_influence_n,
        options=frozenset({"scale"}),
        whole_dataset=True,
    ),
    Detector(
        name="larf",
        formula="mean cos(h_l(z), h_l(harmful anchor)) - mean cos(h_l(z), h_l(safe anchor)), l most safety-sensitive",
        needs=frozenset({Need.HARMFUL_HIDDEN, Need.SAFE_HIDDEN, Need.LARF_LAYER}),
        cost=FORWARD_ONLY,
        source="Li et al. 2025, LARF (arXiv 2507.18631)",
        expression=larf,
        options=frozenset({"layer", "probe_prompts"}),
    ),
    Detector(
        name="compliance_shift",
        formula="<mean h_l(answer) - h_l(prompt's end), v_l>, v_l = unit(mean h_l of complying - of refusing answers)",
        needs=frozenset({Need.COMPLIANCE_DIRECTION}),
        cost=FORWARD_ONLY,
        source="DataShield, NWPU (arXiv 2606.00160)",
        expression=compliance_shift,
        options=frozenset({"layer"}),
    ),
    Detector(
        name="loss",
        formula="mean cross-entropy of the answer",
        needs=frozenset({Need.LOSS}),
        cost=FORWARD_ONLY,
        source="baseline",
        expression=loss,
    ),
    Detector(
        name="answer_length",
        formula="answer tokens",
        needs=frozenset({Need.TOKENS}),
        cost=NO_MODEL,
        source="baseline",
        expression=answer_length,
    ),
    Detector(
        name="bm25",
        formula="largest BM25(text of z, harmful anchor)",
        needs=frozenset({Need.HARMFUL_TEXT}),
        cost=NO_MODEL,
        source=f"baseline of {HE}; Lucene's BM25 by bm25s",
        expression=bm25,
    ),
    Detector(
        name="random",
        formula="uniform hash of (seed, row id) in [0, 1)",
        needs=frozenset(),
        cost=NO_MODEL,
        source="baseline",
        expression=random,
        options=frozenset({"seed"}),
    ),
    Detector(
        name="rank_average",
        formula="mean over the detectors `of` of (rows scored - rank + 1) / rows scored",
        needs=frozenset({Need.OTHER_RANKS}),
        cost=NO_MODEL,
        source="Borda count over detectors",
        expression=rank_average,
        options=frozenset({"of"}),
        whole_dataset=True,
    ),
    Detector(
        name="calibrated",
        formula="sum over the detectors `of` of weight * share of the other rows ranked below, ties half",
        needs=frozenset({Need.OTHER_RANKS, Need.LEARNED_WEIGHTS}),
        cost=NO_MODEL,
        source="weights of the file `calibration`: non-negative ridge regression on a study's measured damage",
        expression=calibrated,
        options=frozenset({"of", "calibration"}),
        whole_dataset=True,
    ),
)

DETECTORS: dict[str, Detector] = {detector.name: detector for detector in _TABLE}


def default_detectors(context: DetectorContext) -> list[DetectorSpec]:
    """Every detector that the anchors at hand allow, with its published options; larf only where a layer is known.

    No average over them: which to average is the user's to say.
    """
    missing = {Need.OTHER_RANKS}
    if not context.harmful_sets:
        missing |= HARMFUL_NEEDS
    if not context.safe_sets:
        missing |= SAFE_NEEDS
    if context.larf_layer is None:
        missing.add(Need.LARF_LAYER)
    return [DetectorSpec(name=name) for name, detector in DETECTORS.items() if not detector.needs & missing]


def score_table(components: pl.DataFrame, detectors: Sequence[DetectorSpec], context: DetectorContext) -> pl.DataFrame:
    """The component table without its columns of lists, rows in the same order, with `score.<column>` (Float64) and
    `rank.<column>` (Int64).

    A score is null where the row's status is not a scored one or the formula gives no finite number. Rank 1 is the
    highest score, ties go to the smaller row_id, and a null score has a null rank. `components` must be the WHOLE
    dataset: medians and ranks are over all its rows. Of a dataset that does not fit in memory, `row_scores` of its
    blocks give the table that `dataset_scores` takes.
    """
    return dataset_scores(row_scores(components, detectors, context), detectors, context)


def row_scores(components: pl.DataFrame, detectors: Sequence[DetectorSpec], context: DetectorContext) -> pl.DataFrame:
    """Any rows of the component table without its columns of lists, and `score.<column>` of each detector that looks at
    one row at a time."""
    lists = [name for name, kind in components.schema.items() if isinstance(kind, pl.List)]
    found = [
        _score(spec, context).alias(columns.score(spec.column))
        for spec in detectors
        if not DETECTORS[spec.name].whole_dataset
    ]
    return components.with_columns(found).drop(lists)


def dataset_scores(rows: pl.DataFrame, detectors: Sequence[DetectorSpec], context: DetectorContext) -> pl.DataFrame:
    """The table of `score_table`, of the `row_scores` of the whole dataset."""
    identity_and_components = [name for name in rows.columns if not name.startswith(columns.score(""))]
    for spec in detectors:
        score, rank = columns.score(spec.column), columns.rank(spec.column)
        if DETECTORS[spec.name].whole_dataset:
            rows = rows.with_columns(_score(spec, context).alias(score))
        rows = rows.with_columns(_ranks(rows, score).alias(rank))
    in_order = [name(spec.column) for spec in detectors for name in (columns.score, columns.rank)]
    return rows.select([*identity_and_components, *in_order])


def _score(spec: DetectorSpec, context: DetectorContext) -> pl.Expr:
    raw = DETECTORS[spec.name].expression(spec, context).cast(pl.Float64)
    return pl.when(_is_scored() & raw.is_finite()).then(raw)


def _ranks(table: pl.DataFrame, score: str) -> pl.Series:
    """Rank of every row of `table` in its own order, 1 for the largest score, ties by row_id, null for null."""
    ordered = (
        table.select("row_id", score)
        .with_row_index("position")
        .drop_nulls(score)
        .sort(score, "row_id", descending=[True, False])["position"]
    )
    # A join by position would say the same, in several times the memory.
    ranks = np.zeros(table.height, dtype=np.int64)
    ranks[ordered.to_numpy()] = np.arange(1, len(ordered) + 1)
    return pl.Series(ranks).replace(0, None)
