"""What a study would do."""

from typing import Any


def plan_study_steps(spec: Any) -> dict[str, Any]:
    return {}


def study_plan_text(p: Any) -> str:
    return ""
