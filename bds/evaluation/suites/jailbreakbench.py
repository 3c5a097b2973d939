"""JailbreakBench: harmful-behaviors.csv and its twin benign-behaviors.csv (Chao et al. 2024)."""

from pathlib import Path

from bds.errors import PreflightError
from bds.evaluation.suites.files import read_table
from bds.evaluation.suites.suite import Imported, Kind, Suite, SuitePrompt, check_prompts, one_turn

FILES: dict[str, tuple[str, Kind]] = {
    "harmful-behaviors.csv": ("jailbreakbench_harmful", "refuse"),
    "benign-behaviors.csv": ("jailbreakbench_benign", "answer"),
}
PROMPTS = 100


def import_jailbreakbench(path: str) -> Imported:
    """The suites `jailbreakbench_harmful` and `jailbreakbench_benign`, from a folder with both files or from one file.

    A prompt's id is upstream's Index; the same Index in the other suite is about the same topic. Targets are not kept.

    Raises PreflightError where neither file is there, a file has another name, or a row is broken.
    """
    given = Path(path)
    files = [given / name for name in FILES if (given / name).is_file()] if given.is_dir() else [given]
    if not files or files[0].name not in FILES:
        raise PreflightError(f"'{path}' is neither {' nor '.join(FILES)} nor a folder with one; give one of these.")
    suites = []
    warnings: list[str] = []
    for file in files:
        name, kind = FILES[file.name]
        prompts = tuple(
            SuitePrompt(
                f"{name}/{row.optional('Index')}",
                one_turn(row.text("Goal")),
                row.optional("Category"),
                {"behavior": row.optional("Behavior")},
            )
            for row in read_table(str(file), ("Index", "Goal", "Category"))
        )
        warnings += check_prompts(str(file), prompts)
        if len(prompts) != PROMPTS:
            warnings.append(f"'{file}' has {len(prompts)} prompts; JailbreakBench has {PROMPTS}.")
        suites.append(
            Suite(name, kind, prompts, source="JailbreakBench/JBB-Behaviors", licence="MIT", redistribute=True)
        )
    return Imported(tuple(suites), tuple(warnings))
