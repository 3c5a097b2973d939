"""What a study would do and has done: its steps, what they share, how long what is left takes. No model is loaded."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from bds.evaluation.judges import KeywordJudge, find_judge
from bds.planning_study_time import CPU, Estimate, estimate, totals
from bds.planning_study_work import StudyReader, Work, parameters_of
from bds.runs.directory import RunDirectory
from bds.runs.events import events_path, read_events
from bds.spec.identity import spec_hash
from bds.spec.study import StudySpec
from bds.studies.conditions import own_trainings
from bds.studies.plan import StudyPlan, plan_study
from bds.studies.steps import Step, steps_of
from bds.studies.twins import twins

SHOWN_STEPS = 60


def plan_study_steps(spec: StudySpec) -> dict[str, Any]:
    """The plan as JSON-ready values; every number that is not counted has `estimated` in its name.

    A dataset or a suite that is not on this machine counts as `estimate` assumes, which `assumptions` tells.

    Raises:
        SpecError: an experiment names what the study does not have, or a recipe would drop samples.
        PreflightError: a dataset, a suite or a run directory is there and cannot be read.
    """
    plan = plan_study(spec)
    reader = StudyReader(spec, plan)
    steps = steps_of(spec, plan)
    works = _works(spec, plan, steps, reader)
    sizes = {name: parameters_of(spec, name) for name in _models_used(plan)}
    estimates = [estimate(work, reader.spent, lambda name: sizes[name][0], spec.estimate) for work in works]
    numbers = {step.id: number for number, step in enumerate(steps, start=1)}
    return {
        "spec_hash": spec_hash(spec),
        "run_dir": spec.run.dir,
        "name": spec.name,
        "about": spec.notes.model_dump(),
        "experiments": {
            name: {"question": spec.experiments[name].question, **_amounts(_of_experiment(spec, name), reader, spec)}
            for name in plan.experiments
        },
        "shared": _shared(spec, plan, reader),
        "models": [
            {"name": name, "path": spec.models[name].path, "parameters": size, "parameters_told": told}
            for name, (size, told) in sizes.items()
        ],
        "datasets": [
            {
                "name": name,
                "path": spec.datasets[name].path,
                "assumed": bool(each.assumption),
                ("estimated_rows" if each.assumption else "rows"): each.rows,
                "estimated_tokens_per_row": round(each.tokens_per_row, 1),
            }
            for name, each in reader.datasets.items()
        ],
        "suites": [
            {
                "name": name,
                "assumed": name in reader.suites.assumptions,
                ("estimated_prompts" if name in reader.suites.assumptions else "prompts"): prompts,
            }
            for name, prompts in reader.suites.names.items()
        ],
        "steps": [
            {
                "number": numbers[step.id],
                "id": step.id,
                "after": list(step.after),
                "done": work.is_done,
                **work.amounts,
                **asdict(told),
            }
            for step, work, told in zip(steps, works, estimates, strict=True)
        ],
        "estimate": totals(estimates, spec.estimate),
        "assumptions": _assumptions(spec, reader, estimates),
        "warnings": list(dict.fromkeys(warning for work in works for warning in work.warnings)),
    }


def study_plan_text(planned: dict[str, Any]) -> str:
    """The plan for a person."""
    lines = [f"study {planned['name']} in {planned['run_dir']}", *_about(planned["about"])]
    lines += _shared_text(planned)
    lines.append("models")
    for each in planned["models"]:
        size = "parameters" if each["parameters"] is None else f"{each['parameters']:,.0f} parameters"
        lines.append(f"  {each['name']}: {each['path']}, {size} {each['parameters_told']}")
    lines.append("datasets")
    for each in planned["datasets"]:
        rows = f"{each['estimated_rows']:,} rows assumed" if each["assumed"] else f"{each['rows']:,} rows"
        lines.append(
            f"  {each['name']}: {each['path']}, {rows}, about {each['estimated_tokens_per_row']:g} tokens each"
        )
    lines.append("suites")
    for each in planned["suites"]:
        told = f"{each['estimated_prompts']:,} prompts assumed" if each["assumed"] else f"{each['prompts']:,} prompts"
        lines.append(f"  {each['name']}: {told}")
    lines.append("steps")
    numbers = {each["id"]: each["number"] for each in planned["steps"]}
    lines += [f"  {_step_text(each, numbers)}" for each in planned["steps"][:SHOWN_STEPS]]
    if len(planned["steps"]) > SHOWN_STEPS:
        lines.append(f"  and {len(planned['steps']) - SHOWN_STEPS} more; --json has all of them")
    lines += _estimate_text(planned["estimate"])
    lines.append("the estimate assumes")
    lines += [f"  {each}" for each in planned["assumptions"]]
    return "\n".join([*lines, *(f"warning: {warning}" for warning in planned["warnings"])])


def _works(spec: StudySpec, plan: StudyPlan, steps: Sequence[Step], reader: StudyReader) -> list[Work]:
    alike = twins(spec, spec.run.dir, dict.fromkeys(each.input for each in plan.trainings))
    seconds = _seconds_of_steps(reader.root)
    asking = sum(not isinstance(find_judge(each.method), KeywordJudge) for each in spec.judges.values())
    works = []
    for step in steps:
        if step.audit is not None:
            works.append(reader.audit(step.audit))
        elif step.run is not None:
            works.append(reader.finetunes(step.run, alike))
        else:
            assert step.target is not None, "a step is one of the three"
            works.append(reader.evaluation(step.target, alike, seconds[step.id], asking))
    return works


def _seconds_of_steps(root: RunDirectory) -> Counter[str]:
    """What each step has taken in all attempts that it came to its end in."""
    found: Counter[str] = Counter()
    attempt = 1
    while root.exists(events_path(attempt)):
        for event in read_events(root, attempt):
            if event["event"] == "step_ended":
                found[event["id"]] += event["seconds"]
        attempt += 1
    return found


def _models_used(plan: StudyPlan) -> list[str]:
    return list(dict.fromkeys([*(scorer for _, scorer in plan.audits), *plan.targets]))


def _of_experiment(spec: StudySpec, name: str) -> StudyPlan:
    """The plan of a study that asks this one question."""
    return plan_study(spec.model_copy(update={"experiments": {name: spec.experiments[name]}}))


def _amounts(plan: StudyPlan, reader: StudyReader, spec: StudySpec) -> dict[str, int]:
    conditions = len(own_trainings(plan.trainings, {})) + len(plan.targets)
    return {
        "audits": len(plan.audits),
        "finetunes": len(plan.trainings),
        "evaluations": len(plan.targets),
        "answers": conditions * reader.suites.prompts * spec.sampling.samples,
    }


def _shared(spec: StudySpec, plan: StudyPlan, reader: StudyReader) -> dict[str, Any]:
    asked: Counter[str] = Counter()
    for name in plan.experiments:
        asked.update(_amounts(_of_experiment(spec, name), reader, spec))
    bases = {(spec.models[name].path, spec.models[name].revision) for name in plan.targets}
    judges = {(each.model, each.adapter) for each in spec.judges.values() if each.model is not None}
    return {
        "asked": dict(asked),
        "distinct": _amounts(plan, reader, spec),
        "engines": len(bases),
        "judge_engines": len(judges),
    }


def _assumptions(spec: StudySpec, reader: StudyReader, estimates: Sequence[Estimate]) -> list[str]:
    own = spec.estimate
    known = {name for name, each in reader.datasets.items() if not each.assumption}
    found = [each.assumption for name, each in reader.sources.items() if each.assumption and name not in known]
    found += reader.suites.assumptions.values()
    if any(each.estimated_from.startswith("operations") for each in estimates):
        found.append(
            f"a GPU reaches {own.utilisation:.0%} of {own.teraflops:g} TFLOP/s; operations a parameter and token: 6 in "
            "scoring with gradients and in fine-tuning (fewer with LoRA), 2 in scoring without and in answering, where "
            "memory may be slower than arithmetic"
        )
    found.append(
        f"selected rows are as long as the average row, every answer has all {spec.sampling.max_tokens:,} tokens; "
        "starting processes and engines takes no time"
    )
    if any(each.method != "none" for each in spec.mitigations.values()):
        found.append("what a mitigation adds to the samples or leaves out of them is not counted")
    asking = [name for name, each in spec.judges.items() if each.model is not None or each.endpoint is not None]
    if asking:
        found.append(f"the time and the price of {', '.join(asking)}, which judge as models, are not in it")
    if spec.utility.tasks:
        found.append(f"lm-eval for every condition ({', '.join(spec.utility.tasks)}) is not in it")
    return list(dict.fromkeys(found))


def _about(about: dict[str, Any]) -> list[str]:
    lines = [f"source: {about['source']}"] if about["source"] else []
    for field, heading in (
        ("reproduces", "published, and to be reproduced"),
        ("assumptions", "assumed"),
        ("unknown", "not known"),
    ):
        if about[field]:
            lines += [heading, *(f"  {entry}" for entry in about[field])]
    return lines


def _shared_text(planned: dict[str, Any]) -> list[str]:
    lines = ["experiments"]
    for name, each in planned["experiments"].items():
        question = f" {each['question']}" if each["question"] else ""
        lines.append(f"  {name}:{question} {_counts(each)}")
    shared = planned["shared"]
    lines.append(f"together they ask for {_counts(shared['asked'])}")
    lines.append(f"each distinct one is done once: {_counts(shared['distinct'])}")
    judges = f", and {_plural(shared['judge_engines'], 'engine')} for judges" if shared["judge_engines"] else ""
    lines.append(f"engines: {shared['engines']:,}, one for each base model with all its fine-tunes{judges}")
    return lines


def _counts(amounts: dict[str, int]) -> str:
    return (
        f"{_plural(amounts['audits'], 'audit')}, {_plural(amounts['finetunes'], 'fine-tune')}, "
        f"{_plural(amounts['evaluations'], 'evaluation')} of {amounts['answers']:,} answers"
    )


def _plural(number: int, what: str) -> str:
    return f"{number:,} {what if number == 1 else what + 's'}"


def _step_text(step: dict[str, Any], numbers: dict[str, int]) -> str:
    after = [str(numbers[each]) for each in step["after"]]
    waits = f" (after {', '.join(after)})" if after else ""
    return f"{step['number']}. {step['id']}{waits}: {_amounts_text(step)}; {_time_text(step)}"


def _amounts_text(step: dict[str, Any]) -> str:
    if "shards" in step:
        return (
            f"{step['rows']:,} rows in {_plural(step['shards'], 'shard')}"
            f"{_done(step['finished_shards'], 'shards finished')}, about {step['estimated_tokens']:,} tokens, "
            f"{step['passes']}"
        )
    if "finetunes" in step:
        return (
            f"{_plural(step['finetunes'], 'fine-tune')}{_done(step['finished_finetunes'], 'finished')} of "
            f"{step['samples']:,} samples, {step['samples_seen']:,} seen in {step['steps']:,} optimiser steps"
        )
    samples = f" x {step['samples']} samples" if step["samples"] > 1 else ""
    return (
        f"{_plural(step['conditions'], 'condition')} x {step['prompts']:,} prompts{samples} = {step['answers']:,} "
        f"answers{_done(step['answers_there'], 'there')}, {step['judge_requests']:,} judge requests"
    )


def _done(number: int, what: str) -> str:
    return f" ({number:,} {what})" if number else ""


def _time_text(step: dict[str, Any]) -> str:
    hours = step["estimated_device_hours"]
    if hours is None:
        return f"time {step['estimated_from']}"
    unit = "CPU" if step["device"] == CPU else "GPU"
    text = "done" if step["done"] else f"about {_hours(step['estimated_device_hours_left'], unit)} left"
    return f"{text} of {_hours(hours, unit)}, {step['estimated_from']}"


def _hours(hours: float, unit: str) -> str:
    return f"{hours:,.2f} {unit}-hours" if hours >= 0.1 else f"{hours * 3600:,.3g} {unit}-seconds"


def _estimate_text(told: dict[str, Any]) -> list[str]:
    text = (
        f"estimate: {_hours(told['estimated_gpu_hours'], 'GPU')}, {told['estimated_cost']:,.2f} {told['currency']} at "
        f"{told['price_per_gpu_hour']:g} an hour; left: {_hours(told['estimated_gpu_hours_left'], 'GPU')}, "
        f"{told['estimated_cost_left']:,.2f} {told['currency']}"
    )
    lines = [text]
    if told["estimated_cpu_hours"]:
        lines.append(
            f"on CPUs, as measured: {_hours(told['estimated_cpu_hours'], 'CPU')}, left: "
            f"{_hours(told['estimated_cpu_hours_left'], 'CPU')}"
        )
    if told["steps_without_estimate"]:
        lines.append(f"not in it: {_plural(told['steps_without_estimate'], 'step')} whose time is not known")
    return lines
