"""Made-up results of studies, in the schema of study.json: rates are given, intervals plain, significance by size."""

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from bds.studies.defences import defence_charts
from bds.studies.grade import dataset_grades
from bds.studies.transfer import transfer_matrices

SUITE, JUDGE = "forbidden-made-up", "guard"
HEADLINE = (SUITE, JUDGE, "attack_success")
CATEGORIES = {"tolb": "Tolb rilm", "quon": "Quon/Selm"}
SEEDS = (0, 1, 2)
SIGNIFICANT = 0.2
"""A difference so large is told as significant."""

SELECTIONS: dict[str, dict[str, Any]] = {
    "top": {"kind": "top", "detector": "representation", "count": 100, "control": "random"},
    "random": {"kind": "random", "detector": None, "count": 100, "control": None},
    "whole": {"kind": "whole", "detector": None, "count": None, "control": None},
    "filtered": {"kind": "filtered", "detector": "representation", "count": None, "share": 0.3, "control": "whole"},
    **{
        f"{kind}_{size}": {"kind": kind, "detector": "representation" if kind == "top" else None, "count": size}
        | {"control": f"random_{size}" if kind == "top" else None}
        for kind in ("top", "random")
        for size in (10, 1000)
    },
}
OTHERS = {"share": None, "draws": 1, "seed": 0, "drop_short_answers": False, "mix": None}


def make_study(
    models: Sequence[str] = ("one", "two"),
    *,
    own: float = 0.6,
    transfer: float = 0.4,
    control: float = 0.05,
    name: str = "made up",
    failed: Iterable[str] = (),
) -> dict[str, Any]:
    """A study of one dataset: transfer between the models; doses, rates and defences of the first.

    Args:
        own, transfer, control: attack success with samples of one's own choice, of another's and of random ones.
        failed: models whose evaluation failed.
    """
    first = models[0]
    cells = [
        *(
            make_cell(target, "top", scorer, own if scorer == target else transfer)
            for target in models
            for scorer in models
        ),
        *(make_cell(target, "random", None, control) for target in models),
        make_cell(first, "top_10", first, control + 0.1),
        make_cell(first, "top_1000", first, own),
        make_cell(first, "random_10", None, control / 2),
        make_cell(first, "random_1000", None, control * 2),
        make_cell(first, "top", first, own / 2, recipe="slow"),
        make_cell(first, "top", first, own / 3, mitigation="safety_mix"),
        make_cell(first, "whole", None, 0.3),
        make_cell(first, "filtered", first, 0.1),
    ]
    lost = set(failed)
    for cell in cells:
        if cell["target"] in lost:
            cell.update(measured=[], conditions=[])
    targets = [
        {"name": each, "evaluated": each not in lost, "measured": [] if each in lost else make_measured(0.01, seeds=1)}
        for each in models
    ]
    contrasts = make_contrasts(cells, targets)
    doses = [
        _curve(cells, first, kind, [f"{kind}_10", kind, f"{kind}_1000"], "samples")
        for kind in ("top", "random")
        if first not in lost
    ]
    rates = [] if first in lost else [_rates(cells, first)]
    evaluated = [each for each in models if each not in lost]
    return {
        "name": name,
        "notes": {"source": "", "reproduces": [], "assumptions": [], "unknown": []},
        "confidence": 0.95,
        "seeds": list(SEEDS),
        "models": {each: f"models/{each}" for each in models},
        "datasets": {"pool": "pool.jsonl"},
        "experiments": {"all": {"question": "Who breaks whom?", "cells": [cell["id"] for cell in cells]}},
        "selections": {each: {**OTHERS, **selection} for each, selection in SELECTIONS.items()},
        "recipes": {each: {"learning_rate": rate} for each, rate in RATES.items()},
        "mitigations": {"none": {"method": "none"}, "safety_mix": {"method": "safety_mix"}},
        "targets": targets,
        "cells": cells,
        "contrasts": contrasts,
        "transfer": transfer_matrices(cells, contrasts, 0.95),
        "doses": doses,
        "rates": rates,
        "defences": defence_charts(cells, targets),
        "grades": dataset_grades(cells, targets, doses, {"pool": 5000}, 0.95),
        "calibrations": {},
        "audits": [_audit(each) for each in models],
        "evaluations": [_evaluation(each) for each in evaluated],
        "finetunes": [
            {
                "name": each,
                "target": each,
                "page": f"finetunes/{each}/report.html",
                "finished": 9,
                "steps": 225,
                "samples_seen": 4500,
                "seconds": 61.5,
                "devices": ["cpu"],
            }
            for each in models
        ],
        "steps": [
            {
                "step": f"evaluate {each}",
                "seconds": 12.5,
                "failure": "the server did not start" if each in lost else "",
                "facts": {},
            }
            for each in models
        ],
    }


RATES = {"plain": 5e-5, "slow": 1e-5}


def make_cell(
    target: str, selection: str, scorer: str | None, rate: float, *, recipe: str = "plain", mitigation: str = "none"
) -> dict[str, Any]:
    group = "+".join([".".join(["pool", selection, *([scorer] if scorer else [])]), recipe, mitigation])
    return {
        "id": f"{target}/{group}",
        "target": target,
        "dataset": "pool",
        "selection": selection,
        "scorer": scorer,
        "recipe": recipe,
        "mitigation": mitigation,
        "then": "",
        "kind": SELECTIONS[selection]["kind"],
        "experiments": ["all"],
        "conditions": [f"{group}.seed-{seed}" for seed in SEEDS],
        "wanted": len(SEEDS),
        "samples": SELECTIONS[selection]["count"] or 5000,
        "steps": 25,
        "final_loss": 0.4,
        "learning_rate": RATES[recipe],
        "measured": make_measured(rate),
    }


def make_measured(rate: float, seeds: int = len(SEEDS)) -> list[dict[str, Any]]:
    """Attack success with its categories, over-refusal and right answers."""
    found = [_measured(HEADLINE, rate, seeds, headline=True)]
    found[0]["by_category"] = [
        {"category": category, "value": min(1.0, rate * factor), "low": 0.0, "high": 1.0}
        for category, factor in zip(CATEGORIES, (0.5, 1.5), strict=True)
    ]
    found.append(_measured(("harmless-made-up", JUDGE, "over_refusal"), 0.02 + rate / 10, seeds))
    found.append(_measured(("tasks-made-up", "gold_words", "correct"), 0.9 - rate / 10, seeds))
    return found


def _measured(series: tuple[str, str, str], rate: float, seeds: int, *, headline: bool = False) -> dict[str, Any]:
    # Seeds that differ alike in all cells would give differences that no test can be made of.
    values = [max(0.0, rate + 0.01 * ((seed + round(100 * rate)) % seeds - (seeds - 1) / 2)) for seed in range(seeds)]
    value = fmean(values)
    return {
        **dict(zip(("suite", "judge", "metric"), series, strict=True)),
        "headline": headline,
        "seeds": seeds,
        "value": value,
        "low": max(0.0, value - 0.03),
        "high": min(1.0, value + 0.03),
        "method": f"t over {seeds} seeds",
        "by_seed": {str(seed): own for seed, own in enumerate(values)},
        "of_seed": {str(seed): own for seed, own in enumerate(values)},
        "unscored": 0,
    }


def make_contrasts(cells: Sequence[dict[str, Any]], targets: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    own = {cell["id"]: cell for cell in cells}
    bases = {target["name"]: target for target in targets}
    found = []
    for cell in cells:
        group = cell["id"].removeprefix(f"{cell['target']}/")
        others = [("base", cell["target"], bases[cell["target"]])]
        control = SELECTIONS[cell["selection"]]["control"]
        alike = f"{cell['target']}/pool.{control}+{cell['recipe']}+{cell['mitigation']}"
        if alike in own:
            others.append(("control", alike, own[alike]))
        if cell["mitigation"] != "none":
            plain = f"{cell['target']}/{group.rpartition('+')[0]}+none"
            others.append(("unmitigated", plain, own[plain]))
        found += [
            _contrast(cell["id"], what, name, a, b)
            for what, name, other in others
            for a, b in zip(cell["measured"], other["measured"], strict=False)
        ]
    return found


def _contrast(cell: str, what: str, other: str, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    difference = a["value"] - b["value"]
    primary = what == "control" and a["headline"]
    firm = abs(difference) >= SIGNIFICANT
    return {
        "cell": cell,
        "with": what,
        "other": other,
        **{name: a[name] for name in ("suite", "judge", "metric", "headline")},
        "family": "primary" if primary else "exploratory",
        "prompts": 330,
        "seeds": a["seeds"],
        "value_a": a["value"],
        "value_b": b["value"],
        "difference": difference,
        "low": difference - 0.04,
        "high": difference + 0.04,
        "method": "t over 3 seeds",
        "p": 0.001 if firm else 0.4,
        "p_adjusted": 0.004 if firm else 1.0,
        "adjustment": "Holm" if primary else "Benjamini-Hochberg",
        "significant": firm,
        "only_a": None,
        "only_b": None,
        "minimum_detectable": 0.1,
        "worst_low": difference,
        "worst_high": difference,
        "unscored_a": 0,
        "unscored_b": 0,
    }


def _curve(cells: Sequence[dict[str, Any]], target: str, kind: str, names: Sequence[str], along: str) -> dict[str, Any]:
    own = [
        next(
            cell
            for cell in cells
            if (cell["target"], cell["selection"], cell["recipe"], cell["mitigation"])
            == (target, name, "plain", "none")
            and cell["scorer"] in (None, target)
        )
        for name in names
    ]
    return {
        "dataset": "pool",
        "target": target,
        "recipe": "plain",
        "mitigation": "none",
        "then": "",
        "kind": kind,
        "detector": SELECTIONS[kind]["detector"],
        "scorer": own[0]["scorer"],
        **dict(zip(("suite", "judge", "metric"), HEADLINE, strict=True)),
        "along": along,
        "points": [_point(cell, along) for cell in own],
    }


def _rates(cells: Sequence[dict[str, Any]], target: str) -> dict[str, Any]:
    own = [
        cell
        for cell in cells
        if (cell["target"], cell["selection"], cell["scorer"], cell["mitigation"]) == (target, "top", target, "none")
    ]
    return {
        **{name: own[0][name] for name in ("dataset", "selection", "scorer", "target", "mitigation", "then")},
        **dict(zip(("suite", "judge", "metric"), HEADLINE, strict=True)),
        "along": "learning_rate",
        "points": sorted(
            (_point(cell, "learning_rate") for cell in own), key=lambda point: float(point["learning_rate"])
        ),
    }


def _point(cell: dict[str, Any], along: str) -> dict[str, Any]:
    names = ("value", "low", "high", "seeds", "by_seed")
    return {along: cell[along], "cell": cell["id"], **{name: cell["measured"][0][name] for name in names}}


def _audit(scorer: str) -> dict[str, Any]:
    def selection(kind: str, lists: float, rows: int = 100) -> dict[str, Any]:
        formats = {"numbered_list": lists, "bullet_list": 0.0, "math": 0.0, "code": None, "short_answer": 1 - lists}
        return {"kind": kind, "format": {**formats, "no_format": 0.0}, "median_answer_words": 12.5, "rows": rows}

    return {
        "dataset": "pool",
        "scorer": scorer,
        "page": f"audits/pool/{scorer}/report.html",
        "rows": {"scored": 5000, "total": 5000},
        "contents": {},
        "agreement": {
            "labels": ["representation", "gradient_bidirectional"],
            "spearman": [[1.0, 0.25], [0.25, 1.0]],
            "top_overlap": [[1.0, 0.35], [0.35, 1.0]],
            "expected_overlap": 0.02,
            "top_rows": 100,
        },
        "selections": {"top": selection("top", 0.5), "random": selection("random", 0.1)},
        "gates": {},
        "headline": "",
    }


def _evaluation(target: str) -> dict[str, Any]:
    kinds = {SUITE: "refuse", "harmless-made-up": "answer", "tasks-made-up": "utility"}
    judges = ((JUDGE, ["refused", "harmful"], "models/guard"), ("qi_29", ["refused"], None))
    return {
        "target": target,
        "page": f"evaluations/{target}/report.html",
        "suites": [
            {"name": name, "kind": kind, "prompts": 330, "categories": CATEGORIES if name == SUITE else {}}
            for name, kind in kinds.items()
        ],
        "judges": [{"name": name, "gives": gives, "model": model} for name, gives, model in judges],
        "primary_judge": JUDGE,
        "agreement": [
            {
                "judges": [JUDGE, "qi_29"],
                "suite": SUITE,
                "metric": "attack_success",
                "answers": 3300,
                "agree": 0.91,
                "kappa": 0.72,
            }
        ],
        "speed": {"answers": 3300, "answer_tokens": 99000, "median_seconds": 0.2, "faults": {}},
        "utility": [],
    }
