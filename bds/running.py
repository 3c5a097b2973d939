"""A spec of any kind, checked and run: what its command shows of the outcome."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bds.errors import BdsError
from bds.spec.identity import AnySpec
from bds.submitting import check_any_spec

_WITH_NOTES = ("evaluate", "moderate", "study")
"""Kinds whose notes their own command tells; the others' are for `bds validate` and `bds plan`."""


@dataclass(frozen=True)
class Outcome:
    headline: str
    report: str
    summary: dict[str, Any]
    """For `--json`."""
    exit_error: BdsError | None


def run_spec(spec: AnySpec, *, command: Sequence[str], fresh: bool, local: bool, say: Callable[[str], None]) -> Outcome:
    """Checks a spec and runs it, or what is missing of its run.

    Args:
        command: what the user typed.

    Raises:
        SpecError, PreflightError: something is wrong before any work starts.
        BdsError: the run failed.
        Interrupted: SIGINT or SIGTERM; running again resumes.
    """
    for note in check_any_spec(spec):
        if spec.kind in _WITH_NOTES:
            say(f"note: {note}")
    # Each import only now: it takes seconds, and a mistake in the spec should not.
    match spec.kind:
        case "finetune":
            from bds.distributed.finetune import run_finetunes

            trained = run_finetunes(spec, fresh=fresh, local=local, command=command, report=say)
            summary = {
                "run_dir": trained.run_dir,
                "report": trained.report,
                "headline": trained.headline,
                "runs": trained.runs.to_dicts(),
            }
            return Outcome(trained.headline, trained.report, summary, trained.exit_error)
        case "evaluate":
            from bds.distributed.evaluate import run_evaluation

            return _measured(run_evaluation(spec, fresh=fresh, local=local, command=command, report=say))
        case "moderate":
            from bds.distributed.moderate import run_moderation

            return _measured(run_moderation(spec, fresh=fresh, local=local, command=command, report=say))
        case "study":
            from bds.distributed.study import run_study

            studied = run_study(spec, fresh=fresh, local=local, command=command, report=say)
            verdict = studied.results["verdict"]
            headline = "\n".join([verdict["headline"], *verdict["findings"]])
            found = {"run_dir": studied.run_dir, "report": studied.report, "results": studied.results}
            return Outcome(headline, studied.report, found, studied.exit_error)
    from bds.distributed.audit import run_audit

    return _measured(run_audit(spec, fresh=fresh, local=local, command=command, report=say))


def _measured(result: Any) -> Outcome:
    summary = {"run_dir": result.run_dir, "report": result.report, "metrics": result.metrics}
    return Outcome(result.metrics["verdict"]["headline"], result.report, summary, result.exit_error)
