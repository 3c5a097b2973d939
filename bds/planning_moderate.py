"""What a moderation would do, from the spec and the dataset alone: no model is loaded and nothing is written."""

from typing import Any

from bds.data.reader import read_rows
from bds.data.rows import STATUSES
from bds.errors import PreflightError
from bds.planning import count_rows
from bds.runs.directory import RunDirectory
from bds.runs.plan import read_plan, read_shard
from bds.spec.identity import spec_hash
from bds.spec.moderate import ModerateSpec


def plan_moderation(spec: ModerateSpec) -> dict[str, Any]:
    """The plan as JSON-ready values.

    Raises:
        SpecError, PreflightError: the dataset or the audit cannot be read.
    """
    statuses = _statuses(spec)
    answers = statuses.get("ok", 0)
    return {
        "spec_hash": spec_hash(spec),
        "run_dir": spec.run_dir,
        "rows_of": spec.audit if spec.data is None else spec.data.path,
        "rows": sum(statuses.values()),
        "statuses": statuses,
        "judges": [
            {"name": name, "method": judge.method, "model": judge.model, "verdicts": answers}
            for name, judge in spec.judges.items()
        ],
    }


def moderation_plan_text(plan: dict[str, Any]) -> str:
    """The plan for a person."""
    statuses = ", ".join(f"{number:,} {status}" for status, number in plan["statuses"].items())
    lines = [f"{plan['rows_of']}, rows: {plan['rows']:,} ({statuses})", f"judges, in {plan['run_dir']}:"]
    for judge in plan["judges"]:
        by = "keywords, no model" if judge["model"] is None else judge["model"]
        lines.append(f"  {judge['name']}: {judge['verdicts']:,} answers by {judge['method']} ({by})")
    return "\n".join(lines)


def _statuses(spec: ModerateSpec) -> dict[str, int]:
    """Rows by status; of an audit as it read them."""
    if spec.data is not None:
        counted = count_rows(read_rows(spec.data)).statuses
        return {status: counted[status] for status in STATUSES if counted[status]}
    audit = RunDirectory(str(spec.audit))
    plan = read_plan(audit)
    if plan is None:
        raise PreflightError(f"{audit.uri} holds no audit; run `bds audit` to its end first")
    found: dict[str, int] = {}
    for shard in plan.shards:
        for status, number in read_shard(audit, shard)["status"].value_counts().iter_rows():
            found[status] = found.get(status, 0) + number
    return {status: found[status] for status in STATUSES if status in found}
