"""`bds status` of a run: who works on it, how far it is, what failed and how to go on, from its directory alone."""

import shlex
from dataclasses import asdict
from typing import Any

from pydantic import ValidationError

from bds.errors import BdsError, PreflightError
from bds.runs.directory import RunDirectory
from bds.runs.messages import first_line
from bds.runs.progress import duration
from bds.runs.status import RunState, run_state, seconds_since
from bds.spec.study import StudySpec
from bds.status_progress import Progress, progress_of, steps_of_study

_FAILURES_SHOWN = 5


def run_status(uri: str) -> dict[str, Any]:
    """Everything that the directory tells, as plain values.

    Raises:
        PreflightError: the directory holds no run, or is damaged.
    """
    run = RunDirectory(uri)
    state, spec = run_state(run)
    try:
        progress = progress_of(run, spec, state.attempt, running=state.state == "running")
        steps = steps_of_study(run, StudySpec.model_validate(spec), state.attempt) if state.kind == "study" else []
    except ValidationError as error:
        raise PreflightError(
            f"{run.uri} was written by another version of bds ({first_line(error)}): look at it with that one"
        ) from error
    return {
        **asdict(state),
        "failures": list(state.failures),
        "progress": [{**asdict(each), "seconds_left": _left(state, each)} for each in progress],
        "steps": [asdict(step) for step in steps],
        "resume": None if state.state in {"running", "finished"} else resume_of(run.uri),
    }


def resume_of(uri: str, address: str | None = None) -> str:
    """The command that goes on with a run."""
    return shlex.join(["bds", "resume", uri, *([] if address is None else ["--address", address])])


def status_text(status: dict[str, Any]) -> str:
    """The same for people."""
    lines = [f"{status['kind']} {status['name']} in {status['run']}", _state_line(status)]
    for each in status["progress"]:
        lines.append(f"  {progress_line(each)}")
    lines += [f"  {_step_line(step)}" for step in status["steps"]]
    failures = status["failures"]
    if failures:
        lines.append(f"{len(failures)} failures in this attempt, the last of them:")
        lines += [f"  {failure}" for failure in failures[-_FAILURES_SHOWN:]]
    if status["resume"] is not None:
        lines.append(f"go on with: {status['resume']}")
    return "\n".join(lines)


def how_far(uri: str) -> str:
    """One phrase for a list of runs; why it cannot be said where it cannot."""
    try:
        run = RunDirectory(uri)
        state, spec = run_state(run)
        counted = progress_of(run, spec, state.attempt, running=False)
    except (BdsError, ValidationError, KeyError, ValueError) as error:
        return f"cannot be read ({first_line(error)})"
    return ", ".join(_amount(asdict(each)) for each in counted)


def progress_line(progress: dict[str, Any]) -> str:
    """`rows: 30 of 50, 4.2 a second, 5 s left`."""
    parts = [_amount(progress)]
    rate = progress["per_second"]
    if rate is not None:
        parts.append(f"{rate:.3g} a second" if rate >= 0.1 else f"{rate * 3600:.3g} an hour")
    if progress.get("seconds_left") is not None:
        parts.append(f"{duration(progress['seconds_left'])} left at this attempt's rate")
    return ", ".join(parts)


def _left(state: RunState, progress: Progress) -> float | None:
    """Nothing is left of time where nobody works."""
    left = progress.seconds_left
    return round(left, 1) if left and state.state == "running" else None


def _state_line(status: dict[str, Any]) -> str:
    told = {
        "running": "running",
        "finished": "finished",
        "interrupted": "interrupted; what is finished is kept",
        "failed": f"ended with: {status['reason']}",
        "died": "its process ended without a word (killed, or its machine went); what is finished is kept",
    }[status["state"]]
    line = f"attempt {status['attempt']}: {told}" if status["attempt"] else told
    if status["state"] == "running":
        since = f", {duration(seconds_since(status['started']))} so far" if status["started"] else ""
        line += (
            f" on {status['host']} (process {status['pid']}){since}; its last heartbeat was "
            f"{duration(status['heartbeat_seconds'] or 0)} ago"
        )
    return line


def _amount(progress: dict[str, Any]) -> str:
    planned = progress["planned"]
    return f"{progress['what']}: {progress['done']:,}" + (f" of {planned:,}" if planned is not None else " so far")


def _step_line(step: dict[str, Any]) -> str:
    took = f" after {duration(step['seconds'])}" if step["seconds"] is not None and step["state"] != "running" else ""
    if step["state"] == "running":
        took = f" for {duration(step['seconds'])}"
    why = f": {step['reason']}" if step["reason"] else ""
    return f"{step['id']}: {step['state']}{took}{why}"


def is_over(status: dict[str, Any]) -> bool:
    """Nobody works on the run any more."""
    return bool(status["state"] != "running")
