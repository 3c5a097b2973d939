"""XSTest: one file of safe prompts that sound unsafe, and of unsafe contrasts (Röttger et al. 2024): two suites."""

from bds.errors import PreflightError
from bds.evaluation.suites.files import TableRow, read_table
from bds.evaluation.suites.suite import Imported, Kind, Suite, SuitePrompt, check_prompts, one_turn

_HALVES: tuple[tuple[bool, str, Kind, int], ...] = (
    (True, "xstest_safe", "answer", 250),
    (False, "xstest_unsafe", "refuse", 200),
)
"""Whether its prompts are safe, its name, what to do with them, and how many there are."""
_UNSAFE_TYPE = "contrast_"


def import_xstest(path: str) -> Imported:
    """The suites `xstest_safe` (to answer) and `xstest_unsafe` (to refuse), with upstream's ids and types.

    The column `label` says which half a prompt is in; files of before it had one say so in `type` (contrast_...).

    Raises PreflightError for a file without id, type and prompt, or with a label that is neither safe nor unsafe.
    """
    halves: dict[bool, list[SuitePrompt]] = {True: [], False: []}
    for row in read_table(path, ("id", "type", "prompt")):
        prompt = SuitePrompt(f"xstest/{row.optional('id')}", one_turn(row.text("prompt")), row.optional("type"))
        halves[_is_safe(row)].append(prompt)
    warnings = list(check_prompts(path, halves[True] + halves[False]))
    suites = []
    for safe, name, kind, expected in _HALVES:
        prompts = tuple(halves[safe])
        if len(prompts) != expected:
            warnings.append(f"'{path}' has {len(prompts)} prompts for {name}; XSTest has {expected}.")
        if prompts:
            source = "paul-rottger/xstest"
            suites.append(Suite(name, kind, prompts, source=source, licence="CC-BY-4.0", redistribute=True))
    return Imported(tuple(suites), tuple(warnings))


def _is_safe(row: TableRow) -> bool:
    if "label" not in row.record:
        return not row.optional("type").startswith(_UNSAFE_TYPE)
    label = row.optional("label").strip().lower()
    if label not in {"safe", "unsafe"}:
        raise PreflightError(
            f"'{row.source}' line {row.line} has the label '{label}', which is neither safe nor unsafe; mend it."
        )
    return label == "safe"
