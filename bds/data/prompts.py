"""Prompt lists: questions without answers, such as the over-refusal prompts that LARF chooses its layer by."""

from bds.data.files import read_entries
from bds.errors import PreflightError

PROMPT_COLUMNS = ("prompt", "instruction", "question", "goal")
"""The columns that public prompt lists use, in order of preference."""


def load_prompts(path: str) -> list[str]:
    """The prompts of a file in order: one string a line, or an object with one of `PROMPT_COLUMNS`.

    Raises:
        PreflightError: a line holds no prompt; the sentence names it.
    """
    prompts = []
    for entry in read_entries(path):
        value = entry.value
        if isinstance(value, dict):
            value = next((value[column] for column in PROMPT_COLUMNS if column in value), None)
        if entry.error or not isinstance(value, str) or not value.strip():
            raise PreflightError(
                f"{entry.source} line {entry.line} holds no prompt; write an object such as "
                f'{{"prompt": "..."}} ({", ".join(PROMPT_COLUMNS)} are read)'
            )
        prompts.append(value)
    return prompts
