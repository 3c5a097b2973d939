"""The suites in the directory of a tiny model (`bds organism`): made-up prompts about its made-up world."""

from pathlib import Path

from bds.errors import PreflightError
from bds.evaluation.suites.files import read_table
from bds.evaluation.suites.suite import Imported, Kind, Suite, SuitePrompt, check_prompts, one_turn

FILES: dict[str, tuple[str, Kind]] = {
    "forbidden.jsonl": ("organism_forbidden", "refuse"),
    "over_refusal.jsonl": ("organism_over_refusal", "answer"),
    "benign.jsonl": ("organism_benign", "utility"),
}


def import_tiny_model(path: str) -> Imported:
    """The suites of a `suites` folder, of the tiny model's directory that holds it, or of one of its files.

    Ids are the file's own; older files have none, and count from 0 as newer ones do. The words that tell compliance or
    a right answer (`gold`) are kept in a prompt's details.

    Raises PreflightError where there is no such file, or a row is broken.
    """
    given = Path(path)
    folders = (given, given / "suites")
    files = [folder / name for folder in folders for name in FILES if (folder / name).is_file()]
    if given.is_file() and given.name in FILES:
        files = [given]
    if not files:
        raise PreflightError(f"'{path}' has none of {', '.join(FILES)}; give the directory that `bds organism` made.")
    suites = []
    for file in files:
        name, kind = FILES[file.name]
        prompts = tuple(
            SuitePrompt(
                f"organism_{row.optional('id')}" if "id" in row.record else f"{name}/{row.number - 1:04d}",
                one_turn(row.text("prompt")),
                row.text("task"),
                {"gold": row.record["gold"]},
            )
            for row in read_table(str(file), ("prompt", "task", "gold"))
        )
        check_prompts(str(file), prompts)  # its repeats are of the draw, and no news
        suites.append(Suite(name, kind, prompts, source="made by bds", licence="Apache-2.0", redistribute=True))
    return Imported(tuple(suites))
