"""What the runs below a study have told already: audits of what they ranked, evaluations of how judges agree."""

from collections.abc import Mapping, Sequence
from typing import Any

from bds.runs.directory import RunDirectory
from bds.spec.study import StudySpec
from bds.studies.plan import StudyPlan, audit_folder, evaluation_folder, finetunes_folder

_METRICS = "metrics.json"
_PAGE = "report.html"


def audits_told(plan: StudyPlan, run: RunDirectory) -> list[dict[str, Any]]:
    """Of every finished audit how its detectors agree and what each selection is made of: see bds/report/metrics.py."""
    told = []
    for dataset, scorer in plan.audits:
        folder = audit_folder(dataset, scorer)
        metrics = _read(run, f"{folder}/{_METRICS}")
        if metrics is None:
            continue
        told.append(
            {
                "dataset": dataset,
                "scorer": scorer,
                "page": f"{folder}/{_PAGE}",
                "rows": metrics["rows"],
                "contents": metrics["dataset"],
                "agreement": metrics["agreement"],
                "selections": metrics["selections"],
                "gates": metrics["gates"],
                "headline": metrics["verdict"]["headline"],
            }
        )
    return told


def evaluations_told(plan: StudyPlan, run: RunDirectory) -> list[dict[str, Any]]:
    """Of every evaluation its suites, judges, their agreement, and what the answers took."""
    told = []
    for target in plan.targets:
        folder = evaluation_folder(target)
        metrics = _read(run, f"{folder}/{_METRICS}")
        if metrics is None:
            continue
        names = ("suites", "judges", "primary_judge", "agreement", "speed", "utility")
        told.append({"target": target, "page": f"{folder}/{_PAGE}", **{name: metrics[name] for name in names}})
    return told


def finetunes_told(plan: StudyPlan, results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Of every run of fine-tunes how many finished, and what they took.

    Args:
        results: by run and condition, what each fine-tune told of itself.
    """
    told = []
    for run in plan.runs:
        own = results[run.name].values()
        stages = [stage for each in own for stage in each["stages"]]
        told.append(
            {
                "name": run.name,
                "target": run.target,
                "page": f"{finetunes_folder(run)}/{_PAGE}",
                "finished": len(own),
                "steps": sum(stage["steps"] for stage in stages),
                "samples_seen": sum(stage["samples_seen"] for stage in stages),
                "seconds": sum(each["seconds"] for each in own),
                "devices": sorted({each["device"] for each in own}),
            }
        )
    return told


def rows_to_train_on(spec: StudySpec, audits: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """By dataset the rows that a model can be trained on, as its first audit counted them."""
    found: dict[str, int] = {}
    for audit in audits:
        found.setdefault(audit["dataset"], audit["rows"]["scored"])
    return {name: found[name] for name in spec.datasets if name in found}


def _read(run: RunDirectory, name: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = run.read_json(name)
    except FileNotFoundError:
        return None
    return found
