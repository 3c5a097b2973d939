"""What a user asks of an evaluation: conditions that answer suites, judges of the answers, and what is compared."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from bds.spec.finetune import Names, keyed_by
from bds.spec.judges import JudgeSpec, default_judges
from bds.spec.models import Block
from bds.spec.serving import EndpointSpec, ServingSpec
from bds.spec.suites import SuiteSpec, suites_of


class ConditionSpec(Block):
    """What answers: a model, with an adapter or without, or a model behind the user's own endpoint."""

    path: str | None = Field(None, description="A local directory or a Hugging Face model name.")
    revision: str | None = None
    adapter: str | None = Field(None, description="A PEFT adapter on top of the model.")
    endpoint: EndpointSpec | None = Field(None, description="Instead of a path: a server that is up already.")
    group: str | None = Field(None, description="Conditions of one group differ by seed only; left out: the name.")
    seed: int | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "ConditionSpec":
        if (self.path is None) == (self.endpoint is None):
            raise ValueError("give either path or endpoint")
        if self.path is None and (self.adapter, self.revision) != (None, None):
            raise ValueError("adapter and revision go with a path; an endpoint serves what it serves")
        return self


class SamplingSpec(Block):
    """How each prompt is answered."""

    max_tokens: int = Field(512, ge=1, description="An answer that reaches it is counted as truncated and judged.")
    temperature: float = Field(0.0, ge=0, le=2, description="0 is greedy.")
    top_p: float = Field(1.0, gt=0, le=1)
    samples: int = Field(1, ge=1, description="Answers to each prompt; more than 1 needs a temperature.")
    seed: int = 0
    system_prompt: str | None = Field(None, description="A system turn before every prompt.")

    @model_validator(mode="after")
    def _different_samples(self) -> "SamplingSpec":
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("several samples at temperature 0 are the same answer; set temperature, or samples to 1")
        return self


class UtilitySpec(Block):
    """Tasks of lm-eval that every condition does."""

    tasks: list[str] = Field(
        default_factory=list, description="Names of lm-eval's (gsm8k, ifeval, mmlu) or paths of task YAML files."
    )
    limit: int | None = Field(None, ge=1, description="Only the first samples of each task.")


class StatisticsSpec(Block):
    """How the numbers are compared. Fixed before anything is measured."""

    baseline: str | None = Field(None, description="The group that others are compared with; left out: the first.")
    primary_judge: str | None = Field(
        None, description="The judge of the headline; left out: the first that is a model, else the first."
    )
    confidence: float = Field(0.95, gt=0.5, lt=1)
    margin: float = Field(0.02, gt=0, lt=1, description="Of non-inferiority: what may be lost and still be no harm.")
    bootstrap: int = Field(10_000, ge=100, description="Resamples.")
    seed: int = Field(0, description="Draws the resamples.")


class EvaluationRunSpec(Block):
    """Where the evaluation lives and what may go wrong."""

    dir: str = Field(description="The run directory: a path or any pyarrow.fs URI.")
    max_unscored_fraction: float = Field(
        0.02, ge=0, le=1, description="More answers without a verdict of the primary judge end with exit code 4."
    )


class EvaluationResourcesSpec(Block):
    """The cluster that serves the models."""

    address: str | None = Field(None, description="A Ray cluster's address; left out: a private one on this machine.")
    wait_seconds: int = Field(60, ge=0, description="How long to wait for the cluster to have the resources.")


Suites = Annotated[list[SuiteSpec], BeforeValidator(suites_of, json_schema_input_type=list[str | SuiteSpec])]
SUITES_ARE = "Folders or files with prompts; `placeholder` for the made-up ones."

Judges = Annotated[dict[str, JudgeSpec], Names, keyed_by("method", dict[str, str | JudgeSpec] | list[str])]
JUDGES_ARE = "Name to a judge, or to a block."


class EvaluateSpec(Block):
    """Every condition answers every suite, and every judge judges every answer."""

    api_version: Literal["bds/v1"] = "bds/v1"
    kind: Literal["evaluate"] = "evaluate"
    name: str = "evaluation"
    models: Annotated[dict[str, ConditionSpec], Names, keyed_by("path", dict[str, str | ConditionSpec] | list[str])] = (
        Field(default_factory=dict, description="Name to folder or hub name, or to a block.")
    )
    finetunes: list[str] = Field(
        default_factory=list, description="Run directories of `bds finetune`: each fine-tune is a condition, too."
    )
    suites: Suites = Field(min_length=1, description=SUITES_ARE)
    judges: Judges = Field(default_factory=default_judges, min_length=1, description=JUDGES_ARE)
    sampling: SamplingSpec = SamplingSpec()
    serving: ServingSpec = ServingSpec()
    utility: UtilitySpec = UtilitySpec()
    statistics: StatisticsSpec = StatisticsSpec()
    resources: EvaluationResourcesSpec = EvaluationResourcesSpec()
    run: EvaluationRunSpec

    @model_validator(mode="after")
    def _something_answers(self) -> "EvaluateSpec":
        if not self.models and not self.finetunes:
            raise ValueError("nothing answers; give models or finetunes")
        return self
