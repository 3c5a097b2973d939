"""The names of the component columns: the contract between the one pass over the model and every formula after it.

`components.parquet` has one row a dataset row, sorted by `row_index`; a row that was not scored has nulls.

identity   row_index Int64, row_id String, source String, line Int64, status String, reason String
tokens     prompt_tokens, answer_tokens (content only), supervised_tokens (with the end-of-turn), truncated_tokens:
Int32 features   numbered_list, bullet_list, math, code, short_answer, refusal_phrase, safety_phrase: Boolean;
           question_type String; prompt_words, answer_words: Int32                     (bds/data/features.py)
loss                        Float32, mean cross-entropy of the supervised tokens, in nats
squared_gradient_norm       Float32, ||g||^2 of that loss over the chosen parameters
direction_dot.<set>         Float32, <g, G> where G is the mean of the set's unit gradients, not re-normalised
anchor_dots.<set>           List(Float32), <g, g_j / ||g_j||> for every anchor j (absent with anchors.gradients:
direction) cosines.<set>.layer<L>      List(Float32), cosine of the hidden state at the answer's last token with every
anchor's compliance.answer           Float32, projection of the answer's mean hidden state on the comply-minus-refuse
direction compliance.prompt           Float32, the same for the hidden state at the prompt's last token
bm25.<set>                  List(Float32), BM25 of the row's text for every anchor prompt and answer as the query

`L` counts as transformers' hidden_states does: 0 is the embedding, L >= 1 the output of decoder block L, and the last
one is after the final norm. It is never negative in a column name.
"""

LOSS = "loss"
SQUARED_GRADIENT_NORM = "squared_gradient_norm"
COMPLIANCE_ANSWER = "compliance.answer"
COMPLIANCE_PROMPT = "compliance.prompt"


def direction_dot(anchor_set: str) -> str:
    return f"direction_dot.{anchor_set}"


def anchor_dots(anchor_set: str) -> str:
    return f"anchor_dots.{anchor_set}"


def cosines(anchor_set: str, layer: int) -> str:
    return f"cosines.{anchor_set}.layer{layer}"


def bm25(anchor_set: str) -> str:
    return f"bm25.{anchor_set}"


def score(label: str) -> str:
    """Column of a detector's score; higher is more dangerous."""
    return f"score.{label}"


def rank(label: str) -> str:
    """Column of a detector's rank: 1 is the most dangerous, ties broken by row_id."""
    return f"rank.{label}"
