"""`bds plan` of an evaluation: how many answers and verdicts, and from whom, without loading a model."""

from typing import Any

from bds.evaluation.conditions import conditions_of
from bds.evaluation.panel import panel_judge
from bds.evaluation.suites.asked import suites_asked
from bds.spec.evaluate import EvaluateSpec


def plan_evaluation(spec: EvaluateSpec) -> dict[str, Any]:
    """What the evaluation asks of whom.

    Raises:
        SpecError, PreflightError: as `check_evaluate_spec`.
    """
    conditions = conditions_of(spec)
    suites = suites_asked(spec.suites).suites
    judges = [panel_judge(name, judge) for name, judge in spec.judges.items()]
    prompts = sum(len(suite.prompts) for suite in suites)
    answers = prompts * spec.sampling.samples * len(conditions)
    asked = [judge for judge in judges if judge.model is not None]
    return {
        "conditions": [
            {
                "name": each.name,
                "group": each.group,
                "seed": each.seed,
                "model": each.path if each.endpoint is None else each.endpoint.url,
                "adapter": each.adapter,
            }
            for each in conditions
        ],
        "suites": [{"name": each.name, "kind": each.kind, "prompts": len(each.prompts)} for each in suites],
        "judges": [{"name": each.name, "method": each.method, "asks_a_model": each in asked} for each in judges],
        "prompts": prompts,
        "samples": spec.sampling.samples,
        "answers": answers,
        "answer_tokens_at_most": answers * spec.sampling.max_tokens,
        "judge_requests": answers * len(asked),
        "verdicts": answers * len(judges),
        "utility_tasks": list(spec.utility.tasks),
    }


def evaluation_plan_text(planned: dict[str, Any]) -> str:
    lines = ["conditions"]
    lines += [f"  {each['name']}: {_served(each)}" for each in planned["conditions"]]
    lines.append("suites")
    lines += [f"  {each['name']}: {each['prompts']:,} prompts to {each['kind']}" for each in planned["suites"]]
    lines.append("judges")
    lines += [f"  {each['name']} ({each['method']})" for each in planned["judges"]]
    samples = f" x {planned['samples']} samples" if planned["samples"] > 1 else ""
    lines.append(
        f"answers: {planned['prompts']:,} prompts{samples} x {len(planned['conditions'])} conditions = "
        f"{planned['answers']:,}, of at most {planned['answer_tokens_at_most']:,} tokens in all"
    )
    lines.append(f"verdicts: {planned['verdicts']:,}, {planned['judge_requests']:,} of them asked of a judge's model")
    if planned["utility_tasks"]:
        lines.append(f"lm-eval for every condition: {', '.join(planned['utility_tasks'])}")
    return "\n".join(lines)


def _served(condition: dict[str, Any]) -> str:
    adapter = f" with the adapter {condition['adapter']}" if condition["adapter"] else ""
    return f"{condition['model']}{adapter}"
