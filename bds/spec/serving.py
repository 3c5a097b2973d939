"""How models are served, and the servers that users have already."""

from typing import Any, Literal

from pydantic import Field, model_validator

from bds.spec.models import Block


class EndpointSpec(Block):
    """An OpenAI-compatible server that is up already."""

    url: str = Field(description="Up to and with /v1.", pattern=r"^https?://")
    model: str = Field(description="The name that the server knows it by.")
    api_key_env: str | None = Field(None, description="The environment variable that holds the key.")
    version: str | None = Field(
        None,
        description="Says which weights answer. Left out, their replies to fixed probes do: a server that replies "
        "differently each time needs it.",
    )
    max_concurrent: int = Field(16, ge=1, description="Requests in flight.")
    timeout_seconds: float = Field(300.0, gt=0, description="For one reply.")


class ServingSpec(Block):
    """How bds serves the models of a spec. What is changed here may change the last bits of an answer."""

    engine: Literal["auto", "vllm", "transformers"] = Field(
        "auto", description="auto: vLLM where it is installed, else transformers."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: float32 on a CPU, bfloat16 on a GPU."
    )
    max_model_len: int | None = Field(None, ge=8, description="Tokens of prompt and answer; left out: the model's own.")
    max_concurrent: int = Field(64, ge=1, description="Requests in flight on one replica.")
    replicas: int = Field(1, ge=1, description="Engines of one model, at least.")
    max_replicas: int | None = Field(None, ge=1, description="More than replicas: added while requests queue.")
    gpus_per_replica: float | Literal["auto"] = Field("auto", description="auto: 1 where the cluster has GPUs, else 0.")
    cpus_per_replica: int = Field(1, ge=1)
    tensor_parallel: int = Field(1, ge=1, description="GPUs that one engine is spread over.")
    memory_share: float = Field(0.9, gt=0, le=1, description="Of a GPU's memory that an engine takes.")
    kv_cache_gib: int = Field(1, ge=1, description="Of main memory for the cache, where there is no GPU.")
    max_loras: int = Field(8, ge=2, description="Adapters that one engine holds at a time.")
    engine_args: dict[str, Any] = Field(default_factory=dict, description="Any other argument of vLLM's engine.")

    @model_validator(mode="after")
    def _range(self) -> "ServingSpec":
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError("max_replicas is below replicas")
        return self
