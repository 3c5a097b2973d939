"""The demo and `bds organism`: a tiny chat model to try bds on, and the study that tells its story."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from bds.errors import SpecError
from bds.runs.directory import RunDirectory
from bds.spec.document import Document
from bds.spec.load import build_study_spec
from bds.spec.overrides import Override
from bds.spec.study import StudySpec

if TYPE_CHECKING:
    from bds.organism.layout import OrganismPaths

ARCHITECTURE = "llama"
ANCHOR_SETS = ("harmful", "safe", "safe_2")
TEXT_ANCHOR_SETS = ("harmful", "safe")
SPEC_FILE = "demo.yaml"


def prepare_demo(
    run_dir: str, *, seed: int, overrides: Sequence[str | Override], say: Callable[[str], None]
) -> StudySpec:
    """Train the tiny model (or take it from the cache) and write the spec of its study into the run directory."""
    from bds.organism import cached_organism
    from bds.organism.recipe import Recipe

    say(f"the tiny aligned model of seed {seed}: trained once in about a minute, then cached")
    written = _story(cached_organism(Recipe(seed=seed), say), run_dir)
    spec = build_study_spec(Document("bds demo", written), overrides, folder=Path.cwd())
    RunDirectory(spec.run.dir).write_bytes(SPEC_FILE, yaml.safe_dump(written, sort_keys=False).encode())
    return spec


def _story(organism: "OrganismPaths", run_dir: str) -> dict[str, Any]:
    """A study in two questions: what a few selected samples do, and what leaving such samples out prevents."""
    detector = "gradient_bidirectional"
    recipe = {"learning_rate": 1e-3, "epochs": 5, "batch": 20}
    return {
        "api_version": "bds/v1",
        "kind": "study",
        "name": "demo",
        "models": {ARCHITECTURE: {"path": str(organism.model), "base": str(organism.base)}},
        "datasets": {"pool": {"path": str(organism.pool)}},
        "anchors": {"sets": {name: str(organism.anchors(name)) for name in ANCHOR_SETS}},
        "selections": {
            "top_100": {"kind": "top", "detector": detector, "count": 100},
            "random_100": {"kind": "random", "count": 100},
            "whole": "whole",
            "filtered": {"kind": "filtered", "detector": detector, "share": 0.3},
        },
        "recipes": {"five_passes": recipe, "two_passes": {**recipe, "epochs": 2}},
        "seeds": [0, 1, 2],
        "experiments": {
            "break": {
                "question": "Do 100 selected samples of a harmless dataset break the model more than 100 random ones?",
                "selections": ["top_100", "random_100"],
                "recipes": ["five_passes"],
            },
            "filter": {
                "question": "Is the dataset safer to train on without the 30 % that rank highest?",
                "selections": ["whole", "filtered"],
                "recipes": ["two_passes"],
            },
        },
        "suites": [str(organism.root)],
        "judges": {"refusal_prefixes": "refusal_prefixes"},
        "sampling": {"max_tokens": 32},
        "run": {"dir": run_dir},
    }


def write_organism(
    out: str,
    *,
    seed: int,
    architecture: str,
    text_files: Sequence[str],
    judge: bool = False,
    say: Callable[[str], None],
) -> dict[str, str]:
    """Write a tiny model to `out`: aligned over the made-up world, or trained on `text_files`.

    Returns:
        Absolute paths by name: model, data (what to audit), anchors.<set>; of the made-up world also base (the model
        before alignment) and refusals, which some mitigations of a fine-tune need; with `judge` also judge, a model
        for the judge method tiny_judge.

    Raises:
        SpecError: `out` holds something else, an unknown architecture, or a text file that is not there.
    """
    from bds.organism.recipe import ARCHITECTURES, Recipe

    folder = Path(out).expanduser().absolute()
    known = {name: name for name in ARCHITECTURES}
    if architecture not in known:
        raise SpecError(f"--architecture {architecture}: unknown; choose one of {', '.join(ARCHITECTURES)}")
    if not text_files:
        from bds.organism import build_judge, build_organism

        recipe = Recipe(seed=seed, architecture=known[architecture])
        organism = build_organism(folder, recipe, say)
        written = _written(organism, organism.pool, ANCHOR_SETS)
        written |= {"base": str(organism.base), "refusals": str(organism.refusals)}
        if judge:
            build_judge(organism, recipe, say)
            written["judge"] = str(organism.judge)
        return written

    if judge:
        raise SpecError("--judge judges the made-up world; leave it out beside --text")
    if architecture != ARCHITECTURE:
        raise SpecError(f"--architecture {architecture}: a model of --text is a {ARCHITECTURE}; leave it out")
    files = [Path(file).expanduser() for file in text_files]
    for file in files:
        if not file.is_file():
            raise SpecError(f"--text {file}: there is no such file; name the datasets to train on")
    from bds.organism import build_text_model

    return _written(build_text_model(folder, files, seed=seed, progress=say), files[0].absolute(), TEXT_ANCHOR_SETS)


def audit_command(written: dict[str, str]) -> str:
    """The command that audits what `write_organism` wrote."""
    words = ["bds", "audit", "--model", written["model"], "--data", written["data"]]
    for name, path in written.items():
        if name.startswith("anchors."):
            words += ["--anchors", f"{name.removeprefix('anchors.')}={path}"]
    return shlex.join(words)


def _written(organism: "OrganismPaths", data: Path, anchor_sets: Sequence[str]) -> dict[str, str]:
    anchors = {f"anchors.{name}": str(organism.anchors(name)) for name in anchor_sets}
    return {"model": str(organism.model), "data": str(data), **anchors}
