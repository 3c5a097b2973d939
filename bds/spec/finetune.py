"""What a user asks of fine-tunes: every model on every dataset by every recipe under every mitigation, each seed."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from bds.spec.mitigations import MitigationSpec, NoMitigation
from bds.spec.models import Block, DataSpec, ModelSpec, TokensSpec


def _names(value: dict[str, Any]) -> dict[str, Any]:
    """Names become folders of the run directory."""
    for name in value:
        if not name or name.startswith(".") or not all(letter.isalnum() or letter in "._-+" for letter in name):
            raise ValueError(f"'{name}' cannot name a folder; use letters, digits and . _ - + and no leading dot")
    return value


def keyed(value: Any, key: str) -> Any:
    """A plain string stands for a block with that one key."""
    return {key: value} if isinstance(value, str) else value


def keyed_by(key: str, written: Any) -> BeforeValidator:
    """`keyed` for each named entry; `written` is the type that the JSON Schema shows."""

    def blocks(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: keyed(entry, key) for name, entry in value.items()}

    return BeforeValidator(blocks, json_schema_input_type=written)


def different_seeds(value: list[int]) -> list[int]:
    repeated = next((seed for index, seed in enumerate(value) if seed in value[:index]), None)
    if repeated is not None:
        raise ValueError(f"seed {repeated} is given twice; each seed is a fine-tune of its own, remove one")
    return value


class TrainedModelSpec(Block):
    """A chat model to fine-tune."""

    path: str = Field(description="A local directory or a Hugging Face model name.")
    revision: str | None = None
    adapter: str | None = Field(None, description="A PEFT adapter that a LoRA recipe goes on training.")
    base: str | None = Field(None, description="The checkpoint before alignment, for safe_lora.")

    @property
    def aligned(self) -> ModelSpec:
        """As the loaders take it."""
        return ModelSpec(path=self.path, revision=self.revision, adapter=self.adapter)


class MixSpec(Block):
    """A larger benign dataset that the samples are hidden in (data poisoning)."""

    into: Annotated[
        DataSpec, BeforeValidator(lambda value: keyed(value, "path"), json_schema_input_type=str | DataSpec)
    ] = Field(description="The benign dataset: a path, or a block with path, format and columns.")
    share: float = Field(gt=0, lt=1, description="Share of the mixture that the samples make up.")
    rows: int | None = Field(
        None, ge=2, description="Rows of the mixture; left out: as many as all samples and the share give."
    )
    seed: int = Field(0, description="Draws the benign rows.")

    def parts(self, samples: int) -> tuple[int, int]:
        """How many of so many samples the mixture has, and how many benign rows beside them."""
        if self.rows is None:
            return samples, round(samples * (1 - self.share) / self.share)
        wanted = max(1, round(self.rows * self.share))
        return wanted, self.rows - wanted


_AS_AUDITED = ("auto", None, "train", None)


class TrainingDataSpec(Block):
    """What to train on: a file, or a selection of an audit run."""

    path: str | None = Field(None, description="A file, a folder, a URI, or hf://owner/name, as an audit's data.path.")
    format: str = Field("auto", description="auto, or a name that `bds ls formats` prints.")
    columns: dict[str, str] | None = Field(None, description="Maps roles to the file's columns.")
    split: str = Field("train", description="The split of a Hugging Face dataset.")
    subset: str | None = Field(None, description="The configuration of a Hugging Face dataset.")
    limit: int | None = Field(None, ge=1, description="Train on the first rows only.")
    audit: str | None = Field(None, description="Instead of a path: the run directory of an audit.")
    selection: str | None = Field(None, description="The audit's selection, a name in its selections/ folder.")
    mix: MixSpec | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "TrainingDataSpec":
        if (self.path is None) == (self.audit is None):
            raise ValueError("give either path, or audit and selection")
        if (self.audit is None) != (self.selection is None):
            raise ValueError("audit and selection go together")
        if self.audit is not None and (self.format, self.columns, self.split, self.subset) != _AS_AUDITED:
            raise ValueError("a selection has the format and columns that the audit read; leave them out")
        return self


class AdapterSpec(Block):
    """The LoRA adapter that `parameters: lora` trains."""

    rank: int = Field(8, ge=1)
    alpha: float = Field(16.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: list[str] | str = Field("all-linear")


class RecipeSpec(Block):
    """How one fine-tune is trained. Counts are in samples; a batch is what one optimiser step sees, on all workers."""

    source: str = Field("", description="Where the numbers come from.")
    parameters: Literal["full", "lora"] = "full"
    lora: AdapterSpec = AdapterSpec()
    learning_rate: float = Field(gt=0)
    schedule: Literal["constant", "linear", "cosine", "epoch_decay"] = Field(
        "linear", description="linear and cosine end at 0; epoch_decay multiplies by `epoch_decay` after each epoch."
    )
    epoch_decay: float = Field(0.85, gt=0, le=1)
    warmup_share: float = Field(0.0, ge=0, lt=1, description="Share of the steps over which the rate rises from 0.")
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[float, float] = Field((0.9, 0.999), description="Of AdamW.")
    clip: float | None = Field(1.0, gt=0, description="Largest norm of a step's gradient; null for none.")
    epochs: int = Field(ge=1)
    batch: int = Field(ge=1, description="Samples of one optimiser step, all workers together.")
    micro_batch: int | None = Field(
        None, ge=1, description="Samples in one forward pass of one worker; left out: the worker's part of the batch."
    )
    last_batch: Literal["keep", "drop"] = Field(
        "keep", description="A last batch that is not full: keep trains on it; drop is refused where it loses samples."
    )
    shuffle: bool = True
    precision: Literal["auto", "float32", "bf16_mixed", "bf16"] = Field(
        "auto", description="auto: float32 on a CPU, bf16_mixed on a GPU. bf16 keeps the weights in bfloat16, too."
    )
    gradient_checkpointing: bool = False
    samples: int | None = Field(
        None, ge=1, description="Samples that the publication trains on; another number is warned about."
    )


class RecipeFileSpec(BaseModel):
    """A recipe file, and fields that replace the file's. In spec files only: loading puts a RecipeSpec in its place."""

    model_config = ConfigDict(extra="allow")
    file: str = Field(alias="from")


def written_as(written: Any) -> BeforeValidator:
    """What the JSON Schema shows for a recipe, which loading a spec file has put in place before validation."""
    return BeforeValidator(lambda value: value, json_schema_input_type=written)


class StageSpec(Block):
    """A further stage, trained from the output of the one before (continual learning)."""

    data: Annotated[
        TrainingDataSpec,
        BeforeValidator(lambda value: keyed(value, "path"), json_schema_input_type=str | TrainingDataSpec),
    ]
    recipe: Annotated[RecipeSpec, written_as(str | RecipeSpec | RecipeFileSpec)]


class TrainingResourcesSpec(Block):
    """What one fine-tune takes. Workers share each batch: their number changes a result in its last bits only."""

    workers: int = Field(1, ge=1, description="Data-parallel workers of one fine-tune.")
    sharding: Literal["ddp", "fsdp2"] = Field("ddp", description="fsdp2 spreads weights and optimiser over workers.")
    cpus_per_worker: int = Field(1, ge=1)
    gpus_per_worker: float | Literal["auto"] = Field("auto", description="auto: 1 where the cluster has GPUs, else 0.")
    memory_per_worker: str | None = Field(None, description="For example 32GiB.")
    concurrent: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="Fine-tunes at a time; auto: what there is room for."
    )
    finetunes_per_trainer: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="Fine-tunes at most that one worker process trains one after the other, started once for all of "
        "them; auto: 16, and 1 on a GPU or with more workers.",
    )
    address: str | None = Field(None, description="A Ray cluster's address; left out: a private one on this machine.")
    wait_seconds: int = Field(60, ge=0, description="How long to wait for the cluster to have the resources.")


class TrainingRunSpec(Block):
    """Where the fine-tunes live and what may go wrong."""

    dir: str = Field(description="The run directory: a path or any pyarrow.fs URI.")
    checkpoint_steps: int = Field(50, ge=1, description="Optimiser steps between checkpoints: what a kill can cost.")
    restarts: int = Field(2, ge=0, description="How often a fine-tune whose worker died starts again by itself.")
    max_unusable_fraction: float = Field(
        0.01, ge=0, le=1, description="A dataset with more rows that cannot be trained on is refused."
    )


class OnlySpec(Block):
    """Some of the combinations: those of these names, any where a list is left out."""

    models: list[str] | None = None
    datasets: list[str] | None = None
    recipes: list[str] | None = None
    mitigations: list[str] | None = None
    seeds: list[int] | None = None


def plain_training() -> dict[str, MitigationSpec]:
    return {"none": NoMitigation()}


Names = AfterValidator(_names)


class FinetuneSpec(Block):
    """All the fine-tunes of one run directory: the product of models, datasets, recipes, mitigations and seeds."""

    api_version: Literal["bds/v1"] = "bds/v1"
    kind: Literal["finetune"] = "finetune"
    name: str = "finetune"
    models: Annotated[
        dict[str, TrainedModelSpec], Names, keyed_by("path", dict[str, str | TrainedModelSpec] | list[str])
    ] = Field(min_length=1, description="Name to folder or hub name, or to a block.")
    datasets: Annotated[
        dict[str, TrainingDataSpec], Names, keyed_by("path", dict[str, str | TrainingDataSpec] | list[str])
    ] = Field(min_length=1, description="Name to file, or to a block.")
    recipes: Annotated[
        dict[str, RecipeSpec], Names, written_as(dict[str, str | RecipeSpec | RecipeFileSpec] | list[str])
    ] = Field(
        min_length=1,
        description="Name to a recipe file, or to a block; `from: FILE` in a block takes the rest from it.",
    )
    mitigations: Annotated[
        dict[str, MitigationSpec], Names, keyed_by("method", dict[str, str | MitigationSpec] | list[str])
    ] = Field(default_factory=plain_training, min_length=1, description="Name to method, or to a block.")
    seeds: Annotated[list[int], AfterValidator(different_seeds)] = Field(
        [0], min_length=1, description="Each draws the order of the samples and new weights."
    )
    only: list[OnlySpec] = Field(
        default_factory=list, description="Leave out the combinations that none of these names; empty: all are trained."
    )
    then: list[StageSpec] = Field(
        default_factory=list, description="Further stages, each trained from the output of the one before."
    )
    tokens: TokensSpec = TokensSpec()
    resources: TrainingResourcesSpec = TrainingResourcesSpec()
    run: TrainingRunSpec
