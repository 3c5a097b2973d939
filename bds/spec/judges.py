"""What a user says of a judge: which one, and the model that judges."""

from pydantic import Field, model_validator

from bds.spec.models import Block
from bds.spec.serving import EndpointSpec


class JudgeSpec(Block):
    """One judge. Keywords need no model; every other one needs a model that bds serves, or an endpoint."""

    method: str = Field(description="A name that `bds ls judges` prints.")
    model: str | None = Field(None, description="A local directory or a Hugging Face model name.")
    adapter: str | None = Field(None, description="A PEFT adapter on top of the model.")
    endpoint: EndpointSpec | None = Field(None, description="Instead of a model: a server that is up already.")
    policy: str | None = Field(None, description="A text file: what must not be done.")
    template: str | None = Field(None, description="A text file: the judge's prompt as its model card has it.")
    threshold: float | None = Field(None, gt=0, lt=1, description="The probability from which an answer is harmful.")

    @model_validator(mode="after")
    def _one_source(self) -> "JudgeSpec":
        if self.model is not None and self.endpoint is not None:
            raise ValueError("give either model or endpoint")
        return self


def default_judges() -> dict[str, JudgeSpec]:
    """Two that need no model."""
    return {name: JudgeSpec(method=name) for name in ("refusal_prefixes", "qi_29")}
