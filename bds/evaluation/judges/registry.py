"""The registries of judges. To add one: its file beside this one, and its line here."""

from bds.errors import SpecError
from bds.evaluation.judges.base import Judge, KeywordJudge
from bds.evaluation.judges.granite_guardian import GRANITE_GUARDIAN_3, GRANITE_GUARDIAN_4
from bds.evaluation.judges.harmbench import HARMBENCH
from bds.evaluation.judges.keywords import QI_29, REFUSAL_PREFIXES, XSTEST
from bds.evaluation.judges.llama_guard import LLAMA_GUARD_3, LLAMA_GUARD_4
from bds.evaluation.judges.policy import POLICY_1_TO_5
from bds.evaluation.judges.shieldgemma import SHIELDGEMMA
from bds.evaluation.judges.strongreject import STRONGREJECT_FINE_TUNED, STRONGREJECT_RUBRIC
from bds.evaluation.judges.tiny_judge import TINY_JUDGE
from bds.evaluation.judges.wildguard import WILDGUARD

KEYWORD_JUDGES: dict[str, KeywordJudge] = {judge.name: judge for judge in (REFUSAL_PREFIXES, QI_29, XSTEST)}
"""Judges that need no model; the first is the default."""

MODEL_JUDGES: dict[str, Judge] = {
    judge.name: judge
    for judge in (
        POLICY_1_TO_5,
        WILDGUARD,
        GRANITE_GUARDIAN_4,
        GRANITE_GUARDIAN_3,
        LLAMA_GUARD_4,
        LLAMA_GUARD_3,
        HARMBENCH,
        STRONGREJECT_RUBRIC,
        STRONGREJECT_FINE_TUNED,
        SHIELDGEMMA,
        TINY_JUDGE,
    )
}
"""Judges that are models behind an endpoint."""


def find_judge(name: str) -> KeywordJudge | Judge:
    """Raises SpecError for an unknown name."""
    judge = KEYWORD_JUDGES.get(name) or MODEL_JUDGES.get(name)
    if judge is None:
        raise SpecError(f"'{name}' is no known judge; use {', '.join((*KEYWORD_JUDGES, *MODEL_JUDGES))}.")
    return judge
