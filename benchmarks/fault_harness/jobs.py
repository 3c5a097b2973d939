"""The runs that are disturbed: small audits, fine-tunes, evaluations and studies of the tiny aligned model."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from bds.organism.layout import OrganismPaths
from bds.training.curve import read_curve

from .checks import Left, Table, digest_of, lines_of, read_table
from .processes import VLLM_PROCESS

ROWS_PER_SHARD = 5
CHECKPOINT_STEPS = 5
ACTORS = 2
ANCHORS = ("harmful", "safe")
DETECTORS = ["gradient_bidirectional", "representation"]

MINE = ["prompt_hmac", "generation_key"]
"""Columns of an evaluation that hold a run's own key."""


@dataclass(frozen=True)
class Job:
    """One kind of run."""

    kind: str
    spec: Callable[[OrganismPaths, Path, str], dict[str, Any]]
    """Of a run directory and an engine."""
    left: Callable[[Path], Left]
    victims: Mapping[str, tuple[str, ...]]
    """Words in the titles of its processes, by what they are called here."""
    survives: Mapping[str, int]
    """Victims whose death the command itself must survive, and how many in one run at the worst moments."""

    def write(self, organism: OrganismPaths, folder: Path, engine: str) -> tuple[Path, Path]:
        """The spec's file and the run directory, in a new folder."""
        folder.mkdir(parents=True)
        file, run_dir = folder / "spec.yaml", folder / "run"
        # JSON is YAML, too.
        file.write_text(json.dumps(self.spec(organism, run_dir, engine), indent=2))
        return file, run_dir


def _audit_spec(organism: OrganismPaths, run_dir: Path, engine: str) -> dict[str, Any]:
    return {
        "data": {"path": str(organism.pool), "limit": 150},
        "model": {"path": str(organism.model)},
        "anchors": {"sets": {name: str(organism.anchors(name)) for name in ANCHORS}},
        "score": {"detectors": [*DETECTORS, "self_influence_n"]},
        "resources": {"actors": ACTORS},
        "run": {"dir": str(run_dir), "rows_per_shard": ROWS_PER_SHARD},
    }


def _audit_left(run_dir: Path) -> Left:
    names = ("components.parquet", "scores.parquet")
    tries = run_dir.glob("stages/score/tries/*/*.json")
    return Left(
        tables={name: read_table(run_dir / name, ["row_index"]) for name in names},
        files={name: digest_of(run_dir / name) for name in names},
        done=done_in(run_dir),
        begun=sum(int(json.loads(file.read_text())) for file in tries),
    )


def _finetune_spec(organism: OrganismPaths, run_dir: Path, engine: str) -> dict[str, Any]:
    recipe = {"learning_rate": 1e-3, "epochs": 5, "batch": 10}
    return {
        "kind": "finetune",
        "models": {"tiny": str(organism.model)},
        "datasets": {"rows": {"path": str(organism.pool), "limit": 100}},
        "recipes": {
            "full": recipe,
            "lora": {**recipe, "parameters": "lora", "lora": {"rank": 8, "dropout": 0.1}},
        },
        "resources": {"concurrent": 1},
        "run": {"dir": str(run_dir), "checkpoint_steps": CHECKPOINT_STEPS, "restarts": 4},
    }


def _finetune_left(run_dir: Path) -> Left:
    folders = [file.parent for file in sorted(run_dir.glob("models/**/result.json"))]
    curves = []
    for folder in folders:
        name = folder.relative_to(run_dir).as_posix()
        points = read_curve((folder / "curve.csv").read_text())
        rows = [{"id": name, "stage": point.stage, "step": point.step, "loss": point.loss} for point in points]
        curves.append(pl.DataFrame(rows))
    files = {}
    for folder in folders:
        name = folder.relative_to(run_dir).as_posix()
        files[f"{name}/curve.csv"] = digest_of(folder / "curve.csv")
        files[f"weights of {name}"] = str(json.loads((folder / "result.json").read_text())["weights_sha256"])
    whole = (
        pl.concat(curves) if curves else pl.DataFrame(schema={"id": pl.String, "stage": pl.String, "step": pl.Int64})
    )
    return Left(tables={"curves": Table(whole, ("id", "stage", "step"))}, files=files, done=done_in(run_dir))


def _evaluate_spec(organism: OrganismPaths, run_dir: Path, engine: str) -> dict[str, Any]:
    return {
        "kind": "evaluate",
        "models": {"aligned": str(organism.model), "base": str(organism.base)},
        "suites": [{"path": str(organism.root), "limit": 60}],
        "judges": {"phrases": "refusal_prefixes", "qi": "qi_29"},
        "sampling": {"max_tokens": 24},
        "serving": {"engine": engine, "max_concurrent": 4},
        "statistics": {"bootstrap": 200},
        "run": {"dir": str(run_dir), "max_unscored_fraction": 1.0},
    }


def _evaluate_left(run_dir: Path) -> Left:
    rows = read_table(run_dir / "rows.parquet", (), without=MINE)
    key = ("condition", "suite", "prompt_id", "sample", "judge", "metric")
    own = tuple(name for name in key if name in rows.rows.columns)
    return Left(tables={"rows.parquet": Table(rows.rows, own)}, done=done_in(run_dir))


def _study_spec(organism: OrganismPaths, run_dir: Path, engine: str) -> dict[str, Any]:
    return {
        "kind": "study",
        "name": "tiny",
        "models": {"aligned": str(organism.model), "base": str(organism.base)},
        "datasets": {"pool": {"path": str(organism.pool), "limit": 80}},
        "anchors": {"sets": {name: str(organism.anchors(name)) for name in ANCHORS}},
        "score": {"detectors": DETECTORS},
        "selections": {
            "top": {"kind": "top", "detector": "gradient_bidirectional", "count": 10},
            "random": {"kind": "random", "count": 10},
        },
        "recipes": {"full": {"learning_rate": 1e-3, "epochs": 2, "batch": 5}},
        "seeds": [0],
        "experiments": {"transfer": {"selections": ["top", "random"], "recipes": ["full"]}},
        "suites": [{"format": "placeholder", "limit": 8}],
        "sampling": {"max_tokens": 8},
        "serving": {"engine": engine, "max_concurrent": 4},
        "statistics": {"bootstrap": 200},
        "run": {"dir": str(run_dir), "rows_per_shard": ROWS_PER_SHARD, "max_unscored_fraction": 1.0},
    }


def _study_left(run_dir: Path) -> Left:
    names = ("cells.parquet", "contrasts.parquet")
    tables = {}
    for name in names:
        rows = pl.read_parquet(run_dir / name)
        tables[name] = Table(rows, tuple(rows.select(pl.col(pl.String)).columns))
    return Left(tables=tables, files={name: digest_of(run_dir / name) for name in names}, done=done_in(run_dir))


def done_in(run_dir: Path) -> Counter[str]:
    """Shards, fine-tunes, answers and verdicts of the run and of the runs below it.

    The receipt is the commit; the driver, which may die before it has noted one, tells what was done more than once.
    """
    done: Counter[str] = Counter()
    for file in run_dir.rglob("events/attempt-*.jsonl"):
        run = file.parents[1].relative_to(run_dir).as_posix()
        for event in lines_of(file):
            if event["event"] in {"shard", "finetune"}:
                done[f"{run} {event['event']} {event.get('shard', event.get('id'))}"] += 1
    for file in run_dir.rglob("stages/score/receipts/*.json"):
        name = f"{file.parents[3].relative_to(run_dir).as_posix()} shard {int(file.stem)}"
        done[name] = max(done[name], 1)
    for file in run_dir.rglob("models/**/receipt.json"):
        run_folder = next(parent.parent for parent in file.parents if parent.name == "models")
        run = run_folder.relative_to(run_dir).as_posix()
        name = f"{run} finetune {file.parent.relative_to(run_folder / 'models').as_posix()}"
        done[name] = max(done[name], 1)
    for folder in ("generations", "verdicts"):
        for file in run_dir.rglob(f"private/{folder}/*.jsonl"):
            run = file.parents[2].relative_to(run_dir).as_posix()
            # Keys hold the weights' fingerprint, not a run's own name: the same in every run.
            done.update(f"{run} {folder} {row['key']}" for row in lines_of(file))
    return done


JOBS = {
    job.kind: job
    for job in (
        Job("audit", _audit_spec, _audit_left, {"scoring actor": ("ray::MapWorker",)}, {"scoring actor": 2}),
        Job(
            "finetune",
            _finetune_spec,
            _finetune_left,
            {"training worker": ("RayTrainWorker",)},
            {"training worker": 4},
        ),
        Job(
            "evaluate",
            _evaluate_spec,
            _evaluate_left,
            {"Serve replica": ("ray::ServeReplica",), "engine process": VLLM_PROCESS},
            {"Serve replica": 2, "engine process": 2},
        ),
        Job("study", _study_spec, _study_left, {"step task": ("ray::_run",)}, {}),
    )
}
