"""What a user asks of a study: samples chosen by one model, the damage that they do to another."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from bds.spec.evaluate import JUDGES_ARE, SUITES_ARE, Judges, SamplingSpec, StatisticsSpec, Suites, UtilitySpec
from bds.spec.finetune import (
    MixSpec,
    Names,
    RecipeFileSpec,
    RecipeSpec,
    StageSpec,
    TrainedModelSpec,
    TrainingResourcesSpec,
    different_seeds,
    keyed_by,
    plain_training,
    written_as,
)
from bds.spec.judges import default_judges
from bds.spec.mitigations import MitigationSpec
from bds.spec.models import (
    AnchorsSpec,
    Block,
    DataSpec,
    ScoreSpec,
    ScoringResourcesSpec,
    SelectionKind,
    SelectionSpec,
    TokensSpec,
)
from bds.spec.serving import ServingSpec

SCORERLESS_KINDS = ("whole", "random", "random_lists", "random_math")
"""Kinds of selection that no model's scores decide."""

DRAWN_KINDS = ("random", "random_lists", "random_math", "random_matched_length", "random_matched_format")
"""Kinds of selection that a seed draws."""


class StudyModelSpec(TrainedModelSpec):
    """A chat model that scores datasets, is fine-tuned on what was selected, or both."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="For scoring; auto: float32 on a CPU, the checkpoint's own on a GPU."
    )
    parameters: float | None = Field(
        None, gt=0, description="Their number, for the estimate of a plan; left out: read from a local model."
    )
    training: TrainingResourcesSpec | None = Field(
        None, description="Of this model's fine-tunes, instead of resources.training: a large one takes more."
    )
    serving: ServingSpec | None = Field(None, description="Of this model's evaluation, instead of the study's.")


class StudySelectionSpec(Block):
    """Rows of a dataset to fine-tune on."""

    kind: Literal["whole"] | SelectionKind = Field(
        description="whole is every row; the others are those of an audit's `select`."
    )
    detector: str | None = Field(None, description="Ranks top, bottom and filtered; what a matched control matches.")
    count: int | None = Field(None, ge=1, description="Rows selected; of filtered, rows left out.")
    share: float | None = Field(None, gt=0, lt=1, description="Instead of count: a share of the scored rows.")
    seed: int = 0
    draws: int = Field(1, ge=1, description="Of a random kind: how many draws, with seeds from `seed` on.")
    drop_short_answers: bool = Field(False, description="Guan et al.'s post-filter of yes/no answers.")
    control: str | None = Field(
        None,
        description="The selection that this one is compared with; left out: for filtered the whole dataset, for the "
        "others the first random one.",
    )
    mix: MixSpec | None = Field(None, description="Hide the rows in a larger benign dataset.")

    @model_validator(mode="after")
    def _complete(self) -> "StudySelectionSpec":
        if self.kind == "whole":
            if (self.detector, self.count, self.share, self.draws) != (None, None, None, 1):
                raise ValueError("whole is every row; leave out detector, count, share and draws")
            return self
        if (self.count is None) == (self.share is None):
            raise ValueError("give either count or share")
        if self.draws > 1 and self.kind not in DRAWN_KINDS:
            raise ValueError(f"{self.kind} is the same in every draw; leave out draws")
        return self

    def of_audit(self, name: str, draw: int) -> SelectionSpec:
        """As an audit selects it."""
        fields = ("kind", "detector", "count", "share", "drop_short_answers")
        return SelectionSpec(name=name, seed=self.seed + draw, **{field: getattr(self, field) for field in fields})


class ExperimentSpec(Block):
    """One question: a product of names. What several experiments have in common is done once."""

    question: str = Field("", description="What is asked, for the report.")
    scorers: list[str] | None = Field(None, min_length=1, description="Models that select; left out: the study's.")
    datasets: list[str] | None = Field(None, min_length=1)
    selections: list[str] | None = Field(None, min_length=1)
    targets: list[str] | None = Field(None, min_length=1, description="Models that are fine-tuned.")
    recipes: list[str] | None = Field(None, min_length=1)
    mitigations: list[str] | None = Field(None, min_length=1)
    seeds: Annotated[list[int], AfterValidator(different_seeds)] | None = Field(None, min_length=1)
    then: list[StageSpec] = Field(
        default_factory=list, description="Further stages of each fine-tune, trained from the one before."
    )


class NotesSpec(Block):
    """What a reader of the plan and the report must know of a study that repeats a publication."""

    source: str = Field("", description="The publication.")
    reproduces: list[str] = Field(default_factory=list, description="Published figures that it would reproduce.")
    assumptions: list[str] = Field(default_factory=list)
    unknown: list[str] = Field(default_factory=list, description="What the publication does not say.")


class EstimateSpec(Block):
    """What an estimate of time and cost assumes until steps of the study have been measured."""

    teraflops: float = Field(989.0, gt=0, description="Dense bfloat16 peak of one GPU in TFLOP/s; an H100's or H200's.")
    utilisation: float = Field(0.3, gt=0, le=1, description="Share of the peak that is reached.")
    price_per_gpu_hour: float = Field(3.0, ge=0)
    currency: str = "USD"
    tokens_per_row: int = Field(256, ge=1, description="Where a dataset cannot be read to count them.")
    rows_per_dataset: int = Field(15000, ge=1, description="Where a dataset cannot be read to count them.")
    prompts_per_suite: int = Field(300, ge=1, description="Where a suite cannot be read to count them.")


class StudyResourcesSpec(Block):
    """The cluster, and what each kind of step takes of it."""

    address: str | None = Field(None, description="A Ray cluster's address; left out: a private one on this machine.")
    wait_seconds: int = Field(600, ge=0, description="How long a step waits for the cluster to have its resources.")
    steps: int | Literal["auto"] = Field(
        "auto", description="Steps at a time; auto: on one machine 1, on a cluster another while there is room for it."
    )
    scoring: ScoringResourcesSpec = ScoringResourcesSpec()
    training: TrainingResourcesSpec = TrainingResourcesSpec()


class StudyRunSpec(Block):
    """Where the study lives and what may go wrong."""

    dir: str = Field(description="The run directory, a local folder: models are served from it.")
    rows_per_shard: int = Field(256, ge=1)
    checkpoint_steps: int = Field(50, ge=1, description="Optimiser steps between checkpoints: what a kill can cost.")
    restarts: int = Field(2, ge=0, description="How often a fine-tune whose worker died starts again by itself.")
    max_failed_fraction: float = Field(0.01, ge=0, le=1, description="Of the rows of an audit.")
    max_unusable_fraction: float = Field(0.01, ge=0, le=1, description="Of the rows of a training dataset.")
    max_unscored_fraction: float = Field(0.02, ge=0, le=1, description="Of the answers to a suite.")


def _blocks_of_kind(value: Any) -> Any:
    """A plain `whole` stands for the block."""
    if not isinstance(value, dict):
        return value
    return {name: {"kind": entry} if isinstance(entry, str) else entry for name, entry in value.items()}


class StudySpec(Block):
    """Audits, fine-tunes and evaluations of one question or several, and what they say together."""

    api_version: Literal["bds/v1"] = "bds/v1"
    kind: Literal["study"] = "study"
    name: str = "study"
    notes: NotesSpec = NotesSpec()
    models: Annotated[
        dict[str, StudyModelSpec], Names, keyed_by("path", dict[str, str | StudyModelSpec] | list[str])
    ] = Field(min_length=1, description="Name to folder or hub name, or to a block.")
    scorers: list[str] | None = Field(None, min_length=1, description="Models that select; left out: all.")
    targets: list[str] | None = Field(None, min_length=1, description="Models that are fine-tuned; left out: all.")
    datasets: Annotated[dict[str, DataSpec], Names, keyed_by("path", dict[str, str | DataSpec] | list[str])] = Field(
        min_length=1, description="Name to file, or to a block."
    )
    tokens: TokensSpec = TokensSpec()
    anchors: AnchorsSpec = AnchorsSpec()
    score: ScoreSpec = ScoreSpec()
    selections: Annotated[
        dict[str, StudySelectionSpec],
        Names,
        BeforeValidator(_blocks_of_kind, json_schema_input_type=dict[str, str | StudySelectionSpec]),
    ] = Field(min_length=1, description="Name to a block, or to `whole`.")
    recipes: Annotated[
        dict[str, RecipeSpec], Names, written_as(dict[str, str | RecipeSpec | RecipeFileSpec] | list[str])
    ] = Field(min_length=1, description="Name to a recipe file, or to a block with `from: FILE`.")
    mitigations: Annotated[
        dict[str, MitigationSpec], Names, keyed_by("method", dict[str, str | MitigationSpec] | list[str])
    ] = Field(default_factory=plain_training, min_length=1, description="Name to method, or to a block.")
    seeds: Annotated[list[int], AfterValidator(different_seeds)] = Field([0], min_length=1)
    experiments: Annotated[dict[str, ExperimentSpec], Names] = Field(
        default_factory=lambda: {"all": ExperimentSpec()},
        min_length=1,
        description="Name to a product of the names above; left out: one of everything.",
    )
    suites: Suites = Field(min_length=1, description=SUITES_ARE)
    judges: Judges = Field(default_factory=default_judges, min_length=1, description=JUDGES_ARE)
    sampling: SamplingSpec = SamplingSpec()
    serving: ServingSpec = ServingSpec()
    utility: UtilitySpec = UtilitySpec()
    statistics: StatisticsSpec = StatisticsSpec()
    estimate: EstimateSpec = EstimateSpec()
    resources: StudyResourcesSpec = StudyResourcesSpec()
    run: StudyRunSpec
