"""The fine-tunes that a spec stands for, and what makes each of them the same one when the command runs again."""

import hashlib
import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bds.data.files import fingerprint
from bds.errors import SpecError
from bds.runs.directory import RunDirectory, readable_json
from bds.spec.finetune import FinetuneSpec, OnlySpec, RecipeSpec, TrainedModelSpec
from bds.spec.mitigations import Mitigation
from bds.spec.paths import is_uri
from bds.training.data import FrozenData

RESULT = "result.json"
CURVE = "curve.csv"
RECEIPT = "receipt.json"
PROGRESS = "progress.json"
_HASHED_BYTES = 1 << 20


@dataclass(frozen=True)
class Finetune:
    """One fine-tune of a run."""

    model: str
    dataset: str
    recipe: str
    mitigation: str
    seed: int

    @property
    def id(self) -> str:
        return f"{self.model}/{self.dataset}/{self.recipe}/{self.mitigation}/seed-{self.seed}"

    @property
    def folder(self) -> str:
        """Within the run directory."""
        return f"models/{self.id}"


@dataclass(frozen=True)
class Assignment:
    """One fine-tune with all that a worker needs to know of it."""

    task: Finetune
    key: str
    data: FrozenData
    then: tuple[FrozenData, ...]
    """The datasets of the spec's further stages."""


def expand(spec: FinetuneSpec) -> list[Finetune]:
    """Every combination, or those that the spec's `only` names, the seeds innermost."""
    product = itertools.product(spec.models, spec.datasets, spec.recipes, spec.mitigations, spec.seeds)
    found = [Finetune(*names) for names in product]
    return [each for each in found if any(_is_meant(each, only) for only in spec.only)] if spec.only else found


def _is_meant(task: Finetune, only: OnlySpec) -> bool:
    wanted = (
        (task.model, only.models),
        (task.dataset, only.datasets),
        (task.recipe, only.recipes),
        (task.mitigation, only.mitigations),
        (task.seed, only.seeds),
    )
    return all(names is None or name in names for name, names in wanted)


def check_batches(name: str, recipe: RecipeSpec, samples: int) -> list[str]:
    """What a user should know of a recipe on a dataset of so many samples, one sentence each.

    Raises:
        SpecError: the recipe would drop samples in every epoch.
    """
    left = samples % recipe.batch
    if recipe.last_batch == "drop" and left:
        raise SpecError(
            f"recipe {name} drops the last {left} of {samples} samples in every epoch (batch {recipe.batch}, "
            "last_batch drop); set last_batch to keep, or a batch that divides the samples"
        )
    notes = []
    if recipe.samples is not None and recipe.samples != samples:
        notes.append(f"recipe {name} is published for {recipe.samples} samples and gets {samples}")
    return notes


def amounts(recipe: RecipeSpec, samples: int) -> dict[str, int]:
    """Optimiser steps and samples seen of one stage."""
    return {"steps": -(-samples // recipe.batch) * recipe.epochs, "samples_seen": samples * recipe.epochs}


def finetune_key(
    spec: FinetuneSpec, task: Finetune, data: Mapping[str, FrozenData], then: list[FrozenData], inputs: dict[str, str]
) -> str:
    """SHA-256 over everything that decides the weights of a fine-tune, but for the number of its workers.

    Args:
        data: by dataset name.
        inputs: `input_fingerprints` of the spec.
    """
    model, mitigation = spec.models[task.model], spec.mitigations[task.mitigation]
    content = {
        "model": [model.model_dump(mode="json"), *(inputs[path] for path in _model_paths(model))],
        "data": data[task.dataset].sha256,
        "recipe": spec.recipes[task.recipe].model_dump(mode="json", exclude={"source", "samples"}),
        "mitigation": [mitigation.model_dump(mode="json"), *(inputs[path] for path in _mitigation_paths(mitigation))],
        "seed": task.seed,
        "then": [
            [frozen.sha256, stage.recipe.model_dump(mode="json", exclude={"source", "samples"})]
            for frozen, stage in zip(then, spec.then, strict=True)
        ],
        "tokens": [spec.tokens.model_dump(mode="json"), inputs.get(spec.tokens.template, "")],
    }
    return hashlib.sha256(readable_json(content)).hexdigest()


def input_fingerprints(spec: FinetuneSpec) -> dict[str, str]:
    """SHA-256 of every file that decides a result beside the datasets, by path; of a model folder, see `_of_model`."""
    found = {path: _of_model(path) for model in spec.models.values() for path in _model_paths(model)}
    for mitigation in spec.mitigations.values():
        for path in _mitigation_paths(mitigation):
            found[path] = _of_audit(path) if path == getattr(mitigation, "audit", None) else fingerprint(path)
    if os.path.isfile(spec.tokens.template):
        found[spec.tokens.template] = fingerprint(spec.tokens.template)
    return found


def _model_paths(model: TrainedModelSpec) -> list[str]:
    return [path for path in (model.path, model.adapter, model.base) if path is not None]


def _mitigation_paths(mitigation: Mitigation) -> list[str]:
    return [path for name in ("audit", "refusals", "harmful", "safe") if (path := getattr(mitigation, name, None))]


def _of_audit(run_dir: str) -> str:
    return hashlib.sha256(RunDirectory(run_dir).read_bytes("scores.parquet")).hexdigest()


def _of_model(path: str) -> str:
    """Of a folder: the names and sizes of its files and the first and last mebibyte of each. Of a hub name, the name.

    Weights of many gigabytes are not read whole: safetensors begin with the place of every tensor.
    """
    folder = Path(path)
    if is_uri(path) or not folder.is_dir():
        return path
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.is_file():
            digest.update(f"{file.name} {file.stat().st_size}\n".encode())
            for part in _ends(file):
                digest.update(part)
    return digest.hexdigest()


def _ends(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        yield opened.read(_HASHED_BYTES)
        if file.stat().st_size > 2 * _HASHED_BYTES:
            opened.seek(-_HASHED_BYTES, os.SEEK_END)
        yield opened.read(_HASHED_BYTES)


def finished(run: RunDirectory, task: Finetune, key: str) -> dict[str, Any] | None:
    """The receipt of a finished fine-tune whose files are all there; None where it is still to do.

    Raises:
        SpecError: the folder holds a finished fine-tune of other inputs.
    """
    try:
        receipt: dict[str, Any] = run.read_json(f"{task.folder}/{RECEIPT}")
    except FileNotFoundError:
        return None
    if receipt["key"] != key:
        raise SpecError(
            f"{run.url_of(task.folder)} holds a fine-tune of the same name with other settings or inputs; rename what "
            "changed in the spec, give another run.dir, or --fresh to delete the run"
        )
    sizes = run.list(task.folder)
    whole = all(sizes.get(f"{task.folder}/{name}") == file["bytes"] for name, file in receipt["files"].items())
    return receipt if whole else None
