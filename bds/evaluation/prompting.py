"""From a suite's prompt to the request that asks it: as tokens by the condition's own template, or as messages."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bds.data.rows import Message
from bds.data.values import canonical_json
from bds.errors import PreflightError
from bds.evaluation.conditions import Condition
from bds.runs.messages import first_line
from bds.spec.evaluate import SamplingSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COMPLETIONS, CHAT = "/completions", "/chat/completions"


def conversation(prompt: Sequence[Message], system_prompt: str | None) -> list[dict[str, str]]:
    """The turns that are sent. A suite's own system turn stays, after the evaluation's."""
    turns = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    return turns + [{"role": message.role, "content": message.content} for message in prompt]


def sampling_fields(sampling: SamplingSpec, prompt_id: str, sample: int) -> dict[str, Any]:
    """The sampling part of a request. Each sample of each prompt has a seed of its own."""
    fields: dict[str, Any] = {"max_tokens": sampling.max_tokens, "temperature": sampling.temperature}
    if sampling.temperature > 0:
        drawn = hashlib.sha256(canonical_json([sampling.seed, prompt_id, sample])).digest()
        fields |= {"top_p": sampling.top_p, "seed": int.from_bytes(drawn[:4], "big") >> 1}
    return fields


class Renderer:
    """Renders prompts as the tokens that a served condition continues.

    Raises PreflightError where the condition has no tokenizer or no chat template that renders a prompt.
    """

    def __init__(self, condition: Condition, max_model_len: int | None) -> None:
        from transformers import AutoConfig, AutoTokenizer

        self._name = condition.name
        assert condition.path is not None, "an endpoint renders by itself"
        revision = condition.revision if condition.folder == condition.path else None
        try:
            self._tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                condition.folder, revision=revision
            )
            config = AutoConfig.from_pretrained(condition.path, revision=condition.revision)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PreflightError(
                f"condition {condition.name}: {condition.folder} has no usable tokenizer or configuration "
                f"({first_line(error)})"
            ) from error
        if self._tokenizer.chat_template is None:
            raise PreflightError(
                f"condition {condition.name}: {condition.folder} has no chat template; save one with its tokenizer"
            )
        positions = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
        lengths = [length for length in (positions, max_model_len) if length is not None]
        self.context = min(lengths) if lengths else None
        """Tokens of prompt and answer together; None where the model sets no limit."""
        self.stop_ids = _stop_ids(condition, self._tokenizer)

    def __call__(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The tokens up to where the answer begins."""
        try:
            text = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template is a program of its author's and raises what it likes
            raise PreflightError(
                f"condition {self._name}: its chat template cannot render a prompt ({first_line(error)})"
            ) from error
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def _stop_ids(condition: Condition, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """What ends an answer: by the checkpoint's generation config, else the tokenizer's end token."""
    from transformers import GenerationConfig

    try:
        stops = GenerationConfig.from_pretrained(condition.path, revision=condition.revision).eos_token_id
    except OSError:
        stops = None
    if stops is None:
        stops = tokenizer.eos_token_id
    return [] if stops is None else [stops] if isinstance(stops, int) else list(stops)
