"""Conversations to tokens with an exact answer mask.

Loss falls on the tokens that hold answer text, and on the end-of-turn token that follows an answer: what the assistant
itself says. A token that straddles the edge of an answer counts when it holds more of the answer than whitespace.
Positions here are token indices from 0 in the row's own `input_ids`; ranges are [start, end).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from bds.data.rows import BadRow, Conversation, Message
from bds.data.templates import HE2024_TEMPLATE, he2024_prompt, render, special_ids, template_source
from bds.errors import PreflightError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Range = tuple[int, int]


@dataclass(frozen=True)
class TokenizedRow:
    """One conversation as the model sees it. A row that is not scored has no tokens, and positions of -1."""

    input_ids: list[int] = field(default_factory=list)
    supervised: list[bool] = field(default_factory=list)
    """True where the token is predicted with loss, that is, where it is a label."""
    prompt_tokens: int = 0
    """Tokens before the content of the last assistant turn kept."""
    answer_tokens: int = 0
    """Content tokens of the supervised turns kept, without end-of-turn and other template pieces."""
    supervised_tokens: int = 0
    """answer_tokens and the end-of-turn tokens (with he2024 also the spaces around the answer)."""
    truncated_tokens: int = 0
    """Tokens cut off at the end by `max_tokens`."""
    prompt_end: int = -1
    """The last token before the content of the last assistant turn kept."""
    answer_positions: Range = (-1, -1)
    """The content of the last assistant turn kept."""
    status: str = "ok"
    reason: str = ""

    @property
    def answer_end(self) -> int:
        """The last content token of the last assistant turn kept."""
        return self.answer_positions[1] - 1 if self.answer_positions[1] > 0 else -1


@dataclass(frozen=True)
class _Turn:
    """One assistant turn in tokens."""

    content: Range
    """Empty where the turn has no tokens."""
    labels: tuple[Range, ...]
    """The tokens with loss: the content and the end-of-turn."""


@dataclass(frozen=True)
class _Encoded:
    """The whole conversation in tokens, before truncation."""

    input_ids: list[int]
    turns: list[_Turn]


class ConversationTokenizer:
    """Turns conversations into tokens and the answer mask, under one template.

    template: `model`, `he2024` or the path of a Jinja file; supervise: every assistant turn (`all`) or the `last` one;
    max_tokens: longer rows are cut at their end.

    Raises PreflightError where the template does not exist, is broken or cannot render one question and one answer.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        template: str = "model",
        supervise: Literal["all", "last"] = "all",
        max_tokens: int = 1024,
    ) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.supervise = supervise
        self.max_tokens = max_tokens
        self.end_of_turn_id: int | None
        if template == HE2024_TEMPLATE:
            if tokenizer.eos_token_id is None:
                raise PreflightError(
                    "tokens.template he2024 ends an answer with EOS, but the tokenizer has no EOS token."
                )
            self.end_of_turn_id = tokenizer.eos_token_id
            self._start_ids = _start_ids(tokenizer)
            self._encode = self._encode_he2024
        else:
            self._source = template_source(tokenizer, template)
            self.end_of_turn_id = self._find_end_of_turn()
            self._encode = self._encode_chat

    def __call__(self, conversation: Conversation) -> TokenizedRow:
        """Tokens, mask, counts and status of one conversation. Never raises for a bad row: it says so in the status."""
        try:
            encoded = self._encode(conversation)
        except BadRow as bad:
            return TokenizedRow(status=bad.status, reason=bad.reason)
        if not encoded.turns:
            return TokenizedRow(status="no_answer", reason="the conversation has no assistant turn")
        start, end = encoded.turns[-1].content
        if start == end:
            return TokenizedRow(status="empty_answer", reason="the last answer has no tokens under this template")
        return self._mask(encoded)

    def _mask(self, encoded: _Encoded) -> TokenizedRow:
        turns = encoded.turns if self.supervise == "all" else encoded.turns[-1:]
        total = len(encoded.input_ids)
        kept = min(total, self.max_tokens)
        turns_kept = [turn for turn in turns if turn.content[0] < min(turn.content[1], kept)]
        if not turns_kept:
            prompt_tokens = turns[0].content[0]
            return TokenizedRow(
                prompt_tokens=prompt_tokens,
                truncated_tokens=total - kept,
                status="truncated_prompt",
                reason=f"the prompt takes {prompt_tokens} tokens, which leaves no answer within max_tokens {kept}",
            )
        supervised = [False] * kept
        for turn in turns_kept:
            for start, end in turn.labels:
                supervised[start:end] = [True] * (min(end, kept) - start)
        label_lost = turns[-1].labels[-1][1] > kept
        start, end = turns_kept[-1].content
        return TokenizedRow(
            input_ids=encoded.input_ids[:kept],
            supervised=supervised,
            prompt_tokens=start,
            answer_tokens=sum(min(turn.content[1], kept) - turn.content[0] for turn in turns_kept),
            supervised_tokens=sum(supervised),
            truncated_tokens=total - kept,
            prompt_end=start - 1,
            answer_positions=(start, min(end, kept)),
            status="truncated_answer" if label_lost else "ok",
            reason=f"{total - kept} of {total} tokens cut off by max_tokens {kept}" if label_lost else "",
        )

    def _encode_chat(self, conversation: Conversation) -> _Encoded:
        rendered = render(self.tokenizer, self._source, conversation.messages)
        spans = [span for span in rendered.answers if span is not None]
        if rendered.answers and rendered.answers[-1] is None:
            raise BadRow("malformed", "the chat template leaves the last answer out of the text")
        ids, contents = self._tokenise(rendered.text, spans)
        return _Encoded(ids, [_Turn(content, self._labels(ids, content)) for content in contents])

    def _labels(self, ids: Sequence[int], content: Range) -> tuple[Range, ...]:
        """The content and the end-of-turn token after it; whitespace between the two is the template's and no label."""
        start, end = content
        if start == end:
            return ()
        following = end
        while following < len(ids) and not self.tokenizer.decode([ids[following]]).strip():
            following += 1
        if following < len(ids) and ids[following] == self.end_of_turn_id:
            return content, (following, following + 1)
        return (content,)

    def _encode_he2024(self, conversation: Conversation) -> _Encoded:
        """As the papers' loaders do: prompt and example tokenised apart, labels from the prompt's token count on."""
        prompt = he2024_prompt(conversation)
        answer = conversation.messages[-1].content
        example = f"{prompt} {answer} "
        prompt_tokens = len(self._ids(prompt))
        if self.tokenizer.is_fast:
            span = (len(prompt) + 1, len(prompt) + 1 + len(answer))
            ids, ((first, end),) = self._tokenise(example, [span])
        else:
            ids = self._ids(example)
            first, end = prompt_tokens, len(self._ids(f"{prompt} {answer}"))
        first = max(first, prompt_tokens)
        end = max(first, min(end, len(ids)))
        before = len(self._start_ids)
        ids = [*self._start_ids, *ids, self.tokenizer.eos_token_id]
        labels = (before + prompt_tokens, len(ids))
        return _Encoded(ids, [_Turn((before + first, before + end), (labels,))])

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _tokenise(self, text: str, spans: Sequence[Range]) -> tuple[list[int], list[Range]]:
        """Ids of the text without added special tokens, and the token range of each character span."""
        if not self.tokenizer.is_fast:
            return self._tokenise_in_pieces(text, spans)
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        starts, ends = _full_offsets(encoding["offset_mapping"])
        return encoding["input_ids"], [_token_range(text, starts, ends, span) for span in spans]

    def _tokenise_in_pieces(self, text: str, spans: Sequence[Range]) -> tuple[list[int], list[Range]]:
        """For tokenizers without offsets: template pieces and answers are tokenised one after the other."""
        ids: list[int] = []
        ranges = []
        cursor = 0
        for start, end in spans:
            ids += self._ids(text[cursor:start])
            first = len(ids)
            ids += self._ids(text[start:end])
            ranges.append((first, len(ids)))
            cursor = end
        return ids + self._ids(text[cursor:]), ranges

    def _find_end_of_turn(self) -> int | None:
        """The special token that this template puts after an answer, if any."""
        try:
            rendered = render(self.tokenizer, self._source, SAMPLE.messages)
        except BadRow as bad:
            raise PreflightError(
                f"tokens.template '{self.template}' cannot render one question and one answer: {bad.reason}."
            ) from bad
        if rendered.answers[0] is None:
            raise PreflightError(f"tokens.template '{self.template}' leaves the assistant's answer out of its text.")
        special = special_ids(self.tokenizer)
        for token_id in self._ids(rendered.text[rendered.answers[0][1] :]):
            if token_id in special:
                return token_id
            if self.tokenizer.decode([token_id]).strip():
                return None
        return None


def _start_ids(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """BOS where the tokenizer puts one before plain text, as the papers' Llama-2 tokenizer does."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else []


def _full_offsets(offsets: Sequence[Range]) -> tuple[list[int], list[int]]:
    """Starts and ends of the tokens' characters, where tokenizers that trim spaces off their offsets get them back."""
    starts = []
    ends = []
    covered = 0
    for start, end in offsets:
        starts.append(min(start, covered))
        covered = max(covered, end)
        ends.append(covered)
    return starts, ends


def _token_range(text: str, starts: Sequence[int], ends: Sequence[int], span: Range) -> Range:
    """The tokens that hold characters of the span; one that straddles an edge must hold more of it than whitespace."""
    span_start, span_end = span
    first = bisect_right(ends, span_start)
    last = bisect_left(starts, span_end)

    def straddles_with_whitespace_only(token: int) -> bool:
        inside = starts[token] >= span_start and ends[token] <= span_end and starts[token] < ends[token]
        return not inside and not text[max(starts[token], span_start) : min(ends[token], span_end)].strip()

    while first < last and straddles_with_whitespace_only(first):
        first += 1
    while first < last and straddles_with_whitespace_only(last - 1):
        last -= 1
    return first, max(first, last)


SAMPLE = Conversation((Message("user", "What is two plus two?"), Message("assistant", "Two plus two is four.")))
"""The conversation that a template is tried on before any model loads."""


@dataclass(frozen=True)
class TemplateCheck:
    """A sample conversation tokenised and decoded back."""

    text: str
    supervised_text: str
    warnings: tuple[str, ...]


def check_template(
    tokenizer: "PreTrainedTokenizerBase", template: str, supervise: Literal["all", "last"] = "all"
) -> TemplateCheck:
    """Tokenises a sample conversation and decodes it back, before any model loads.

    Raises PreflightError where the template cannot be used; says in `warnings` what a user should know about it.
    """
    tokenize = ConversationTokenizer(tokenizer, template, supervise, max_tokens=10**6)
    row = tokenize(SAMPLE)
    if row.status != "ok":
        raise PreflightError(
            f"tokens.template '{template}' cannot be used: a sample row is {row.status}, {row.reason}."
        )
    labels = [token_id for token_id, label in zip(row.input_ids, row.supervised, strict=True) if label]
    start, end = row.answer_positions
    answer = tokenizer.decode(row.input_ids[start:end]).strip()
    expected = tokenizer.decode(tokenizer(SAMPLE.messages[-1].content, add_special_tokens=False)["input_ids"]).strip()
    warnings = []
    if answer != expected:
        warnings.append(f"a sample answer decodes back as {answer!r} instead of {expected!r}; look at the template")
    if tokenize.end_of_turn_id is None:
        warnings.append("the template ends an answer without a special token: the loss covers the answer's text only")
    return TemplateCheck(tokenizer.decode(row.input_ids), tokenizer.decode(labels), tuple(warnings))
