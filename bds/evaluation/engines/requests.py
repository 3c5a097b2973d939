"""The bodies of requests that the transformers server understands. Any other field is refused: none is ignored."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bds.evaluation.engines.openai import Refusal

_MOST_ALTERNATIVES = 20

_Tokens = Annotated[list[int], Field(min_length=1)]
_Body = TypeVar("_Body", bound=BaseModel)


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] = Field(default_factory=list)
    n: Literal[1] = 1
    stream: Literal[False] = False

    @property
    def stops(self) -> list[str]:
        """The texts that end an answer."""
        found = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [text for text in found if text]


class CompletionRequest(_Request):
    """The body of /v1/completions."""

    prompt: str | _Tokens | list[str] | list[_Tokens] = Field(min_length=1)
    max_tokens: int = Field(16, ge=0)
    echo: bool = False
    logprobs: int | None = Field(None, ge=0, le=_MOST_ALTERNATIVES)

    @property
    def prompts(self) -> list[str | list[int]]:
        several = isinstance(self.prompt, list) and not isinstance(self.prompt[0], int)
        return list(self.prompt) if several else [self.prompt]  # type: ignore[arg-type, list-item]


class ChatTurn(BaseModel):
    """One message."""

    role: str
    content: str


class ChatRequest(_Request):
    """The body of /v1/chat/completions."""

    messages: list[ChatTurn] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=_MOST_ALTERNATIVES)


def understood(kind: type[_Body], body: dict[str, Any]) -> _Body:
    """The body as a request of that kind. Raises Refusal, which names the field and never quotes its content."""
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise Refusal(400, f"the field '{field}' cannot be used here: {first['msg']}") from None
