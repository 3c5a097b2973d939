"""StrongREJECT: a CSV of category, source and forbidden_prompt (Souly et al. 2024)."""

from bds.evaluation.suites.files import read_table
from bds.evaluation.suites.suite import Imported, Suite, SuitePrompt, check_prompts, one_turn

PROMPTS = {313: "full", 60: "small"}
"""Numbers of prompts in the published files, and what these are called."""


def import_strongreject(path: str) -> Imported:
    """The suite `strongreject`. Upstream has no ids, so a prompt's is its row.

    Raises PreflightError for a file without these columns or with a broken row.
    """
    prompts = tuple(
        SuitePrompt(
            f"strongreject/{row.number:03d}",
            one_turn(row.text("forbidden_prompt")),
            row.optional("category"),
            {"source": row.optional("source")},
        )
        for row in read_table(path, ("category", "forbidden_prompt"))
    )
    warnings = check_prompts(path, prompts)
    if len(prompts) not in PROMPTS:
        published = " or ".join(str(count) for count in PROMPTS)
        warnings = (*warnings, f"'{path}' has {len(prompts)} prompts; StrongREJECT has {published}.")
    suite = Suite(
        "strongreject",
        "refuse",
        prompts,
        source="alexandrasouly/strongreject",
        licence="MIT",
        version=PROMPTS.get(len(prompts), ""),
        redistribute=True,
    )
    return Imported((suite,), warnings)
