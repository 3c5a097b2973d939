"""Where the steps of a study run: one after the other in this process, or side by side on a cluster with room for them.

On a cluster each step is a task that takes no CPU itself and only drives its own actors, workers and engines, as its
command would from a terminal. A task that dies is begun again, and says nothing about the others.
"""

import contextlib
import queue
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

from bds.distributed.session import alone_here, connect, deaths_kept_off_the_terminal
from bds.distributed.study_steps import run_step
from bds.errors import BdsError
from bds.runs.interrupts import Interrupted, interruptible
from bds.runs.messages import first_line
from bds.runs.progress import progress_as_lines
from bds.spec.models import ResourcesSpec
from bds.spec.study import StudySpec
from bds.studies.plan import StudyPlan
from bds.studies.steps import Step

_POLL_SECONDS = 0.5
_RETRIES = 2
"""Of a step whose process was killed, or whose machine went away: as a command given again, it resumes."""

_SETTLE_SECONDS = 20.0
"""What a step takes of the cluster shows only when its actors are up."""

_STOP_SECONDS = 2.0
"""How long an interrupted study waits for its steps to give their leases back."""


class StepRunner(Protocol):
    def has_room(self, step: Step, running: Sequence[Step]) -> bool:
        """Whether a step may begin beside those that run."""

    def begin(self, step: Step) -> None:
        """Begins a step; it may end before this returns."""

    def ended(self) -> list[tuple[Step, str]]:
        """Waits a moment for steps to end; each with why it has not all its results, empty where it has."""


class InThisProcess:
    """One step at a time, without Ray."""

    def __init__(self, spec: StudySpec, plan: StudyPlan, report: Callable[[Step, str], None]) -> None:
        self._spec, self._plan, self._report = spec, plan, report
        self._ended: list[tuple[Step, str]] = []

    def has_room(self, step: Step, running: Sequence[Step]) -> bool:
        return not running

    def begin(self, step: Step) -> None:
        failure = failure_of(
            lambda: run_step(self._spec, self._plan, step, local=True, report=lambda line: self._report(step, line))
        )
        self._ended.append((step, failure))

    def ended(self) -> list[tuple[Step, str]]:
        found, self._ended = self._ended, []
        return found


class OnCluster:
    """A task for each step, on the node of this process, which sees the run directory."""

    def __init__(self, spec: StudySpec, plan: StudyPlan, report: Callable[[Step, str], None]) -> None:
        import ray
        from ray.util.queue import Queue
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._task = ray.remote(_run).options(num_cpus=0, max_retries=_RETRIES, scheduling_strategy=here)
        self._lines = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
        self._report = report
        self._spec, self._plan = spec, plan
        self._running: dict[Any, Step] = {}
        self._begun = 0.0

    def has_room(self, step: Step, running: Sequence[Step]) -> bool:
        """Another step begins where the cluster has free what it takes at least; a machine alone is full with one.

        Evaluations go one at a time: they share Ray Serve, which the last one out shuts down.
        """
        if not running:
            return True
        if step.kind == "evaluate" and any(each.kind == "evaluate" for each in running):
            return False
        limit = self._spec.resources.steps
        if limit != "auto":
            return len(running) < limit
        if alone_here():
            return False
        import ray

        free = ray.available_resources()
        settled = time.monotonic() - self._begun >= _SETTLE_SECONDS
        return settled and all(
            free.get(name, 0) >= amount for name, amount in least_resources(self._spec, step).items()
        )

    def begin(self, step: Step) -> None:
        self._begun = time.monotonic()
        self._running[self._task.remote(self._spec, self._plan, step, self._lines)] = step

    def ended(self) -> list[tuple[Step, str]]:
        import ray

        done, _ = ray.wait(list(self._running), num_returns=1, timeout=_POLL_SECONDS)
        self._tell()
        return [(self._running.pop(reference), _failure(reference)) for reference in done]

    def stop(self) -> None:
        """Interrupts what runs still, so that each step gives its lease back."""
        import ray

        for reference in self._running:
            ray.cancel(reference, force=False)
        if self._running:
            ray.wait(list(self._running), num_returns=len(self._running), timeout=_STOP_SECONDS)
        with contextlib.suppress(ray.exceptions.RayError):
            self._tell()
            self._lines.shutdown(force=True)

    def _tell(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                step, line = self._lines.get_nowait()
                self._report(step, line)


@contextlib.contextmanager
def open_runner(
    spec: StudySpec, plan: StudyPlan, *, local: bool, report: Callable[[Step, str], None]
) -> Iterator[StepRunner]:
    """The runner for the time of the block, in which SIGINT and SIGTERM raise Interrupted.

    Raises PreflightError where the cluster cannot be reached.
    """
    if local:
        yield InThisProcess(spec, plan, report)
        return
    with (
        connect(ResourcesSpec(address=spec.resources.address)),
        deaths_kept_off_the_terminal(),
        interruptible(),
    ):
        runner = OnCluster(spec, plan, report)
        try:
            yield runner
        finally:
            runner.stop()


def least_resources(spec: StudySpec, step: Step) -> Mapping[str, float]:
    """What a step must have of a cluster to do anything, as Ray names it."""
    if step.kind == "audit":
        scoring = spec.resources.scoring
        processes = scoring.parts_per_model
        cpus, gpus = scoring.cpus_per_actor * processes, _gpus(scoring.gpus_per_actor) * processes
    elif step.kind == "finetune":
        training = spec.resources.training
        cpus, gpus = training.cpus_per_worker * training.workers, _gpus(training.gpus_per_worker) * training.workers
    else:
        serving = spec.serving
        each = serving.gpus_per_replica if serving.tensor_parallel == 1 else "auto"
        cpus = serving.cpus_per_replica * serving.replicas
        gpus = _gpus(each) * serving.tensor_parallel * serving.replicas
    need = {"CPU": float(cpus), "GPU": gpus}
    return need if gpus else {"CPU": float(cpus)}


def _gpus(asked: float | Literal["auto"]) -> float:
    """auto is 1 where the cluster has GPUs, else 0."""
    import ray

    if asked != "auto":
        return float(asked)
    return 1.0 if ray.cluster_resources().get("GPU", 0) else 0.0


def failure_of(act: Callable[[], BdsError | None]) -> str:
    """Why a step has not all its results; empty where it has."""
    try:
        error = act()
    except BdsError as raised:
        error = raised
    except Exception as raised:  # a defect of one step is no reason to give up the others
        return f"unexpected {type(raised).__name__}: {first_line(raised)}"
    return "" if error is None else str(error)


def _run(spec: StudySpec, plan: StudyPlan, step: Step, lines: Any) -> str:
    """One step, in a process of the cluster."""

    def tell(line: str) -> None:
        lines.put((step, line))

    try:
        with progress_as_lines(tell):
            return failure_of(lambda: run_step(spec, plan, step, local=False, report=tell))
    except Interrupted as interruption:  # what the user interrupted is the study, which tells it
        return str(interruption)


def _failure(reference: Any) -> str:
    import ray

    try:
        failure: str = ray.get(reference)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        return f"its process ended ({type(cause).__name__}: {first_line(cause)})"
    return failure
