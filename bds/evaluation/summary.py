"""metrics.json of an evaluation: who answered what, who judged, and what the tables say."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from bds.evaluation.aggregate import aggregate
from bds.evaluation.conditions import Condition
from bds.evaluation.measures import MEASURES, Measure
from bds.evaluation.panel import PanelJudge
from bds.evaluation.study import Layout, Options
from bds.evaluation.suites.suite import Suite
from bds.spec.evaluate import EvaluateSpec


def evaluation_metrics(
    spec: EvaluateSpec,
    rows: pl.DataFrame,
    *,
    conditions: Sequence[Condition],
    suites: Sequence[Suite],
    judges: Sequence[PanelJudge],
    answers: Sequence[Mapping[str, Any]],
    utility: Sequence[Mapping[str, Any]],
    baseline: str,
    primary_judge: str,
) -> dict[str, Any]:
    """Everything that the report shows, but for its verdict.

    Args:
        rows: rows.parquet.
        answers: the private rows of stage one, for faults and speed.
        utility: what lm-eval measured.
    """
    told = {*rows["judge"].unique()}
    measures = [measure for measure in MEASURES if measure.name in told]
    layout = Layout(
        conditions=[each.name for each in conditions],
        suites=[each.name for each in suites],
        judges=[*(each.name for each in judges), *(each.name for each in measures)],
        scales={each.name: each.scale for each in judges if each.scale is not None},
    )
    options = Options.of_spec(spec.statistics, baseline=baseline, primary_judge=primary_judge)
    parts = aggregate(rows, layout, options, utility)
    return {
        "name": spec.name,
        "baseline": baseline,
        "primary_judge": primary_judge,
        "confidence": options.confidence,
        "conditions": [_condition(each) for each in conditions],
        "suites": [_suite(each) for each in suites],
        "judges": [*(_judge(each) for each in judges), *(_measure(each) for each in measures)],
        **parts,
        "utility": list(utility),
        "speed": speed(answers),
    }


def speed(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the answers took, over all attempts: faults by kind, tokens, and seconds of a request."""
    faults: Counter[str] = Counter()
    for answer in answers:
        faults.update(answer["faults"])
    seconds = sorted(answer["seconds"] for answer in answers)
    return {
        "answers": len(answers),
        "faults": dict(sorted(faults.items())),
        "answer_tokens": sum(answer["answer_tokens"] or 0 for answer in answers),
        "median_seconds": seconds[len(seconds) // 2] if seconds else None,
    }


def _condition(condition: Condition) -> dict[str, Any]:
    model = condition.path if condition.endpoint is None else f"{condition.endpoint.model} at {condition.endpoint.url}"
    return {
        "name": condition.name,
        "group": condition.group,
        "seed": condition.seed,
        "fingerprint": condition.fingerprint,
        "model": model,
        "adapter": condition.adapter,
    }


def _suite(suite: Suite) -> dict[str, Any]:
    return {
        "name": suite.name,
        "kind": suite.kind,
        "prompts": len(suite.prompts),
        "sha256": suite.sha256,
        "licence": suite.licence,
        "source": suite.source,
        "categories": dict(suite.categories),
    }


def _judge(judge: PanelJudge) -> dict[str, Any]:
    model = None
    if judge.model is not None:
        model = judge.model.path if judge.model.endpoint is None else judge.model.endpoint.model
    return {
        "name": judge.name,
        "method": judge.method,
        "model": model,
        "fingerprint": judge.fingerprint,
        "gives": list(judge.gives),
        "scale": None if judge.scale is None else list(judge.scale),
        "measures": judge.judge.measures,
    }


def _measure(measure: Measure) -> dict[str, Any]:
    return {
        "name": measure.name,
        "method": measure.name,
        "model": None,
        "fingerprint": measure.fingerprint,
        "gives": [measure.metric],
        "scale": None,
        "measures": measure.measures,
    }
