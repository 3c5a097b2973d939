"""The demo and `bds organism`: a tiny chat model to try bds on, and the spec that audits its world."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from bds.errors import SpecError
from bds.runs.directory import RunDirectory
from bds.spec.document import Document
from bds.spec.load import build_spec
from bds.spec.models import AuditSpec
from bds.spec.overrides import Override

if TYPE_CHECKING:
    from bds.organism.layout import OrganismPaths

ANCHOR_SETS = ("harmful", "safe", "safe_2")
TEXT_ANCHOR_SETS = ("harmful", "safe")
TEXT_ARCHITECTURE = "llama"
SPEC_FILE = "demo.yaml"


def prepare_demo(
    run_dir: str, *, seed: int, overrides: Sequence[str | Override], say: Callable[[str], None]
) -> AuditSpec:
    """Train the tiny model (or take it from the cache) and write the spec of its audit into the run directory."""
    from bds.organism import cached_organism
    from bds.organism.recipe import Recipe

    say(f"the tiny aligned model of seed {seed}: trained once in about a minute, then cached")
    organism = cached_organism(Recipe(seed=seed), say)
    written = {
        "api_version": "bds/v1",
        "name": "demo",
        "data": {"path": str(organism.pool)},
        "model": {"path": str(organism.model)},
        "anchors": {"sets": {name: str(organism.anchors(name)) for name in ANCHOR_SETS}},
        "run": {"dir": run_dir},
    }
    spec = build_spec(Document("bds demo", written), overrides, folder=Path.cwd())
    RunDirectory(spec.run.dir).write_bytes(SPEC_FILE, yaml.safe_dump(written, sort_keys=False).encode())
    return spec


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
    if architecture != TEXT_ARCHITECTURE:
        raise SpecError(f"--architecture {architecture}: a model of --text is a {TEXT_ARCHITECTURE}; leave it out")
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
