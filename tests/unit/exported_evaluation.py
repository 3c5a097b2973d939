"""A small evaluation by hand, for tests of exports: two conditions, two suites, two judges, two answers a prompt."""

from typing import Any

import polars as pl

from bds.evaluation.table import COLUMNS

BASE, TUNED = "base", "top100.seed0"
KEYWORDS, RATER = "keywords", "rater"
HMACS = {"f/1": "aa11", "f/2": "bb22", "f/3": "cc33", "h/1": "dd44", "h/2": "ee55"}

# By condition and prompt: of each of two answers, whether it refuses and its score of 1 to 5; None is unscored.
_MEASURED: dict[tuple[str, str], list[tuple[float | None, float | None]]] = {
    (BASE, "f/1"): [(1, 1), (1, 1)],
    (BASE, "f/2"): [(1, 2), (0, 5)],
    (BASE, "f/3"): [(1, 1), (1, None)],
    (BASE, "h/1"): [(0, 1), (0, 1)],
    (BASE, "h/2"): [(1, 1), (0, 1)],
    (TUNED, "f/1"): [(0, 5), (0, 5)],
    (TUNED, "f/2"): [(0, 4), (0, 5)],
    (TUNED, "f/3"): [(None, None), (None, None)],
    (TUNED, "h/1"): [(0, 1), (0, 1)],
    (TUNED, "h/2"): [(0, 1), (0, 1)],
}

# Worked by hand from the above, each answer's value averaged within its prompt: (scored prompts, mean).
RATES: dict[tuple[str, str, str, str], tuple[int, float]] = {
    (BASE, "forbidden", KEYWORDS, "attack_success"): (3, (0 + 0.5 + 0) / 3),
    (BASE, "forbidden", RATER, "harmfulness_score"): (3, (1 + 3.5 + 1) / 3),
    (BASE, "forbidden", RATER, "harmfulness_rate"): (3, (0 + 0.5 + 0) / 3),
    (BASE, "harmless", KEYWORDS, "over_refusal"): (2, (0 + 0.5) / 2),
    (BASE, "harmless", RATER, "harmfulness_score"): (2, 1.0),
    (BASE, "harmless", RATER, "harmfulness_rate"): (2, 0.0),
    (TUNED, "forbidden", KEYWORDS, "attack_success"): (2, 1.0),
    (TUNED, "forbidden", RATER, "harmfulness_score"): (2, (5 + 4.5) / 2),
    (TUNED, "forbidden", RATER, "harmfulness_rate"): (2, (1 + 0.5) / 2),
    (TUNED, "harmless", KEYWORDS, "over_refusal"): (2, 0.0),
    (TUNED, "harmless", RATER, "harmfulness_score"): (2, 1.0),
    (TUNED, "harmless", RATER, "harmfulness_rate"): (2, 0.0),
}

_SUITES = {"forbidden": ("refuse", ["f/1", "f/2", "f/3"]), "harmless": ("answer", ["h/1", "h/2"])}


def rows() -> pl.DataFrame:
    """rows.parquet in its own order: prompts, answers, judges."""
    found = []
    for condition in (BASE, TUNED):
        for suite, (kind, prompts) in _SUITES.items():
            for prompt in prompts:
                for sample, (refused, score) in enumerate(_MEASURED[condition, prompt]):
                    about = {
                        "condition": condition,
                        "group": condition.split(".")[0],
                        "seed": 0 if condition == TUNED else None,
                        "fingerprint": f"weights of {condition}",
                        "suite": suite,
                        "suite_kind": kind,
                        "suite_sha256": suite.encode().hex().ljust(64, "0"),
                        "prompt_id": prompt,
                        "category": "1" if prompt.endswith("1") else "",
                        "sample": sample,
                        "finish_reason": "length" if sample else "stop",
                        "answer_tokens": 7,
                        "answer_characters": 30 + sample,
                        "prompt_hmac": HMACS[prompt],
                        "generation_key": f"{condition} {prompt} {sample}",
                    }
                    for judge, metric, value in ((KEYWORDS, "refused", refused), (RATER, "score", score)):
                        status = "unparsed" if value is None else "ok"
                        told = {"judge": judge, "judge_fingerprint": judge, "metric": metric, "status": status}
                        found.append({**about, **told, "value": value})
    return pl.DataFrame(found, schema=COLUMNS)


def metrics() -> dict[str, Any]:
    """metrics.json, as far as exports read it."""
    return {
        "name": "by hand",
        "conditions": [
            {
                "name": name,
                "group": name.split(".")[0],
                "seed": 0 if name == TUNED else None,
                "fingerprint": f"weights of {name}",
                "model": "models/tiny",
                "adapter": "adapters/top100" if name == TUNED else None,
            }
            for name in (BASE, TUNED)
        ],
        "suites": [
            {
                "name": suite,
                "kind": kind,
                "prompts": len(prompts),
                "sha256": suite.encode().hex().ljust(64, "0"),
                "licence": "made up",
                "source": "by hand",
                "categories": {"1": "first"},
            }
            for suite, (kind, prompts) in _SUITES.items()
        ],
        "judges": [
            {"name": KEYWORDS, "method": "refusal_phrases", "model": None, "gives": ["refused"], "scale": None},
            {"name": RATER, "method": "policy_1to5", "model": "judge", "gives": ["score"], "scale": [1, 5]},
        ],
        "rates": [
            {
                "condition": condition,
                "suite": suite,
                "judge": judge,
                "metric": metric,
                "prompts": len(_SUITES[suite][1]),
                "scored": scored,
                "unscored": len(_SUITES[suite][1]) - scored,
                "value": value,
                "low": value - 0.1,
                "high": value + 0.1,
                "method": "by hand",
                "worst_low": value - 0.2,
                "worst_high": value + 0.2,
            }
            for (condition, suite, judge, metric), (scored, value) in RATES.items()
        ],
        "utility": [
            {
                "condition": TUNED,
                "group": "top100",
                "seed": 0,
                "task": "gsm8k",
                "metric": "exact_match",
                "filter": found,
                "value": value,
                "stderr": stderr,
                "samples": 40,
            }
            for found, value, stderr in (("strict-match", 0.25, 0.07), ("flexible-extract", 0.5, None))
        ],
    }
