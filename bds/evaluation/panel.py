"""The judges of an evaluation: what each is, what it gives, and what makes two verdicts comparable."""

import hashlib
from dataclasses import dataclass

from bds.data.values import canonical_json
from bds.errors import PreflightError, SpecError
from bds.evaluation.conditions import Condition
from bds.evaluation.judges import Judge, JudgeOptions, KeywordJudge, find_judge, read_prompt_file
from bds.spec.judges import JudgeSpec

METRICS = ("refused", "harmful", "score")
"""What a verdict may measure, in the order of the tables."""


@dataclass(frozen=True)
class PanelJudge:
    """One judge of the evaluation, under the name that the spec gives it."""

    name: str
    method: str
    judge: KeywordJudge | Judge
    options: JudgeOptions
    model: Condition | None
    """The model that judges; None for keywords."""

    @property
    def gives(self) -> tuple[str, ...]:
        """Of METRICS, those that it measures."""
        if isinstance(self.judge, KeywordJudge):
            return ("refused",)
        return tuple(metric for metric in METRICS if metric in self.judge.gives)

    @property
    def scale(self) -> tuple[float, float] | None:
        return None if isinstance(self.judge, KeywordJudge) else self.judge.scale

    @property
    def fingerprint(self) -> str:
        """SHA-256 of how it judges and of the model that does: verdicts compare only where it is equal."""
        if isinstance(self.judge, KeywordJudge):
            content = [self.judge.name, self.judge.matching, list(self.judge.phrases)]
        else:
            assert self.model is not None, "every other judge has a model"
            content = [self.judge.fingerprint(self.options), self.model.fingerprint]
        return hashlib.sha256(canonical_json(content)).hexdigest()


def panel_judge(name: str, spec: JudgeSpec) -> PanelJudge:
    """A judge of the spec; its model has no fingerprint yet.

    Raises:
        SpecError: an unknown judge, one without its model, an option that it does not read or a file without a prompt.
        PreflightError: a file that cannot be read.
    """
    field = f"field judges.{name}"
    try:
        judge = find_judge(spec.method)
        options = JudgeOptions(
            policy=read_prompt_file(spec.policy, "policy") if spec.policy is not None else "",
            template=read_prompt_file(spec.template, "template") if spec.template is not None else "",
            threshold=spec.threshold if spec.threshold is not None else JudgeOptions().threshold,
        )
        if isinstance(judge, Judge):
            judge.checked(options)
    except (SpecError, PreflightError) as error:
        raise type(error)(f"{field}: {error}") from error
    if isinstance(judge, KeywordJudge):
        if (spec.model, spec.endpoint, spec.policy, spec.template, spec.threshold) != (None,) * 5:
            raise SpecError(f"{field}: {spec.method} looks for phrases and takes no options; leave all but method out")
        return PanelJudge(name, spec.method, judge, options, None)
    if spec.model is None and spec.endpoint is None:
        raise SpecError(
            f"{field}: {spec.method} is a model that judges (made for {judge.model}); give its `model`, which bds "
            "serves, or an `endpoint`"
        )
    model = Condition(f"judge-{name}", name, None, spec.model, None, spec.adapter, spec.endpoint)
    return PanelJudge(name, spec.method, judge, options, model)
