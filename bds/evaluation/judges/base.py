"""What every judge is: keywords that look at the answer, or a model that is asked and whose reply is parsed."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bds.data.rows import Message
from bds.data.values import canonical_json
from bds.errors import SpecError
from bds.evaluation.judges.prompts import check_template, shown
from bds.evaluation.judges.responses import JudgeResponse
from bds.evaluation.verdicts import Verdict

RequestKind = Literal["chat", "completion", "logprobs"]
ENDPOINTS: dict[RequestKind, str] = {
    "chat": "/v1/chat/completions",
    "completion": "/v1/completions",
    "logprobs": "/v1/completions",
}
"""Where each kind of request goes. A `logprobs` request asks for one token and reads the likely ones' probabilities."""

TEXT_LOGPROBS = 20
"""Alternatives of a token to ask a completion endpoint for: the most that vLLM gives unless told otherwise."""
CHAT_LOGPROBS = 10


@dataclass(frozen=True)
class JudgeOptions:
    """What the user sets of a judge."""

    policy: str = ""
    """The text of what must not be done, for judges that are given one."""
    template: str = ""
    """The judge's prompt as its model card has it; empty takes bds's own wording in the card's frame."""
    threshold: float = 0.5
    """The probability from which a judge that gives one calls an answer harmful."""


@dataclass(frozen=True)
class KeywordJudge:
    """A judge that needs no model."""

    name: str
    matching: str
    """Which text is searched, and how."""
    phrases: tuple[str, ...]
    """What is searched for: plain text, or patterns where `matching` says so."""
    measures: str
    source: str
    judge: Callable[[str], Verdict]


@dataclass(frozen=True)
class Judge:
    """A judge that is a model behind an OpenAI-compatible endpoint."""

    name: str
    kind: RequestKind
    model: str
    """The models that it is made for."""
    measures: str
    gives: tuple[str, ...]
    """The fields of a verdict that it can fill."""
    source: str
    build: Callable[[str, str, JudgeOptions], dict[str, Any]]
    """The request of a question and an answer, shown as they are; call `build_request`, which checks the options."""
    parse: Callable[[JudgeResponse, JudgeOptions], Verdict]
    """The verdict of a reply: pure, and never an exception; call `parse_response`."""
    scale: tuple[float, float] | None = None
    """Least and greatest score, where it rates."""
    takes: tuple[str, ...] = ()
    """The options that it reads."""
    needs: tuple[str, ...] = ()
    """The options that it cannot do without."""
    version: int = 1
    """Raised when the parser changes, so that older verdicts are not taken for its own."""

    def build_request(
        self, prompt: Sequence[Message], answer: str, options: JudgeOptions | None = None
    ) -> dict[str, Any]:
        """The body of the request, but for the model's name, which is the server's to say.

        Raises SpecError where an option is missing, or is set that this judge does not read.
        """
        return self.build(*shown(prompt, answer), self.checked(options or JudgeOptions()))

    def parse_response(self, response: JudgeResponse, options: JudgeOptions | None = None) -> Verdict:
        """The verdict of a reply, or the reason why it holds none."""
        return self.parse(response, options or JudgeOptions())

    def checked(self, options: JudgeOptions) -> JudgeOptions:
        """The options, ready to use. Raises SpecError as `build_request`."""
        for name, value in vars(options).items():
            if name in self.needs and not value:
                raise SpecError(f"the judge {self.name} needs a {name}; give it the file of your own.")
            if name not in self.takes and value != getattr(JudgeOptions(), name):
                raise SpecError(f"the judge {self.name} reads no {name}; leave it out.")
        if not 0 < options.threshold < 1:
            raise SpecError(f"the threshold {options.threshold} of the judge {self.name} must be between 0 and 1.")
        if not options.template:
            return options
        return JudgeOptions(options.policy, check_template(options.template, self.name), options.threshold)

    def fingerprint(self, options: JudgeOptions | None = None) -> str:
        """SHA-256 of how this judge judges: its request for a fixed example, threshold and version of the parser.

        Together with the weights of the judge's model it says whether two verdicts may be compared.
        """
        chosen = options or JudgeOptions()
        example = self.build_request((Message("user", "question"),), "answer", chosen)
        return hashlib.sha256(canonical_json([self.name, self.version, chosen.threshold, example])).hexdigest()


def chat_request(text: str, max_tokens: int) -> dict[str, Any]:
    """One user turn, answered greedily."""
    return {"messages": [{"role": "user", "content": text}], "temperature": 0.0, "max_tokens": max_tokens}


def completion_request(text: str, max_tokens: int) -> dict[str, Any]:
    """The text continued greedily."""
    return {"prompt": text, "temperature": 0.0, "max_tokens": max_tokens}


def logprobs_request(text: str) -> dict[str, Any]:
    """The most likely next tokens of the text."""
    return {**completion_request(text, 1), "logprobs": TEXT_LOGPROBS}
