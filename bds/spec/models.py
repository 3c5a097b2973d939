"""What a user asks of an audit: one frozen Pydantic model a block, validated once, at the edge."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator


class Block(BaseModel):
    """A part of a spec: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSpec(Block):
    """The dataset to audit."""

    path: str = Field(
        description="A file, a folder, any pyarrow.fs URI (s3://...), or a Hugging Face dataset as hf://owner/name."
    )
    format: str = Field("auto", description="auto, or a name that `bds ls formats` prints.")
    columns: dict[str, str] | None = Field(
        None, description="Maps roles to the file's columns, for example {prompt: ask, answer: reply, system: persona}."
    )
    split: str = Field("train", description="The split of a Hugging Face dataset.")
    subset: str | None = Field(None, description="The configuration of a Hugging Face dataset.")
    limit: int | None = Field(None, ge=1, description="Read only the first rows.")


class TokensSpec(Block):
    """How a conversation becomes tokens, and which tokens carry the loss."""

    template: str = Field(
        "model", description="model (the model's own chat template), he2024, or the path of a Jinja file."
    )
    supervise: Literal["all", "last"] = Field("all", description="Loss on every assistant turn or on the last one.")
    max_tokens: int = Field(1024, ge=8, description="A longer row is cut at its end, with a status.")


class LoraSpec(Block):
    """The adapter that `parameters: lora` attaches when the model brings none."""

    rank: int = Field(8, ge=1)
    alpha: float = Field(32.0, gt=0)
    target_modules: list[str] | str = Field("all-linear")
    seed: int = 0


class ModelSpec(Block):
    """The chat model whose refusals are at stake."""

    path: str = Field(description="A local directory or a Hugging Face model name.")
    revision: str | None = None
    adapter: str | None = Field(None, description="A PEFT adapter on top of the model.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: float32 on a CPU, the checkpoint's own on a GPU."
    )


def _role(name: str) -> str | None:
    if name.startswith("harmful"):
        return "harmful"
    return "safe" if name.startswith("safe") else None


class AnchorSetSpec(Block):
    """One named set of anchor samples: what the audited rows are compared with."""

    path: str = Field(description="JSONL of messages, or prompt and answer; the public anchor files load too.")
    role: Literal["harmful", "safe"] = Field(
        description="Taken from the set's name when that begins with harmful or safe."
    )


def _anchor_sets(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    sets = {}
    for name, entry in value.items():
        block = {"path": entry} if isinstance(entry, str) else dict(entry) if isinstance(entry, dict) else entry
        if isinstance(block, dict) and "role" not in block and _role(str(name)) is not None:
            block["role"] = _role(str(name))
        sets[name] = block
    return sets


class AnchorsSpec(Block):
    """The anchor sets and how their gradients are taken."""

    sets: Annotated[
        dict[str, AnchorSetSpec],
        BeforeValidator(_anchor_sets, json_schema_input_type=dict[str, str | AnchorSetSpec]),
    ] = Field(default_factory=dict)
    first_answer_tokens: int | None = Field(
        10, ge=1, description="Loss on the first answer tokens of an anchor only (He et al. use 10); null for all."
    )
    gradients: Literal["per_sample", "direction"] = Field(
        "per_sample",
        description="per_sample keeps every anchor apart (factored); direction keeps one dense mean a set.",
    )


class DetectorSpec(Block):
    """One detector with its options; a plain name takes the published options."""

    name: str
    label: str | None = Field(None, description="Column name of this instance; the detector's name when left out.")
    weights: dict[str, float] | None = Field(None, description="gradient_bidirectional: weight of each anchor set.")
    top_n: int | None = Field(None, ge=1, description="representation: mean of the n largest cosines (1 as published).")
    scale: Literal["raw", "median"] | None = Field(
        None, description="self_influence_n: what Self-Inf is divided by before the +1."
    )
    layer: int | None = Field(None, description="larf, compliance_shift: the layer, instead of choosing one.")
    probe_prompts: str | None = Field(None, description="larf: JSONL of over-refusal prompts for its layer choice.")
    seed: int | None = Field(None, description="random: the draw.")
    of: list[str] | None = Field(
        None,
        min_length=2,
        description="rank_average, calibrated: columns of detectors that stand before it in the list.",
    )
    calibration: str | None = Field(None, description="calibrated: the weights that a study learned, a JSON file.")

    @property
    def column(self) -> str:
        return self.label or self.name


def _detectors(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    return [{"name": entry} if isinstance(entry, str) else entry for entry in value]


def _parameters(value: str) -> str:
    kind, _, count = value.partition(":")
    if value in {"all", "lora"} or (kind == "last_layers" and count.isdigit() and int(count) > 0):
        return value
    raise ValueError(f"'{value}' is not a parameter scope; write all, lora or last_layers:N")


class ScoreSpec(Block):
    """Which parameters, layers and detectors."""

    detectors: (
        Annotated[list[DetectorSpec], BeforeValidator(_detectors, json_schema_input_type=list[str | DetectorSpec])]
        | None
    ) = Field(None, min_length=1, description="Left out: every detector that the given anchors allow.")
    parameters: Annotated[str, AfterValidator(_parameters)] = Field("all", description="all, lora or last_layers:N.")
    lora: LoraSpec = LoraSpec()
    layers: list[int] = Field([-1], min_length=1, description="Hidden-state layers kept; -1 is after the final norm.")
    token_budget: int = Field(8192, ge=64, description="Padded tokens in one batch.")
    drop_refusals: bool = Field(
        False, description="Leave rows whose answer refuses or warns out of the selections, as both papers do."
    )


SelectionKind = Literal[
    "top",
    "bottom",
    "random",
    "random_matched_length",
    "random_matched_format",
    "random_lists",
    "random_math",
    "filtered",
]


class SelectionSpec(Block):
    """One subset to write out as a dataset."""

    kind: SelectionKind
    detector: str | None = Field(
        None, description="Ranks top, bottom and filtered, and is what a matched control matches."
    )
    count: int | None = Field(None, ge=1, description="Rows selected.")
    share: float | None = Field(None, gt=0, lt=1, description="Instead of count: a share of the scored rows.")
    seed: int = 0
    drop_short_answers: bool = Field(False, description="Guan et al.'s post-filter of yes/no answers.")
    name: str | None = None

    @model_validator(mode="after")
    def _one_size(self) -> "SelectionSpec":
        if (self.count is None) == (self.share is None):
            raise ValueError("give either count or share")
        return self


class ResourcesSpec(Block):
    """What a scoring actor takes. The number of actors never changes a result."""

    actors: int | Literal["auto"] = Field("auto", description="auto: as many as the cluster has room for.")
    cpus_per_actor: int = Field(1, ge=1)
    gpus_per_actor: float | Literal["auto"] = Field("auto", description="auto: 1 where the cluster has GPUs, else 0.")
    memory_per_actor: str | None = Field(None, description="For example 32GiB.")
    address: str | None = Field(None, description="A Ray cluster's address; left out: a private one on this machine.")
    wait_seconds: int = Field(60, ge=0, description="How long to wait for the cluster to have the resources.")


class ScoringResourcesSpec(ResourcesSpec):
    """What a scoring actor takes. Neither the number of actors nor that of parts changes a result."""

    parts_per_model: int = Field(
        1,
        ge=1,
        description="Processes, a GPU each, that one copy of the model is spread over, layer by layer; each takes what "
        "an actor takes.",
    )


class RunSpec(Block):
    """Where the run lives and when it counts as failed."""

    dir: str = Field(description="The run directory: a path or any pyarrow.fs URI.")
    rows_per_shard: int = Field(256, ge=1)
    max_failed_fraction: float = Field(
        0.01, ge=0, le=1, description="More rows that failed in scoring end with exit code 4."
    )
    fail_on: dict[str, float] = Field(
        default_factory=dict, description="Gates on metrics.json's `gates`, for example {flagged_fraction: 0.02}."
    )


class AuditSpec(Block):
    """The whole audit."""

    api_version: Literal["bds/v1"] = "bds/v1"
    kind: Literal["audit"] = "audit"
    name: str = "audit"
    data: DataSpec
    model: ModelSpec
    tokens: TokensSpec = TokensSpec()
    anchors: AnchorsSpec = AnchorsSpec()
    score: ScoreSpec = ScoreSpec()
    top: int | None = Field(
        None, ge=1, description="Rows in each selection where `select` is left out; null: 100, fewer for little data."
    )
    select: list[SelectionSpec] | None = Field(
        None, description="Left out: top 100, bottom, random and matched controls."
    )
    resources: ScoringResourcesSpec = ScoringResourcesSpec()
    run: RunSpec
