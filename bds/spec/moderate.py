"""What a user asks of a moderation: judges of the answers in a dataset, and what runs the judges' models."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from bds.spec.finetune import Names, keyed, keyed_by
from bds.spec.judges import JudgeSpec
from bds.spec.models import Block, DataSpec, ResourcesSpec

AUDIT_FOLDER = "moderation"
"""Of an audit's run directory: where its moderation is."""


class JudgeEngineSpec(Block):
    """What runs the models that judge. What is changed here may change the last bits of a probability."""

    name: Literal["auto", "vllm", "transformers"] = Field(
        "auto", description="auto: vLLM where it is installed, else transformers. --local is always transformers."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: float32 on a CPU, the checkpoint's own on a GPU."
    )
    max_model_len: int = Field(
        8192,
        ge=8,
        description="Tokens of a request and its reply; a longer row gets no verdict. Never above the model's.",
    )
    kv_cache_gib: int = Field(1, ge=1, description="Of main memory for vLLM's cache, where there is no GPU.")
    engine_args: dict[str, Any] = Field(default_factory=dict, description="Any other argument of vLLM's engine.")


class ModerationRunSpec(Block):
    """Where the moderation lives and when it counts as failed."""

    dir: str | None = Field(
        None, description="The run directory: a path or any pyarrow.fs URI. Left out beside `audit`, whose it is."
    )
    rows_per_shard: int = Field(256, ge=1, description="Of `data`; the rows of an audit stay as the audit cut them.")
    max_failed_fraction: float = Field(
        0.01, ge=0, le=1, description="More answers without a verdict, by any judge, end with exit code 4."
    )


class ModerateSpec(Block):
    """Every judge judges the last answer of every row."""

    api_version: Literal["bds/v1"] = "bds/v1"
    kind: Literal["moderate"] = "moderate"
    name: str = "moderation"
    data: DataSpec | None = None
    audit: str | None = Field(None, description="Instead of data: the run directory of a finished audit.")
    judges: Annotated[dict[str, JudgeSpec], Names, keyed_by("method", dict[str, str | JudgeSpec] | list[str])] = Field(
        min_length=1, description="Name to a judge that needs no model, or to a block with method and model."
    )
    engine: Annotated[
        JudgeEngineSpec,
        BeforeValidator(lambda value: keyed(value, "name"), json_schema_input_type=str | JudgeEngineSpec),
    ] = JudgeEngineSpec()
    resources: ResourcesSpec = ResourcesSpec()
    run: ModerationRunSpec = ModerationRunSpec()

    @model_validator(mode="after")
    def _one_source(self) -> "ModerateSpec":
        if (self.data is None) == (self.audit is None):
            raise ValueError("give either data or audit")
        if (self.audit is None) == (self.run.dir is None):
            raise ValueError("data goes with run.dir, and audit without it: it is written into the audit's directory")
        return self

    @property
    def run_dir(self) -> str:
        """Where everything is written."""
        return self.run.dir if self.run.dir is not None else f"{str(self.audit).rstrip('/')}/{AUDIT_FOLDER}"
