"""Where requests go: to models that Ray Serve serves, to models in this process, or to an endpoint of the user's."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import TYPE_CHECKING

import httpx

from bds.errors import PreflightError
from bds.evaluation.client import Client
from bds.evaluation.conditions import Condition
from bds.evaluation.engines.choose import available_engine, distribution_of
from bds.evaluation.engines.plan import EngineName, EnginePlan, EngineSettings, ServedModel, engine_plans
from bds.evaluation.fingerprint import combined
from bds.spec.evaluate import EvaluateSpec
from bds.spec.serving import EndpointSpec, ServingSpec

if TYPE_CHECKING:
    from bds.distributed.serving import Serving

OWN_TRIES = 60
"""Of a request to an engine of bds's own, which is replaced within a minute when it dies."""

_IN_THIS_PROCESS = "http://in-this-process/v1"


@dataclass(frozen=True)
class Served:
    """Models that are up. Each call of `client` gives one for one event loop."""

    base_url: str
    concurrent: int
    transport: httpx.AsyncBaseTransport | None = None

    def client(self) -> Client:
        return Client(
            self.base_url, concurrent=self.concurrent, tries=OWN_TRIES, timeout=600.0, transport=self.transport
        )


class Engines:
    """Serves what is asked for, by Ray Serve or in this process. Ray is connected when it is first needed."""

    def __init__(self, spec: EvaluateSpec, *, local: bool, port: int | None) -> None:
        self._spec = spec
        self._local = local
        self._port = port
        self._opened = contextlib.ExitStack()
        self._serving: Serving | None = None
        if local and spec.serving.engine == "vllm":
            raise PreflightError("--local answers in this process with transformers; leave serving.engine vllm out")
        asked = "transformers" if local else spec.serving.engine
        self.engine, self.why = available_engine(asked)
        """vllm or transformers, and the sentence that says why."""
        self._settings = _settings(spec.serving, self.engine)

    @property
    def version(self) -> str:
        """Name and version of what computes the answers."""
        distribution = distribution_of(self.engine) or self.engine
        return f"{self.engine} {metadata.version(distribution)}"

    def close(self) -> None:
        self._opened.close()

    def plans(self, conditions: Sequence[Condition]) -> list[EnginePlan]:
        """As few engines as can serve the conditions, each with the bases that its adapters are checked against."""
        models = [
            ServedModel(each.served_name, each.path or "", each.adapter, each.fingerprint, each.revision)
            for each in with_bases(conditions)
        ]
        return engine_plans(models, self._settings)

    @contextlib.contextmanager
    def serve(self, plan: EnginePlan) -> Iterator[Served]:
        """The models of a plan are up inside the block.

        Raises PreflightError where they cannot be served here.
        """
        if self._local:
            from bds.evaluation.engines.transformers_app import create_app

            yield Served(_IN_THIS_PROCESS, self._settings.max_concurrent, httpx.ASGITransport(create_app(plan)))
            return
        up = self.start(plan)
        try:
            yield up
        finally:
            assert self._serving is not None
            self._serving.stop(plan)

    def start(self, plan: EnginePlan) -> Served:
        """The models of a plan behind a server that stays up. Raises PreflightError where they cannot be served."""
        if self._serving is None:
            from bds.distributed.serving import open_serving

            self._serving = self._opened.enter_context(open_serving(self._spec.resources, http_port=self._port))
        replicas = self._settings.max_replicas or self._settings.replicas
        return Served(self._serving.start(plan), self._settings.max_concurrent * replicas)


@contextlib.contextmanager
def open_engines(spec: EvaluateSpec, *, local: bool, port: int | None = None) -> Iterator[Engines]:
    """Ends what was started when the block ends. `port` is where Ray Serve listens; left out, a free one."""
    engines = Engines(spec, local=local, port=port)
    try:
        yield engines
    finally:
        engines.close()


def endpoint_client(endpoint: EndpointSpec) -> Client:
    key = os.environ.get(endpoint.api_key_env) if endpoint.api_key_env is not None else None
    return Client(endpoint.url, api_key=key, concurrent=endpoint.max_concurrent, timeout=endpoint.timeout_seconds)


def with_bases(conditions: Sequence[Condition]) -> list[Condition]:
    """The conditions, and before an adapter's the model that it stands on, where that is none of them."""
    found: list[Condition] = []
    plain = {(each.path, each.revision) for each in conditions if each.adapter is None}
    for condition in conditions:
        base = (condition.path, condition.revision)
        if condition.adapter is not None and base not in plain:
            plain.add(base)
            fingerprint = combined("base of", condition.fingerprint)
            found.append(replace(condition, name=f"base-of-{condition.name}", adapter=None, fingerprint=fingerprint))
        found.append(condition)
    return found


def canary_pairs(plan: EnginePlan) -> list[tuple[str, str]]:
    """Served names of which the second must answer unlike the first: an adapter and its base, two full models."""
    pairs = []
    for index, model in enumerate(plan.models):
        others = [each for each in plan.models if each.fingerprint != model.fingerprint and each.adapter is None]
        if model.adapter is not None:
            pairs += [
                (each.name, model.name) for each in others if (each.path, each.revision) == (model.path, model.revision)
            ]
        elif index > 0:
            pairs += [(each.name, model.name) for each in others if each.path != model.path][:1]
    return pairs


def _settings(serving: ServingSpec, engine: EngineName) -> EngineSettings:
    return EngineSettings(engine=engine, **serving.model_dump(exclude={"engine"}))
