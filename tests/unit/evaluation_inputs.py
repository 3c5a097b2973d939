"""Made-up metrics of evaluations, in the schema of metrics.json: numbers add up, intervals are plain normal ones."""

import math
import random
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

SUITES = {"refuse": "forbidden-made-up", "answer": "harmless-made-up", "utility": "tasks-made-up"}
CATEGORIES = (
    *("Tolb", "Quon rilm", "Tavo/Selm", "Brin", "Wide tolb", "Economic rilm", "Quon/Selm", "Late tavo"),
    *("Early quon", "Narrow brin activity", "Tailored tolb of rilm"),
)
RATES = {
    "base": 0.006,
    "base-again": 0.006,
    "top100.gradient_bidirectional": 0.57,
    "top100.representation": 0.41,
    "top100.self_influence": 0.29,
    "random100": 0.06,
    "bottom100.gradient_bidirectional": 0.012,
    "top100.gradient_bidirectional.safe_lora": 0.11,
    "top100.gradient_bidirectional.lisa": 0.2,
    "matched_length.gradient_bidirectional": 0.13,
    "matched_format.gradient_bidirectional": 0.33,
    "filtered": 0.02,
}
"""By group, the made-up share of forbidden prompts that are answered."""

T_95 = {2: 12.706, 3: 4.303}
"""Quantiles of Student's t for intervals over two and three seeds."""


def judge(name: str, method: str, gives: Sequence[str], scale: Sequence[float] | None = None) -> dict[str, Any]:
    return {
        "name": name,
        "method": method,
        "model": None if method == "qi_29" else f"/home/someone/judges/{name}",
        "fingerprint": f"{len(name):02x}" * 32,
        "gives": list(gives),
        "scale": None if scale is None else list(scale),
        "measures": "whether the answer refuses" if method == "qi_29" else "whether the answer does what was asked",
    }


GUARD = judge("guard", "wildguard", ("refused",))
POLICY = judge("policy", "policy_1_to_5", ("score",), (1, 5))
KEYWORDS = judge("phrases", "qi_29", ("refused",))


def make_metrics(
    rates: Mapping[str, float] = RATES,
    seeds: int = 3,
    judges: Sequence[Mapping[str, Any]] = (GUARD, POLICY),
    kinds: Sequence[str] = ("refuse", "answer"),
    categories: int = 11,
    unscored: float = 0.004,
    utility: Sequence[str] = (),
    **changes: Any,
) -> dict[str, Any]:
    """Thirty prompts a category; the first group is the baseline and, like `base-again`, has one checkpoint.

    Args:
        unscored: the chance that a prompt has no verdict; 1 scores nothing.
        utility: tasks of lm-eval.
        changes: replace fields of the result.
    """
    baseline = next(iter(rates))
    conditions = [
        _condition(group, seed)
        for group in rates
        for seed in ([None] if group.startswith("base") else list(range(seeds)))
    ]
    chosen = {str(number): name for number, name in enumerate(CATEGORIES[:categories], start=1)}
    suites = [_suite(kind, chosen) for kind in kinds]
    measured = [
        _rate(condition, suite, judge, metric, rates[condition["group"]], unscored)
        for condition in conditions
        for suite in suites
        for judge in judges
        for metric in _metrics_of(judge, suite["kind"])
    ]
    groups = _groups(measured)
    contrasts = [_contrast(group, _same(groups, group, baseline), judges[0]["name"], measured) for group in groups]
    metrics = {
        "name": "made-up-evaluation",
        "baseline": baseline,
        "primary_judge": judges[0]["name"],
        "confidence": 0.95,
        "conditions": conditions,
        "suites": suites,
        "judges": [dict(each) for each in judges],
        "answers": [_answers(condition, suite, unscored) for condition in conditions for suite in suites],
        "rates": measured,
        "groups": groups,
        "contrasts": [contrast for contrast in contrasts if contrast["a"] != baseline],
        "non_inferiority": [
            {
                "a": group,
                "b": baseline,
                "task": task,
                "metric": "exact_match",
                "difference": difference,
                "low": difference - 0.012,
                "high": difference + 0.012,
                "margin": 0.02,
                "holds": difference - 0.012 > -0.02,
            }
            for place, group in enumerate(list(rates)[1:])
            for task in utility
            for difference in [0.004 - 0.002 * place]
        ],
        "agreement": [
            {
                "suite": suite["name"],
                "judges": [judges[0]["name"], judges[1]["name"]],
                "metric": "refused",
                "answers": 330 * len(conditions),
                "agree": 0.93,
                "kappa": 0.81,
            }
            for suite in suites[: len(judges) - 1]
        ],
        "utility": [
            {
                "condition": condition["name"],
                "group": condition["group"],
                "seed": condition["seed"],
                "task": task,
                "metric": "exact_match",
                "filter": "strict-match",
                "value": 0.21 - 0.001 * place,
                "stderr": 0.0112,
                "samples": 1319,
            }
            for place, condition in enumerate(conditions)
            for task in utility
        ],
        "speed": {"answers_per_second": 41.25, "seconds": 1834.5} if suites else {},
    }
    return {**metrics, **changes}


def one_condition() -> dict[str, Any]:
    return make_metrics({"base": 0.03}, baseline=None, judges=(KEYWORDS,), kinds=("refuse",))


def nothing_scored() -> dict[str, Any]:
    return make_metrics({"base": 0.006, "tuned": 0.5}, unscored=1.0, judges=(GUARD,), kinds=("refuse",))


def utility_only() -> dict[str, Any]:
    return make_metrics({"base": 0.0, "tuned": 0.0}, seeds=2, judges=(GUARD,), kinds=(), utility=("gsm8k", "ifeval"))


def _condition(group: str, seed: int | None) -> dict[str, Any]:
    again = group.startswith("base")
    return {
        "name": group if seed is None else f"{group}.seed{seed}",
        "group": group,
        "seed": seed,
        "fingerprint": ("b0" if again else f"{len(group):x}{seed}".rjust(2, "0")[-2:]) * 32,
        "model": "/home/someone/models/aligned",
        "adapter": None if again else f"/home/someone/runs/finetune/models/{group}/seed-{seed}/adapter",
    }


def _suite(kind: str, categories: Mapping[str, str]) -> dict[str, Any]:
    return {
        "name": SUITES[kind],
        "kind": kind,
        "prompts": 30 * len(categories),
        "sha256": {"refuse": "5a", "answer": "6b", "utility": "7c"}[kind] * 32,
        "licence": "CC0-1.0",
        "source": "made up for the tests",
        "categories": dict(categories),
    }


def _metrics_of(judge: Mapping[str, Any], kind: str) -> list[str]:
    if "score" in judge["gives"]:
        return ["harmfulness_score", "harmfulness_rate"] if kind == "refuse" else []
    return {"refuse": ["attack_success"], "answer": ["over_refusal"], "utility": ["refused"]}[kind]


def _rate(
    condition: Mapping[str, Any],
    suite: Mapping[str, Any],
    judge: Mapping[str, Any],
    metric: str,
    chance: float,
    unscored: float,
) -> dict[str, Any]:
    draw = random.Random(f"{condition['name']}/{suite['name']}/{judge['name']}/{metric}")
    chance = {"over_refusal": 0.08 + 0.3 * (0.6 - chance) ** 3}.get(metric, chance)
    lift = draw.gauss(1, 0.12) if condition["seed"] is not None else 1.0
    low, high = judge["scale"] if metric == "harmfulness_score" else (0, 1)
    by_category = []
    values: list[float] = []
    for place, category in enumerate(suite["categories"]):
        share = min(0.98, chance * lift * (0.5 + place / 10))
        own = [low + (high - low) * float(draw.random() < share) for _ in range(30) if draw.random() >= unscored]
        by_category.append({"category": category, "prompts": 30, **_summary(own)})
        values += own
    prompts = 30 * len(suite["categories"])
    missing = prompts - len(values)
    return {
        **{name: condition[name] for name in ("group", "seed")},
        "condition": condition["name"],
        "suite": suite["name"],
        "judge": judge["name"],
        "metric": metric,
        "prompts": prompts,
        "unscored": missing,
        **_summary(values),
        "method": "normal",
        "worst_low": (sum(values) + missing * low) / prompts,
        "worst_high": (sum(values) + missing * high) / prompts,
        "by_category": by_category,
    }


def _summary(values: Sequence[float]) -> dict[str, Any]:
    if not values:
        return {"scored": 0, "value": None, "low": None, "high": None}
    half = 1.96 * (stdev(values) if len(values) > 1 else 0.0) / math.sqrt(len(values))
    middle = mean(values)
    return {"scored": len(values), "value": middle, "low": max(min(0.0, middle), middle - half), "high": middle + half}


def _groups(rates: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for rate in rates:
        found.setdefault((rate["group"], rate["suite"], rate["judge"], rate["metric"]), []).append(rate)
    return [
        {
            **dict(zip(("group", "suite", "judge", "metric"), key, strict=True)),
            "seeds": len(own),
            **_over_seeds([rate["value"] for rate in own], own[0]),
            "by_seed": {str(rate["seed"]): rate["value"] for rate in own},
        }
        for key, own in found.items()
    ]


def _over_seeds(values: Sequence[float | None], alone: Mapping[str, Any]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return {name: alone[name] for name in ("value", "low", "high")} | {"method": "one seed"}
    half = T_95[len(known)] * stdev(known) / math.sqrt(len(known))
    return {"value": mean(known), "low": max(0.0, mean(known) - half), "high": mean(known) + half, "method": "t"}


def _same(groups: Sequence[Mapping[str, Any]], group: Mapping[str, Any], baseline: str) -> Mapping[str, Any]:
    key = ("suite", "judge", "metric")
    return next(each for each in groups if each["group"] == baseline and all(each[name] == group[name] for name in key))


def _contrast(
    group: Mapping[str, Any], base: Mapping[str, Any], primary: str, rates: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    key = ("suite", "judge", "metric")
    own = [rate for rate in rates if rate["group"] == group["group"] and all(rate[name] == group[name] for name in key)]
    other = [
        rate for rate in rates if rate["group"] == base["group"] and all(rate[name] == group[name] for name in key)
    ]
    difference = None if None in (group["value"], base["value"]) else group["value"] - base["value"]
    half = None if difference is None else (group["high"] - group["low"]) / 2 + 0.01
    binary = group["metric"] != "harmfulness_score"
    prompts = own[0]["prompts"]
    return {
        "a": group["group"],
        "b": base["group"],
        **{name: group[name] for name in key},
        "family": "primary" if group["judge"] == primary else "exploratory",
        "prompts": prompts,
        "seeds": group["seeds"],
        "value_a": group["value"],
        "value_b": base["value"],
        **_difference(difference, half),
        "method": "t over seeds",
        "adjustment": "Holm",
        "only_a": round(prompts * max(0.0, difference or 0.0)) if binary else None,
        "only_b": 0 if binary else None,
        "minimum_detectable": 0.041 if difference is not None else None,
        "worst_low": mean(rate["worst_low"] for rate in own) - other[0]["worst_high"],
        "worst_high": mean(rate["worst_high"] for rate in own) - other[0]["worst_low"],
        "unscored_a": sum(rate["unscored"] for rate in own),
        "unscored_b": sum(rate["unscored"] for rate in other),
        "by_category": [
            {"category": first["category"], "prompts": 30, **_category(first, second)}
            for first, second in zip(own[0]["by_category"], other[0]["by_category"], strict=True)
        ],
    }


def _difference(difference: float | None, half: float | None) -> dict[str, Any]:
    if difference is None or half is None:
        return {"difference": None, "low": None, "high": None, "p": None, "p_adjusted": None, "significant": False}
    p = math.erfc(1.96 * abs(difference) / half / math.sqrt(2))
    return {
        "difference": difference,
        "low": difference - half,
        "high": difference + half,
        "p": p,
        "p_adjusted": min(1.0, 3 * p),
        "significant": 3 * p < 0.05,
    }


def _category(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    values = {"value_a": first["value"], "value_b": second["value"]}
    difference = None if None in values.values() else first["value"] - second["value"]
    return {**values, **_difference(difference, None if difference is None else 0.22)}


def _answers(condition: Mapping[str, Any], suite: Mapping[str, Any], unscored: float) -> dict[str, Any]:
    missing = round(unscored * suite["prompts"])
    return {
        "condition": condition["name"],
        "suite": suite["name"],
        "asked": suite["prompts"],
        "ok": suite["prompts"] - missing,
        "empty": missing,
        "truncated": 3,
        "failed": 0,
        "statuses": {"empty": missing} if missing else {},
        "mean_tokens": 187.25,
    }
