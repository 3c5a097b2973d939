"""The text that a judge is shown: the question and the answer fenced off, so that neither can speak for the judge."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from bds.data.rows import Message
from bds.errors import PreflightError, SpecError
from bds.evaluation.suites.suite import conversation_text

_CONTROL_TOKENS = re.compile(
    r"\[/?INST\]|<</?SYS>>|</?s>|<[be]os>|<(?:start|end)_of_turn>|</?guardian>|</?score>|</?think>"
    r"|<\|[^\s|<>]{1,40}\|>|<｜[^\s｜<>]{1,40}｜>",
    re.IGNORECASE,
)
"""What chat templates put between turns, and guards around a verdict."""

_SLOTS = {
    "prompt": "prompt",
    "behavior": "prompt",
    "forbidden_prompt": "prompt",
    "answer": "answer",
    "generation": "answer",
    "response": "answer",
    "policy": "policy",
    "guideline": "policy",
    "mark": "mark",
}
"""What a template may call the question, the answer, the policy and the mark that fences them off."""
_SLOT = re.compile(r"\{(" + "|".join(_SLOTS) + r")\}")


def without_control_tokens(text: str) -> str:
    """The text with a space for every control token of a chat template.

    A model whose answer ends its own turn and writes the judge's would otherwise decide the verdict (HarmBench #91).
    """
    return _CONTROL_TOKENS.sub(" ", text)


def shown(prompt: Sequence[Message], answer: str) -> tuple[str, str]:
    """The question and the answer as a judge is shown them."""
    return without_control_tokens(conversation_text(prompt)), without_control_tokens(answer)


def fence(prompt: str, answer: str) -> str:
    """A mark to put around the question and the answer, which neither can hold: it is made of the hash of both."""
    return hashlib.sha256(f"{prompt}\0{answer}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def filled(template: str, *, prompt: str, answer: str, policy: str = "") -> str:
    """A template with its slots filled in one pass, so that an answer which holds a slot's name stays as it is."""
    values = {"prompt": prompt, "answer": answer, "policy": policy, "mark": fence(prompt, answer)}
    return _SLOT.sub(lambda match: values[_SLOTS[match[1]]], template)


def check_template(template: str, name: str) -> str:
    """A template of the user's for a judge, without the start token that the server adds itself.

    Raises SpecError where it has no slot for the question or for the answer.
    """
    held = {_SLOTS[match[1]] for match in _SLOT.finditer(template)}
    for needed in ("prompt", "answer"):
        if needed not in held:
            names = " or ".join(f"{{{slot}}}" for slot, value in _SLOTS.items() if value == needed)
            raise SpecError(
                f"the template of the judge {name} has no slot for the {needed}; write {names} where it goes."
            )
    return re.sub(r"^(?:<s>|<bos>)", "", template)


def read_prompt_file(path: str, what: str) -> str:
    """The text of a policy or a template that the user supplies.

    Raises PreflightError where there is no such file, SpecError where it is empty or no UTF-8 text.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise PreflightError(f"the {what} {path} cannot be read ({error.strerror}); check the path.") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"the {what} {path} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from error
    if not text.strip():
        raise SpecError(f"the {what} {path} is empty; write it, or leave it out.")
    return text
