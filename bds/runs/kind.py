"""What kind of run a directory holds: its resolved spec says so."""

from bds.errors import SpecError
from bds.runs.directory import RunDirectory

SPEC = "spec.resolved.json"


def kind_of(run: RunDirectory) -> str | None:
    """audit, finetune, evaluate or moderate; None where the directory holds no run."""
    try:
        return str(run.read_json(SPEC).get("kind", "audit"))
    except FileNotFoundError:
        return None


def expect_kind(run: RunDirectory, kind: str, what_for: str) -> None:
    """Raises SpecError where the directory holds a run of another kind."""
    found = kind_of(run)
    if found not in {None, kind}:
        raise SpecError(f"{run.uri} holds another kind of run ({found}); give another run.dir for {what_for}")
