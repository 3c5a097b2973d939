"""The stages of an evaluation that need models: answers, verdicts, lm-eval's tasks. Each asks what is missing."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from bds.data.values import canonical_json
from bds.distributed import metrics
from bds.distributed.engines import Engines, Served, canary_pairs, endpoint_client
from bds.errors import PreflightError
from bds.evaluation.answers import FOLDER as ANSWERS
from bds.evaluation.answers import Question, ask_all, request_of
from bds.evaluation.client import Client
from bds.evaluation.conditions import Condition
from bds.evaluation.engines.canary import check_canary
from bds.evaluation.meter import RowMeter
from bds.evaluation.private import PRIVATE, RowLog, logged_rows, row_log
from bds.evaluation.prompting import Renderer
from bds.evaluation.utility import UtilityScore, run_utility
from bds.evaluation.verdict_rows import FOLDER as VERDICTS
from bds.evaluation.verdict_rows import Case, judge_all, verdict_at_once, verdict_row
from bds.runs.directory import RunDirectory
from bds.runs.interrupts import run_interruptibly
from bds.runs.progress import show_progress
from bds.spec.evaluate import EvaluateSpec

Row = Mapping[str, Any]


def answer_missing(
    spec: EvaluateSpec,
    run: RunDirectory,
    asked: Sequence[Question],
    engines: Engines,
    check_lease: Callable[[], None],
    report: Callable[[str], None],
) -> None:
    """Gets every answer and every score of lm-eval that the run directory does not hold yet."""
    have = logged_rows(run, ANSWERS)
    missing = [each for each in asked if each.key not in have or have[each.key]["status"] == "failed"]
    conditions = list(dict.fromkeys(each.condition for each in asked))
    tasks_left = [each for each in conditions if spec.utility.tasks and not _scored(run, each, spec)]
    if not missing and not tasks_left:
        report(f"{len(asked):,} answers, all of them there already")
        return
    report(f"{len(asked):,} answers" + (f", {len(asked) - len(missing):,} of them there already" if have else ""))
    meter = RowMeter("answering", "answers", len(missing))
    by_condition = {condition: list(group) for condition, group in groupby(missing, lambda each: each.condition)}
    busy = [each for each in conditions if each in by_condition or each in tasks_left]
    with show_progress(meter) as show, row_log(run, ANSWERS) as log:

        def on_row(row: Row) -> None:
            check_lease()
            meter.add(row)
            metrics.reply_kept("answering", row)
            show()

        for condition in (each for each in busy if each.endpoint is not None):
            assert condition.endpoint is not None
            client = endpoint_client(condition.endpoint)
            run_interruptibly(_ask(spec, by_condition.get(condition, []), client, [], log, on_row))
            if condition in tasks_left:
                _do_tasks(spec, run, condition, condition.endpoint.url, report)
        served = [each for each in busy if each.endpoint is None]
        for plan in engines.plans(served) if served else []:
            names = {model.name for model in plan.models}
            own = [each for each in served if each.served_name in names]
            open_questions = [question for each in own for question in by_condition.get(each, [])]
            with engines.serve(plan) as up:
                run_interruptibly(_ask(spec, open_questions, up.client(), canary_pairs(plan), log, on_row))
                for condition in (each for each in own if each in tasks_left):
                    _do_tasks(spec, run, condition, _reachable(up), report)


async def _ask(
    spec: EvaluateSpec,
    asked: Sequence[Question],
    client: Client,
    pairs: Sequence[tuple[str, str]],
    log: RowLog,
    on_row: Callable[[Row], None],
) -> None:
    async with client:
        for base, name in pairs:
            await check_canary(client, base, name)
        renderers: dict[str, Renderer | None] = {}
        for question in asked:
            condition = question.condition
            if condition.name not in renderers:
                served = condition.endpoint is None
                renderers[condition.name] = Renderer(condition, spec.serving.max_model_len) if served else None
        await ask_all(
            asked, client, lambda each: request_of(each, spec.sampling, renderers[each.condition.name]), log, on_row
        )


def judge_missing(
    run: RunDirectory,
    open_to: Sequence[Case],
    engines: Engines,
    check_lease: Callable[[], None],
    report: Callable[[str], None],
) -> None:
    """Gets every verdict that the run directory does not hold yet; keywords first, they need no model."""
    have = logged_rows(run, VERDICTS)
    missing = [each for each in open_to if each.key not in have or have[each.key]["status"] == "failed"]
    if not missing:
        return
    report(f"{len(open_to):,} verdicts" + (f", {len(open_to) - len(missing):,} of them there already" if have else ""))
    meter = RowMeter("judging", "verdicts", len(missing))
    with show_progress(meter) as show, row_log(run, VERDICTS) as log:

        def on_row(row: Row) -> None:
            check_lease()
            meter.add(row)
            metrics.reply_kept("judging", row)
            show()

        asked = []
        for case in missing:
            verdict = verdict_at_once(case)
            if verdict is None:
                asked.append(case)
                continue
            row = verdict_row(case, verdict, "", None)
            log.add(row)
            on_row(row)
        models = list(dict.fromkeys(case.judge.model for case in asked if case.judge.model is not None))
        for model in (each for each in models if each.endpoint is not None):
            assert model.endpoint is not None
            run_interruptibly(
                _judge(
                    [case for case in asked if case.judge.model == model],
                    endpoint_client(model.endpoint),
                    [],
                    log,
                    on_row,
                )
            )
        served = [each for each in models if each.endpoint is None]
        for plan in engines.plans(served) if served else []:
            names = {model.name for model in plan.models}
            own = [case for case in asked if case.judge.model in served and _name(case) in names]
            with engines.serve(plan) as up:
                run_interruptibly(_judge(own, up.client(), canary_pairs(plan), log, on_row))


def _name(case: Case) -> str:
    return "" if case.judge.model is None else case.judge.model.served_name


async def _judge(
    asked: Sequence[Case],
    client: Client,
    pairs: Sequence[tuple[str, str]],
    log: RowLog,
    on_row: Callable[[Row], None],
) -> None:
    async with client:
        for base, name in pairs:
            await check_canary(client, base, name)
        await judge_all(asked, client, log, on_row)


def utility_scores(run: RunDirectory, spec: EvaluateSpec, conditions: Sequence[Condition]) -> list[dict[str, Any]]:
    """What lm-eval measured of the conditions: a line a condition, task and metric."""
    found = []
    for condition in conditions:
        names = {"condition": condition.name, "group": condition.group, "seed": condition.seed}
        scores = _scored(run, condition, spec) or []
        found += [{**names, **score} for score in scores]
    return found


def _scored(run: RunDirectory, condition: Condition, spec: EvaluateSpec) -> list[dict[str, Any]] | None:
    try:
        found: list[dict[str, Any]] = run.read_json(_scores_file(condition, spec))["scores"]
    except FileNotFoundError:
        return None
    return found


def _scores_file(condition: Condition, spec: EvaluateSpec) -> str:
    asked = [condition.fingerprint, spec.sampling.system_prompt, spec.utility.model_dump(mode="json")]
    return f"utility/{condition.name}-{hashlib.sha256(canonical_json(asked)).hexdigest()[:16]}.json"


def _do_tasks(
    spec: EvaluateSpec, run: RunDirectory, condition: Condition, base_url: str, report: Callable[[str], None]
) -> None:
    file = _scores_file(condition, spec)
    out = run.local_path(f"{PRIVATE}/{file.removesuffix('.json')}")
    if out is None:
        raise PreflightError("field utility.tasks: lm-eval writes to a local disk; give a run.dir that is a folder")
    report(f"{condition.name}: lm-eval's tasks {', '.join(spec.utility.tasks)}")
    endpoint = condition.endpoint
    scores: list[UtilityScore] = run_utility(
        base_url=base_url,
        model=condition.served_name,
        tasks=spec.utility.tasks,
        out=out,
        tokenizer=None if endpoint is not None else condition.folder,
        chat=True,
        limit=spec.utility.limit,
        api_key_env=None if endpoint is None else endpoint.api_key_env,
        system_prompt=spec.sampling.system_prompt,
        on_line=report,
    )
    run.write_json(file, {"condition": condition.name, "scores": [asdict(score) for score in scores]})


def _reachable(up: Served) -> str:
    if up.transport is not None:
        raise PreflightError("field utility.tasks: lm-eval needs a server; run without --local")
    return up.base_url
