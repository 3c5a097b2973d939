"""`bds serve`: the conditions of an evaluation behind OpenAI-compatible servers that stay up for other clients."""

import time
from collections.abc import Callable

from bds.checks_hub import check_hub
from bds.distributed.engines import Served, canary_pairs, open_engines
from bds.distributed.identity import identified
from bds.errors import PreflightError
from bds.evaluation.conditions import conditions_of
from bds.evaluation.engines.canary import check_canary
from bds.evaluation.engines.plan import EnginePlan
from bds.runs.interrupts import interruptible, run_interruptibly
from bds.spec.evaluate import EvaluateSpec


def serve_conditions(
    spec: EvaluateSpec, *, port: int | None, report: Callable[[str], None], seconds: float | None = None
) -> None:
    """Serves every condition of a checked spec that has a model, until it is interrupted.

    Args:
        port: of the server; left out, a free one.
        seconds: how long; left out, until Ctrl-C.

    Raises:
        PreflightError: there is nothing to serve, or it cannot be served here.
        BdsError: a served adapter changes nothing.
        Interrupted: SIGINT or SIGTERM; everything that was started is ended.
    """
    check_hub(spec)
    conditions = [identified(each) for each in conditions_of(spec) if each.path is not None]
    if not conditions:
        raise PreflightError("there is nothing to serve: every condition of the spec is an endpoint already")
    with open_engines(spec, local=False, port=port) as engines, interruptible():
        report(engines.why)
        for plan in engines.plans(conditions):
            up = engines.start(plan)
            run_interruptibly(_check(plan, up))
            report(f"{up.base_url} serves {', '.join(model.name for model in plan.models)}")
        report("stop with Ctrl-C")
        ends = None if seconds is None else time.monotonic() + seconds
        while ends is None or time.monotonic() < ends:
            time.sleep(0.5)


async def _check(plan: EnginePlan, up: Served) -> None:
    async with up.client() as client:
        for base, name in canary_pairs(plan):
            await check_canary(client, base, name)
