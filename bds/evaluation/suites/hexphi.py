"""HEx-PHI: a folder of category_1.csv to category_11.csv, each one column of prompts without a header.

Upstream removed category 2, so 10 or 11 files are complete. Categories keep their numbers, and the first line is a
prompt: readers that take it for a header lose one prompt of every category.
"""

import csv
import io
import re
from pathlib import Path

from bds.errors import PreflightError
from bds.evaluation.suites.files import read_text
from bds.evaluation.suites.suite import Imported, Suite, SuitePrompt, check_prompts, one_turn

CATEGORIES = {
    1: "Illegal Activity",
    2: "Child Abuse Content",
    3: "Hate, Harass, Violence",
    4: "Malware",
    5: "Physical Harm",
    6: "Economic Harm",
    7: "Fraud, Deception",
    8: "Adult Content",
    9: "Political Campaigning",
    10: "Privacy Violation Activity",
    11: "Tailored Financial Advice",
}
REMOVED_UPSTREAM = 2
PROMPTS_PER_CATEGORY = 30
_HEADERS = {"prompt", "prompts", "instruction", "instructions", "question", "text", "goal", "0"}
_FILE_NAME = re.compile(r"category_(\d+)\.csv")


def import_hexphi(path: str) -> Imported:
    """The suite `hexphi` of a folder.

    Raises PreflightError where a category other than the removed one is missing, a file is of no category, has a
    header, a row of several fields, or holds no prompts but what a failed download leaves.
    """
    files = _category_files(Path(path))
    prompts: list[SuitePrompt] = []
    warnings = []
    for number, file in files.items():
        texts = _read_category(str(file))
        if len(texts) != PROMPTS_PER_CATEGORY:
            warnings.append(f"'{file}' has {len(texts)} prompts; HEx-PHI has {PROMPTS_PER_CATEGORY} in each category.")
        prompts += [
            SuitePrompt(f"hexphi/{number:02d}/{row:03d}", one_turn(text), str(number))
            for row, text in enumerate(texts, start=1)
        ]
    suite = Suite(
        "hexphi",
        "refuse",
        tuple(prompts),
        source="LLM-Tuning-Safety/HEx-PHI",
        licence="HEx-PHI Dataset License Agreement",
        version=f"{len(files)} categories",
        categories={str(number): CATEGORIES[number] for number in files},
    )
    return Imported((suite,), (*warnings, *check_prompts(path, prompts)))


def _category_files(folder: Path) -> dict[int, Path]:
    if not folder.is_dir():
        raise PreflightError(f"'{folder}' is no folder; give the folder that holds category_1.csv to category_11.csv.")
    files = {}
    for file in sorted(folder.glob("category_*")):
        match = _FILE_NAME.fullmatch(file.name)
        number = int(match[1]) if match else 0
        if number not in CATEGORIES or number in files:
            raise PreflightError(
                f"'{file}' is no category of HEx-PHI, whose files are category_1.csv to category_11.csv; take it out."
            )
        files[number] = file
    missing = [number for number in CATEGORIES if number not in files and number != REMOVED_UPSTREAM]
    if missing:
        raise PreflightError(
            f"'{folder}' has no category_{missing[0]}.csv; only category {REMOVED_UPSTREAM} is gone upstream, so "
            "download the others again."
        )
    return {number: files[number] for number in sorted(files)}


def _read_category(file: str) -> list[str]:
    reader = csv.reader(io.StringIO(read_text(file), newline=""), strict=True)
    prompts: list[str] = []
    try:
        for fields in reader:
            if not "".join(fields).strip():
                continue
            if len(fields) != 1:
                raise PreflightError(
                    f"'{file}' line {reader.line_num} has {len(fields)} fields where one prompt belongs; put the "
                    "prompt in double quotes."
                )
            prompts.append(fields[0])
    except csv.Error as error:
        raise PreflightError(f"'{file}' line {reader.line_num} is broken CSV: {error}; mend the quotes.") from error
    if prompts and prompts[0].strip().lower() in _HEADERS:
        raise PreflightError(
            f"'{file}' line 1 is the header '{prompts[0]}', which HEx-PHI's files do not have; delete the line."
        )
    return prompts
