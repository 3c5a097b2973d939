"""What a user says of the prompts: where they are and how to read them."""

from typing import Any, Literal

from pydantic import Field, model_validator

from bds.spec.models import Block

PLACEHOLDER = "placeholder"


class SuiteSpec(Block):
    """Prompts: a suite's folder, published files, or a list of one's own."""

    path: str | None = Field(None, description="The folder or file.")
    format: str = Field("auto", description="auto, placeholder, folder, or a name that `bds ls suites` prints.")
    only: str | None = Field(None, description="One of the suites, where the files hold several.")
    limit: int | None = Field(None, ge=1, description="Only the first prompts of each suite.")
    name: str | None = Field(None, description="plain: the suite's name; left out: the file's.")
    kind: Literal["refuse", "answer", "utility"] | None = Field(
        None, description="plain: what a good model does with the prompts."
    )
    column: str | None = Field(None, description="plain: the column of the prompts.")
    id_column: str | None = Field(None, description="plain: the column of the ids.")
    category_column: str | None = Field(None, description="plain: the column of the categories.")
    source: str | None = Field(None, description="plain: where the prompts come from.")
    licence: str | None = Field(None, description="plain: under which terms you have them.")

    @model_validator(mode="after")
    def _has_a_source(self) -> "SuiteSpec":
        if (self.path is None) != (self.format == PLACEHOLDER):
            raise ValueError("give the path of the prompts, or `format: placeholder`, which has none")
        return self


def suites_of(value: Any) -> Any:
    """A string in the list is `placeholder` or a path."""
    if not isinstance(value, list):
        return value
    return [_block(entry) if isinstance(entry, str) else entry for entry in value]


def _block(entry: str) -> dict[str, str]:
    return {"format": entry} if entry == PLACEHOLDER else {"path": entry}
