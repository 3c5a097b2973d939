"""The conditions of an evaluation: everything that answers, from models, adapters, fine-tunes and endpoints."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bds.errors import PreflightError, SpecError
from bds.evaluation.fingerprint import combined, folder_fingerprint
from bds.runs.directory import RunDirectory
from bds.spec.evaluate import ConditionSpec, EvaluateSpec
from bds.spec.serving import EndpointSpec

FINETUNES = "finetunes.json"


@dataclass(frozen=True)
class Condition:
    """One thing that answers."""

    name: str
    group: str
    """Conditions of one group differ by seed only."""
    seed: int | None
    path: str | None
    """The model's folder or hub name; None behind an endpoint."""
    revision: str | None = None
    adapter: str | None = None
    endpoint: EndpointSpec | None = None
    fingerprint: str = ""
    """SHA-256 of weights, adapter, tokenizer and chat template; of an endpoint, of its version or its replies."""

    @property
    def served_name(self) -> str:
        """What the server knows it by. It holds the fingerprint, so that two models never share a name."""
        return self.endpoint.model if self.endpoint is not None else f"{self.name}@{self.fingerprint[:12]}"

    @property
    def folder(self) -> str:
        """Where its tokenizer and its chat template are."""
        assert self.path is not None, "an endpoint has its own"
        if self.adapter is not None and (Path(self.adapter) / "tokenizer_config.json").is_file():
            return self.adapter
        return self.path


def conditions_of(spec: EvaluateSpec) -> list[Condition]:
    """The models of the spec and the finished fine-tunes of its runs, in order, without their fingerprints yet.

    Raises:
        SpecError: two conditions would have the same name.
        PreflightError: a run of fine-tunes is not there or has none that finished.
    """
    found = [_written(name, model) for name, model in spec.models.items()]
    for run_dir in spec.finetunes:
        found += _finetuned(run_dir)
    names: set[str] = set()
    for condition in found:
        if condition.name in names:
            raise SpecError(
                f"two conditions would be named {condition.name}; name the models of the spec otherwise, or give the "
                "fine-tunes as models of their own"
            )
        names.add(condition.name)
    return found


def _written(name: str, model: ConditionSpec) -> Condition:
    return Condition(name, model.group or name, model.seed, model.path, model.revision, model.adapter, model.endpoint)


def _finetuned(run_dir: str) -> list[Condition]:
    run = RunDirectory(run_dir)
    try:
        results: Sequence[Mapping[str, Any]] = run.read_json(FINETUNES)["results"]
    except FileNotFoundError as error:
        raise PreflightError(
            f"field finetunes: {run_dir} has no {FINETUNES}; name the run directory of a `bds finetune` that has ended"
        ) from error
    if not results:
        raise PreflightError(f"field finetunes: none of the fine-tunes in {run_dir} finished; run it again")
    if not run.is_local:
        raise PreflightError(f"field finetunes: {run_dir} is no folder, and models load from a folder; copy it to one")
    told = [name for name in ("model", "dataset", "recipe", "mitigation") if len({each[name] for each in results}) > 1]
    seeds = len({each["seed"] for each in results}) > 1
    conditions = []
    for each in results:
        group = ".".join(each[name] for name in told or ["dataset"])
        saved = run.url_of(f"models/{each['id']}/{each['output']}")
        is_adapter = each["output"] == "adapter"
        conditions.append(
            Condition(
                name=f"{group}.seed-{each['seed']}" if seeds else group,
                group=group,
                seed=each["seed"],
                path=each["base_model"] if is_adapter else saved,
                revision=each["base_revision"] if is_adapter else None,
                adapter=saved if is_adapter else None,
            )
        )
    return conditions


def with_fingerprint(condition: Condition, hub_commit: Callable[[str, str | None], str]) -> Condition:
    """A condition with the fingerprint of its files; one behind an endpoint gets it from its replies, elsewhere.

    Args:
        hub_commit: the commit of a model on the hub, by name and revision.
    """
    if condition.path is None:
        return condition
    parts = [_fingerprint(condition.path, condition.revision, hub_commit)]
    if condition.adapter is not None:
        parts.append(_fingerprint(condition.adapter, None, hub_commit))
    return replace(condition, fingerprint=combined(*parts))


def _fingerprint(path: str, revision: str | None, hub_commit: Callable[[str, str | None], str]) -> str:
    folder = Path(path)
    return folder_fingerprint(folder) if folder.is_dir() else f"{path}@{hub_commit(path, revision)}"
