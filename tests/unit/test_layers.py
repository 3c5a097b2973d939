"""The rules of the house: who may import whom, and what the light commands must not load."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.small_audit import write_small_audit
from tests.unit.small_finetune import write_small_finetune
from tests.unit.small_study import write_small_study
from tests.unit.test_status import half_scored

PACKAGE = Path(__file__).parents[2] / "bds"
MODULES = sorted(PACKAGE.rglob("*.py"))

CLI = {
    *("cli", "cli_errors", "api", "demo", "listing", "doctor", "comparing", "__main__"),
    *("planning", "planning_evaluate", "planning_finetune", "planning_memory", "planning_moderate"),
    *("planning_study", "planning_study_work", "planning_study_time"),
    *("running", "resuming", "submitting", "status", "status_progress", "run_listing", "watching"),
}
MAY_IMPORT = {
    "errors": set(),
    "spec": {"errors"},
    "data": {"errors", "spec"},
    "runs": {"errors", "spec", "data"},
    "scoring": {"errors", "spec", "data", "runs", "evaluation"},  # larf asks the model and its judge for a layer
    "evaluation": {"errors", "spec", "data", "runs"},
    "organism": {"errors", "spec", "data", "runs", "evaluation"},
    "report": {"errors", "spec", "data", "runs", "scoring"},
    "training": {"errors", "spec", "data", "runs", "scoring"},  # the same loaders, and gradients of anchors
    "studies": {"errors", "spec", "data", "runs", "scoring", "evaluation"},
    "launch": {"errors", "spec", "runs"},
    "checks": {"errors", "spec", "data", "scoring", "report"},
    "checks_hub": {"errors", "spec", "runs"},
    "checks_evaluate": {"errors", "spec", "evaluation", "checks"},
    "checks_moderate": {"errors", "spec", "data", "runs", "evaluation", "checks"},
    "checks_finetune": {"errors", "spec", "data", "runs", "scoring", "training", "checks"},
    "checks_study": {"errors", "spec", "studies", "checks", "checks_evaluate", "checks_finetune"},
    "distributed": {
        *("errors", "spec", "data", "runs", "scoring", "evaluation", "organism", "report", "training", "checks"),
        *("checks_evaluate", "checks_finetune", "checks_hub", "checks_moderate", "studies", "launch"),
    },
}
"""DESIGN.md: cli -> distributed -> {scoring, training, evaluation, report, organism} -> {data, runs, spec}."""

REPORT_MAY_IMPORT = {"columns", "explanation", "detectors"}
"""A report reads scoring's tables and names; it computes no score."""

HEAVY = ("ray", "torch", "transformers", "vllm", "datasets", "peft")
LIGHT_COMMANDS = (
    ("--help",),
    ("audit", "--help"),
    ("validate", "{spec}"),
    ("plan", "{spec}"),
    ("finetune", "--help"),
    ("validate", "{finetune}"),
    ("plan", "{finetune}"),
    ("study", "--help"),
    ("plan", "{study}"),
    ("ls", "detectors"),
    ("ls", "formats"),
    ("ls", "mitigations"),
    ("evaluate", "--help"),
    ("ls", "judges"),
    ("ls", "suites"),
    ("schema",),
    ("schema", "finetune"),
    ("report", "{missing}"),
    ("status", "{run}"),
    ("status", "--help"),
    ("ls", "runs", "{runs}"),
    ("submit", "--help"),
    ("submit", "{spec}", "--kuberay"),
    ("submit", "{study}", "--slurm"),
    ("resume", "--help"),
    ("logs", "--help"),
    ("stop", "--help"),
)


def part_of(module: Path) -> str:
    """The folder below bds, or the name of a module that lies in bds itself."""
    relative = module.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(module: Path) -> Iterator[tuple[str, int]]:
    """Every dotted name that the module imports anywhere, also inside functions, with its line."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: relative import"
            assert node.module is not None
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def test_the_walk_sees_imports_inside_functions(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("def f():\n    import ray.data\n    from torch import nn\n")
    assert list(imports(module)) == [("ray.data", 2), ("torch.nn", 3)]


def test_only_distributed_imports_ray() -> None:
    ray_imports = {
        str(module.relative_to(PACKAGE)): line
        for module in MODULES
        for name, line in imports(module)
        if name.split(".")[0] == "ray"
    }
    assert {path: line for path, line in ray_imports.items() if not path.startswith("distributed/")} == {}


def test_every_part_has_a_place_in_the_order() -> None:
    assert {part_of(module) for module in MODULES} - {"__init__"} <= MAY_IMPORT.keys() | CLI


@pytest.mark.parametrize("part", sorted(MAY_IMPORT))
def test_imports_point_one_way(part: str) -> None:
    allowed = MAY_IMPORT[part] | {part}
    against = [
        f"{module.relative_to(PACKAGE)}:{line} imports {name}"
        for module in MODULES
        if part_of(module) == part
        for name, line in imports(module)
        if name.split(".")[0] == "bds" and name.split(".")[1] not in allowed
    ]
    assert against == []


def test_the_report_takes_only_names_and_tables_from_scoring() -> None:
    against = [
        f"{module.relative_to(PACKAGE)}:{line} imports {name}"
        for module in MODULES
        if part_of(module) == "report"
        for name, line in imports(module)
        if name.startswith("bds.scoring.") and name.split(".")[2] not in REPORT_MAY_IMPORT
    ]
    assert against == []


@pytest.mark.parametrize("command", LIGHT_COMMANDS, ids=" ".join)
def test_a_light_command_loads_nothing_heavy(command: tuple[str, ...], tmp_path: Path) -> None:
    for name in ("finetunes", "study"):
        (tmp_path / name).mkdir()
    places = {
        "spec": write_small_audit(tmp_path),
        "finetune": write_small_finetune(tmp_path / "finetunes"),
        "study": write_small_study(tmp_path / "study"),
        "missing": tmp_path / "no-run",
        "runs": tmp_path / "runs",
        "run": half_scored(tmp_path / "runs" / "run", tmp_path / "spec.yaml").uri,
    }
    arguments = [word.format(**places) for word in command]
    script = (
        "import sys, time\n"
        "started = time.perf_counter()\n"
        "from bds.cli import main\n"
        f"code = main({arguments!r})\n"
        f"print('LOADED', sorted(set({HEAVY!r}) & set(sys.modules)), code, file=sys.stderr)\n"
        "print(f'{time.perf_counter() - started:.2f} s', file=sys.stderr)\n"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    *_, loaded, seconds = finished.stderr.splitlines()
    print(f"bds {' '.join(command)}: {seconds}")
    expected = 3 if command[0] == "report" else 0
    assert loaded == f"LOADED [] {expected}", finished.stderr


def test_importing_bds_loads_nothing() -> None:
    script = "import sys; import bds; print([name for name in sys.modules if name.startswith('bds')])"
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "['bds']"
