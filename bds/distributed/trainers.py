"""Where fine-tunes run: in Ray Train TorchTrainers, several to one where they are small, or in this process.

What imports torch or transformers is imported where it is used: Ray starts several processes for every trainer, and
only those that train should wait for it.
"""

import contextlib
import functools
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from bds.distributed.metrics import StepMeter
from bds.errors import BdsError, PreflightError
from bds.runs.directory import RunDirectory
from bds.runs.interrupts import interruptible
from bds.runs.messages import first_line
from bds.runs.threads import limit_threads, limited_threads
from bds.spec.finetune import FinetuneSpec, TrainingResourcesSpec
from bds.spec.models import ResourcesSpec
from bds.spec.named_paths import hub_names
from bds.training.place import Place
from bds.training.plan import Assignment, finished
from bds.training.several import Failure, Outcome, Series, failure_of, spread

if TYPE_CHECKING:
    from bds.distributed.scoring import WorkerPool
    from bds.training.memory import TrainingMemory

_POLL_SECONDS = 2.0
_FOLDER = "ray_train"
_MOST = 16
"""Fine-tunes of one trainer at most, where the spec says no number: a process may not give back all of its memory, and
all behind a dead worker's fine-tune wait until it has started again."""


@dataclass(frozen=True)
class WorkerSize:
    """What one worker of a fine-tune takes."""

    cpus: int
    gpus: float
    memory: int | None
    """Bytes."""


class Trainers(Protocol):
    def train(
        self,
        assignments: Sequence[Assignment],
        *,
        on_outcome: Callable[[Outcome], None],
        on_wait: Callable[[Sequence[Assignment]], None],
    ) -> None:
        """Trains all of them; `on_wait` is called now and then with those under way."""


class LocalTrainers:
    """One after the other, without Ray."""

    def __init__(self, spec: FinetuneSpec, run: RunDirectory) -> None:
        self._spec = spec
        self._run = run

    def train(
        self,
        assignments: Sequence[Assignment],
        *,
        on_outcome: Callable[[Outcome], None],
        on_wait: Callable[[Sequence[Assignment]], None],
    ) -> None:
        for assignment in assignments:
            train = functools.partial(self._train_one, assignment, functools.partial(on_wait, [assignment]))
            with limited_threads(self._spec.resources.cpus_per_worker):
                on_outcome(Outcome(assignment, failure_of(train)))

    def _train_one(self, assignment: Assignment, on_progress: Callable[[], None]) -> None:
        import torch

        from bds.training.run import run_finetune

        device = "cuda" if torch.cuda.is_available() else "cpu"
        run_finetune(self._run, self._spec, assignment, Place(device=device), on_progress=on_progress)


class RayTrainers:
    """As many TorchTrainers at a time as the connected cluster has room for: one that had to wait for its workers would
    be started over and over. To start one takes 20 to 25 CPU seconds, so small fine-tunes share one."""

    def __init__(
        self, spec: FinetuneSpec, run: RunDirectory, assignments: Sequence[Assignment], report: Callable[[str], None]
    ) -> None:
        from bds.distributed.nodes import check_nodes
        from bds.distributed.workers import gpu_room
        from bds.training.memory import may_not_fit, too_little

        self._spec = spec
        self._run = run
        pool, needed = _plan_workers(spec, len(assignments), report)
        looks = check_nodes(run, pool, inputs=_inputs(spec), hub=hub_names(spec))
        gpu = gpu_room(looks, pool.gpus) if pool.gpus else None
        if needed is not None and gpu is not None:
            told = too_little(needed, gpu)
            if told is not None:
                raise PreflightError(told)
            warning = may_not_fit(needed, gpu)
            if warning is not None:
                report(f"warning: {warning}")
        self._size = WorkerSize(pool.cpus, pool.gpus, pool.memory)
        room = pool.actors // spec.resources.workers
        self._concurrent = room if spec.resources.concurrent == "auto" else min(room, spec.resources.concurrent)
        self._most = _most_per_trainer(spec.resources, pool.gpus)
        gpus = f", {pool.gpus:g} GPU" if pool.gpus else ""
        most = max(len(part) for part in self._parts(assignments))
        shared = f", up to {most} of them by one trainer" if most > 1 else ""
        report(
            f"Ray Train: {self._concurrent} fine-tune{'s' * (self._concurrent > 1)} at a time{shared}, "
            f"workers of each: {spec.resources.workers} of {pool.cpus} CPU{gpus}"
        )

    def train(
        self,
        assignments: Sequence[Assignment],
        *,
        on_outcome: Callable[[Outcome], None],
        on_wait: Callable[[Sequence[Assignment]], None],
    ) -> None:
        import ray

        fit = ray.remote(_fit).options(num_cpus=0, max_retries=0)
        waiting = self._parts(assignments)
        running: dict[Any, Series] = {}
        while waiting or running:
            while waiting and len(running) < self._concurrent:
                series = Series(self._run, _FOLDER, waiting.pop(0))
                running[fit.remote(self._run, self._spec, series, self._size)] = series
            ended, _ = ray.wait(list(running), timeout=_POLL_SECONDS)
            for series in running.values():
                for outcome in series.news():
                    on_outcome(outcome)
            for reference in ended:
                series = running.pop(reference)
                waiting[:0] = self._settle(series, _reason_of(reference), on_outcome)
            on_wait([series.left[0] for series in running.values() if series.left])

    def _parts(self, assignments: Sequence[Assignment]) -> list[list[Assignment]]:
        return spread(assignments, most=self._most, at_a_time=self._concurrent)

    def _settle(
        self, series: Series, failure: Failure | None, on_outcome: Callable[[Outcome], None]
    ) -> list[list[Assignment]]:
        """Tells the ends that an ended trainer did not record; returns what is to be tried again, a list a trainer."""
        left = []
        for assignment in series.left:
            if finished(self._run, assignment.task, assignment.key) is not None:
                on_outcome(Outcome(assignment, None))
            else:
                left.append(assignment)
        if len(series.assignments) > 1:
            # The first was under way when the trainer gave up, though others may have caused the deaths before: it is
            # tried alone, and what is behind it without it.
            return [part for part in (left[:1], left[1:]) if part]
        for assignment in left:
            on_outcome(Outcome(assignment, failure or Failure("its trainer ended without a result", "")))
        return []


@contextlib.contextmanager
def open_trainers(
    spec: FinetuneSpec,
    run: RunDirectory,
    assignments: Sequence[Assignment],
    *,
    local: bool,
    report: Callable[[str], None],
) -> Iterator[Trainers]:
    """Trainers for the time of the block, in which SIGINT and SIGTERM raise Interrupted.

    Raises PreflightError where the cluster cannot be reached, has no room, or does not see the run directory.
    """
    if local:
        if spec.resources.workers > 1:
            report("warning: resources.workers is for Ray; --local trains with one worker, to float tolerance the same")
        with interruptible():
            yield LocalTrainers(spec, run)
        return
    from bds.distributed.session import connect

    with connect(_per_worker(spec.resources)), interruptible():
        yield RayTrainers(spec, run, assignments, report)


def _inputs(spec: FinetuneSpec) -> dict[str, str]:
    """What a worker reads, by field; the rows it reads from the run directory."""
    found = {"tokens.template": spec.tokens.template}
    for name, model in spec.models.items():
        parts = {"path": model.path, "adapter": model.adapter, "base": model.base}
        found |= {f"models.{name}.{part}": path for part, path in parts.items() if path is not None}
    for name, mitigation in spec.mitigations.items():
        files = {part: getattr(mitigation, part, None) for part in ("refusals", "harmful", "safe", "audit")}
        found |= {f"mitigations.{name}.{part}": path for part, path in files.items() if path is not None}
    return found


def _per_worker(resources: TrainingResourcesSpec) -> ResourcesSpec:
    return ResourcesSpec(
        cpus_per_actor=resources.cpus_per_worker,
        gpus_per_actor=resources.gpus_per_worker,
        memory_per_actor=resources.memory_per_worker,
        address=resources.address,
        wait_seconds=resources.wait_seconds,
    )


def _plan_workers(
    spec: FinetuneSpec, finetunes: int, report: Callable[[str], None]
) -> "tuple[WorkerPool, TrainingMemory | None]":
    """The workers that there is room for, and what each of them takes on its device."""
    from bds.distributed.preflight import cluster_nodes, gpus_per_actor, plan_pool
    from bds.training.memory import memory_of_finetune

    workers, resources = spec.resources.workers, _per_worker(spec.resources)
    on_gpu = gpus_per_actor(resources, cluster_nodes()) > 0
    needed = memory_of_finetune(spec, "cuda" if on_gpu else "cpu")
    pool = plan_pool(
        resources,
        shards=finetunes * workers,
        # The weights of a worker on a GPU pass through main memory.
        memory_needed=None if needed is None else needed.weights if on_gpu else needed.always,
        at_least=workers,
        noun="worker",
        say=report,
    )
    if pool.actors < workers:
        raise PreflightError(f"the cluster has room for {pool.actors} of the {workers} workers of one fine-tune")
    return pool, needed


def _most_per_trainer(resources: TrainingResourcesSpec, gpus: float) -> int:
    if resources.finetunes_per_trainer != "auto":
        return resources.finetunes_per_trainer
    return 1 if resources.workers > 1 or gpus else _MOST


def _fit(run: RunDirectory, spec: FinetuneSpec, series: Series, size: WorkerSize) -> Failure | None:
    """One TorchTrainer from start to end, as a task of no CPU that only waits for it; why it gave up, if it did."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    resources: dict[str, float] = {"CPU": size.cpus}
    if size.gpus:
        resources["GPU"] = size.gpus
    if size.memory:
        resources["memory"] = size.memory
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={"run": run, "spec": spec, "series": series, "threads": size.cpus},
        torch_config=TorchConfig(backend=None if size.gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=spec.resources.workers, use_gpu=bool(size.gpus), resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=series.name,
            storage_path=f"{run.uri}/{_FOLDER}",
            failure_config=FailureConfig(max_failures=spec.run.restarts),
        ),
    )
    try:
        with _interrupts_as_before():
            trainer.fit()
    except Exception as error:  # Ray wraps what a worker raised in errors of its own
        return Failure(_root_cause(error), traceback.format_exc())
    return None


@contextlib.contextmanager
def _interrupts_as_before() -> Iterator[None]:
    """Ray's trainer leaves a handler of SIGINT behind that holds its controller: two processes of 600 MB together would
    live as long as this one, in a study until its end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _train_worker(config: dict[str, Any]) -> None:
    """What every worker of a TorchTrainer runs."""
    import ray.train
    import ray.train.torch
    import torch

    from bds.training.run import run_finetune

    limit_threads(config["threads"])
    context = ray.train.get_context()
    spec: FinetuneSpec = config["spec"]
    place = Place(
        rank=context.get_world_rank(),
        workers=context.get_world_size(),
        device=str(ray.train.torch.get_device()),
        sharding=spec.resources.sharding,
    )
    wait_for_all = torch.distributed.barrier if place.workers > 1 else lambda: None

    def train(assignment: Assignment) -> None:
        steps = StepMeter(place.workers)
        run_finetune(config["run"], spec, assignment, place, wait_for_all=wait_for_all, on_trained=steps.add)

    series: Series = config["series"]
    if place.workers == 1:
        # Trying again would not help: only a death of the process does Ray answer with another try. After an error of
        # CUDA every later call in the process fails, whatever it is for.
        series.train(train, stop_at_failure=place.device != "cpu")
        return
    # The others wait for this worker in an exchange of gradients: they end only when Ray sees that it failed.
    (assignment,) = series.assignments
    train(assignment)


def _reason_of(reference: Any) -> Failure | None:
    import ray

    try:
        failure: Failure | None = ray.get(reference)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        return Failure(f"Ray stopped it ({type(cause).__name__}: {first_line(cause)})", str(error))
    return failure


def _root_cause(error: BaseException) -> str:
    """The sentence of what went wrong in a worker, out of the errors that Ray wraps it in."""
    failures = getattr(error, "worker_failures", None) or {}
    for failure in failures.values():
        # What the worker raised, or what Ray found when it asked after a worker: its death, and of what.
        cause = getattr(failure, "_base_exc", None) or getattr(failure, "health_check_failure", failure)
        return str(cause) if isinstance(cause, BdsError) else f"{type(cause).__name__}: {first_line(cause)}"
    return f"{type(error).__name__}: {first_line(error)}"
