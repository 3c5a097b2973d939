"""The steps of a study and what each waits for."""

from dataclasses import dataclass

from bds.spec.study import StudySpec
from bds.studies.plan import FinetuneRun, StudyPlan


@dataclass(frozen=True)
class Step:
    """One audit, one run of fine-tunes or one evaluation."""

    kind: str
    """audit, finetune or evaluate."""
    name: str
    after: tuple[str, ...] = ()
    """Steps that must have ended, well or not: what they left is worked with."""
    audit: tuple[str, str] | None = None
    """(dataset, scorer)."""
    run: FinetuneRun | None = None
    target: str | None = None

    @property
    def id(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Ended:
    """How a step ended."""

    step: str
    seconds: float
    failure: str = ""
    """Why it ended without all its results; empty where it has them."""


def steps_of(spec: StudySpec, plan: StudyPlan) -> list[Step]:
    """The audits first, then the fine-tunes of each target as soon as what they train on is there."""
    audits = [Step("audit", f"{dataset} by {scorer}", audit=(dataset, scorer)) for dataset, scorer in plan.audits]
    ids = {step.audit: step.id for step in audits}
    finetunes = [
        Step("finetune", run.name, tuple(ids[audit] for audit in plan.audits_of(run, spec)), run=run)
        for run in plan.runs
    ]
    evaluations = [
        Step(
            "evaluate",
            target,
            tuple(step.id for step in finetunes if step.run is not None and step.run.target == target),
            target=target,
        )
        for target in plan.targets
    ]
    return [*audits, *finetunes, *evaluations]
