"""AdvBench: harmful_behaviors.csv with the columns goal and target (Zou et al. 2023)."""

from bds.evaluation.suites.files import read_table
from bds.evaluation.suites.suite import Imported, Suite, SuitePrompt, check_prompts, one_turn

PROMPTS = 520


def import_advbench(path: str) -> Imported:
    """The suite `advbench`. Upstream has no ids, so a prompt's is its row. The targets are not kept: nothing asks them.

    Raises PreflightError for a file without these columns or with a broken row.
    """
    prompts = tuple(
        SuitePrompt(f"advbench/{row.number:03d}", one_turn(row.text("goal")))
        for row in read_table(path, ("goal", "target"))
    )
    warnings = check_prompts(path, prompts)
    if len(prompts) != PROMPTS:
        warnings = (*warnings, f"'{path}' has {len(prompts)} prompts; AdvBench has {PROMPTS}.")
    suite = Suite("advbench", "refuse", prompts, source="llm-attacks/llm-attacks", licence="MIT", redistribute=True)
    return Imported((suite,), warnings)
