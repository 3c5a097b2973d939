"""A judge's request as the tokens that its model continues, as an OpenAI-compatible server would make them.

Ray Data LLM's own stages do it otherwise, so they are left out. Its chat template stage takes a conversation that ends
with an assistant turn for an answer to go on with and cuts off what a guard's template writes after it, which is the
question put to the guard; its tokenize stage puts a second start token before a rendered template.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bds.data.rows import Message
from bds.errors import PreflightError
from bds.evaluation.judges import Judge, JudgeOptions, JudgeResponse
from bds.runs.messages import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = Message("user", "A probing question")
_PROBED = "a probed answer"


@dataclass(frozen=True)
class JudgePrompt:
    """What the model is given and what is asked of it."""

    token_ids: list[int]
    max_tokens: int
    logprobs: int
    """Likely alternatives of every token of the reply; 0 for none."""


class PromptWriter:
    """Requests of one judge to prompts for its model.

    Raises PreflightError where the model's chat template is missing or does not show the question and the answer.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", judge: Judge, options: JudgeOptions, window: int) -> None:
        """
        Args:
            window: tokens of a prompt and its reply together.
        """
        self._tokenizer = tokenizer
        self._window = window
        self._in_parts = False
        if judge.kind == "chat":
            self._in_parts = self._choose_parts(judge.build_request((_PROBE,), _PROBED, options))

    def __call__(self, request: Mapping[str, Any]) -> JudgePrompt | JudgeResponse:
        """The prompt, or the failed reply to a request that is too long for the model."""
        ids = self._token_ids(request)
        room = int(request["max_tokens"])
        if len(ids) + room > self._window:
            return JudgeResponse(
                error=f"the request has {len(ids):,} tokens and the reply may have {room:,}, more than the judge's "
                f"{self._window:,} (engine.max_model_len)"
            )
        asked = request.get("top_logprobs", request.get("logprobs", 0))
        return JudgePrompt(ids, room, int(asked))

    def _token_ids(self, request: Mapping[str, Any]) -> list[int]:
        if "messages" not in request:
            ids: list[int] = self._tokenizer(request["prompt"])["input_ids"]
            return ids
        text = self._rendered(request, in_parts=self._in_parts)
        # The template writes the start token itself.
        rendered: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return rendered

    def _choose_parts(self, request: Mapping[str, Any]) -> bool:
        """Whether the template takes a turn's content as a list of parts, as those of multimodal models do."""
        if self._tokenizer.chat_template is None:
            raise PreflightError("its tokenizer has no chat template; take the model that this judge is made for")
        reason = "it leaves the question or the answer out"
        for in_parts in (False, True):
            try:
                shown = self._rendered(request, in_parts=in_parts)
            except Exception as error:  # a template raises what its author wrote into it
                reason = first_line(error)
                continue
            if _PROBE.content in shown and _PROBED in shown:
                return in_parts
        raise PreflightError(
            f"its chat template shows no exchange to judge ({reason}); take the model that this judge is made for"
        )

    def _rendered(self, request: Mapping[str, Any], *, in_parts: bool) -> str:
        messages: Sequence[Mapping[str, Any]] = request["messages"]
        if in_parts:
            messages = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in messages]
        text: str = self._tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True, **request.get("chat_template_kwargs", {})
        )
        return text
