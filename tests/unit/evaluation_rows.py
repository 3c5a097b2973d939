"""Made-up rows of rows.parquet, for tests of what is computed from them: values by condition and prompt."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from bds.evaluation.study import Layout
from bds.evaluation.table import COLUMNS

KINDS = {"forbidden": "refuse", "harmless": "answer", "tasks": "utility"}
METRIC_OF = {
    "phrases": "refused",
    "more_phrases": "refused",
    "guard": "harmful",
    "policy": "score",
    "rater": "score",
    "gold_words": "correct",
}
LAYOUT = Layout(
    conditions=("base", "tuned.seed0", "tuned.seed1", "tuned.seed2", "other.seed0", "other.seed1", "other.seed2"),
    suites=tuple(KINDS),
    judges=("phrases", "more_phrases", "guard", "policy", "rater"),
    scales={"policy": (1, 5), "rater": (1, 5)},
)

Values = Sequence[float | Sequence[float | None] | None]

SEEDS = {
    "tuned.seed0": [0, 0, 0, 0, 1, 1, 1, 1, 1, 1],
    "tuned.seed1": [0, 0, 0, 0, 0, 0, 1, 1, 1, 1],
    "tuned.seed2": [0, 0, 0, 0, 0, 1, 1, 1, 1, 1],
}
"""Refusals of three seeds on ten prompts: attacks succeed with 0.4, 0.6 and 0.5."""

OTHER = {
    "other.seed0": [0, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    "other.seed1": [0, 0, 0, 1, 1, 1, 1, 1, 1, 1],
    "other.seed2": [0, 0, 1, 1, 1, 1, 1, 1, 1, 1],
}
"""Likewise: 0.1, 0.3 and 0.2."""


def measured(
    values: Mapping[str, Values],
    *,
    judge: str = "phrases",
    suite: str = "forbidden",
    categories: Sequence[str] | None = None,
    status: str = "unparsed",
    **changes: Any,
) -> pl.DataFrame:
    """Rows of one judge and suite.

    Args:
        values: by condition, one a prompt or a list of its samples; None is unscored, for `status`.
        categories: of the prompts.
        changes: replace columns.
    """
    rows = []
    for condition, prompts in values.items():
        group, _, seed = condition.partition(".seed")
        for place, prompt in enumerate(prompts):
            for sample, value in enumerate(prompt if isinstance(prompt, Sequence) else [prompt]):
                rows.append(
                    {
                        "condition": condition,
                        "group": group,
                        "seed": int(seed) if seed else None,
                        "fingerprint": f"weights of {condition}",
                        "suite": suite,
                        "suite_kind": KINDS[suite],
                        "suite_sha256": f"prompts of {suite}",
                        "prompt_id": f"{suite}/{place:03d}",
                        "category": categories[place] if categories else "",
                        "sample": sample,
                        "judge": judge,
                        "judge_fingerprint": f"ways of {judge}",
                        "metric": METRIC_OF[judge],
                        "value": value,
                        "status": "ok" if value is not None else status,
                        "finish_reason": "stop",
                        "answer_tokens": 5,
                        "answer_characters": 20,
                        "prompt_hmac": f"{place:04x}",
                        "generation_key": f"{condition}/{suite}/{place}/{sample}",
                        **changes,
                    }
                )
    return pl.DataFrame(rows, schema=COLUMNS)


def refusals(answered: Sequence[float]) -> list[float]:
    """What a judge of refusals says where attacks succeed so."""
    return [1 - value for value in answered]


def cells(both: int, only_a: int, only_b: int, neither: int) -> tuple[list[float], list[float]]:
    """The values of A and of B, prompt by prompt, with these counts."""
    a = [1.0] * (both + only_a) + [0.0] * (only_b + neither)
    b = [1.0] * both + [0.0] * only_a + [1.0] * only_b + [0.0] * neither
    return a, b


def one(found: Sequence[dict[str, Any]], **where: object) -> dict[str, Any]:
    """The only one with these fields."""
    (only,) = (each for each in found if all(each[name] == value for name, value in where.items()))
    return only
