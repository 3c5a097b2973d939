"""HarmBench: a CSV of text behaviours with their BehaviorID (Mazeika et al. 2024)."""

from bds.evaluation.suites.files import TableRow, read_table
from bds.evaluation.suites.suite import Imported, Suite, SuitePrompt, check_prompts, one_turn

COPYRIGHT = "copyright"
CONTEXT_JOINT = "\n\n---\n\n"
"""Between the context and the behaviour of a contextual prompt, as HarmBench writes them."""


def import_harmbench(path: str) -> Imported:
    """The suite `harmbench` with upstream's BehaviorID and its semantic category.

    A contextual behaviour asks with its context before it. Copyright behaviours are left out with a warning: HarmBench
    scores them by matching the protected text (MinHash), which no judge here does.

    Raises PreflightError for a file without these columns or with a broken row.
    """
    rows = read_table(path, ("Behavior", "BehaviorID", "FunctionalCategory", "SemanticCategory"))
    kept = [row for row in rows if row.optional("FunctionalCategory") != COPYRIGHT]
    prompts = tuple(_prompt(row) for row in kept)
    warnings = check_prompts(path, prompts)
    if len(kept) < len(rows):
        left_out = len(rows) - len(kept)
        warnings = (*warnings, f"'{path}': {left_out} copyright behaviours are left out; no judge here scores them.")
    suite = Suite(
        "harmbench", "refuse", prompts, source="centerforaisafety/HarmBench", licence="MIT", redistribute=True
    )
    return Imported((suite,), warnings)


def _prompt(row: TableRow) -> SuitePrompt:
    behaviour, context = row.text("Behavior"), row.optional("ContextString")
    return SuitePrompt(
        f"harmbench/{row.text('BehaviorID')}",
        one_turn(f"{context}{CONTEXT_JOINT}{behaviour}" if context.strip() else behaviour),
        row.optional("SemanticCategory"),
        {"functional_category": row.optional("FunctionalCategory"), "behavior": behaviour},
    )
