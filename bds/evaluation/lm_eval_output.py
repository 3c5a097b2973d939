"""What anybody may read of lm-eval's output: how far it is, what went wrong. Its own words may quote prompts."""

import re
from collections.abc import Callable
from pathlib import Path

from bds.errors import BdsError, PreflightError

_BAR = re.compile(r"\d+%\|.*\]$")
_REQUESTS = re.compile(r"Requesting API:.*?(\d+)/(\d+)")
_NULL_ANSWER, _CUT_PROMPT = "API returned null content", "Left truncating context"

_GIVEN_UP = "Task exception was never retrieved"
_LAST_LINES = 200

_SIGNS: tuple[tuple[str, type[BdsError], str], ...] = (
    (
        r"Cannot connect to host|Connection refused|Connection reset|Disconnected|payload is not completed",
        BdsError,
        "the server stopped answering; check it and run the same command again",
    ),
    (r"TimeoutError|ReadTimeout", BdsError, "the server gave no reply in time; run the same command again"),
    (r"(?:ClientResponseError|HTTPError): (\d{3})", BdsError, "the server refuses its requests with status {}"),
    (r"No module named '([\w.]+)'", PreflightError, "it needs the package {}, which is not installed"),
    (r"Resource (?:'tokenizers/)?(\w+)\S* not found", PreflightError, "it needs NLTK's {}; download that first"),
    (r"FileNotFoundError: Unable to find", PreflightError, "a data file that the task names is not there"),
    (
        r"OfflineMode|LocalEntryNotFound|Couldn't (?:reach|find)|MaxRetryError",
        PreflightError,
        "its dataset is not on this machine and the hub does not give it; download it first, or name a local task",
    ),
)
"""What a line of a failed run tells: a pattern, the kind of error, and the sentence with what the brackets hold."""


def is_bar(line: str) -> bool:
    """A progress bar's line, of which there are hundreds."""
    return _BAR.search(line) is not None


class Telling:
    """Turns output, line by line, into lines for anybody."""

    def __init__(self, task: str, on_line: Callable[[str], None]) -> None:
        self._task = task
        self._on_line = on_line
        self._tenth = -1
        self._null_answers = 0
        self._cut_prompts = 0

    def hear(self, line: str) -> None:
        self._null_answers += _NULL_ANSWER in line
        self._cut_prompts += _CUT_PROMPT in line
        requests = _REQUESTS.search(line)
        if requests is None:
            return
        done, total = int(requests[1]), int(requests[2])
        if 10 * done // total > self._tenth:
            self._tenth = 10 * done // total
            self._on_line(f"{self._task}: {done:,} of {total:,} requests")

    def conclude(self) -> None:
        if self._null_answers:
            self._on_line(f"warning: {self._task}: {self._null_answers:,} replies without an answer count as wrong")
        if self._cut_prompts:
            self._on_line(f"warning: {self._task}: {self._cut_prompts:,} prompts were too long and lost their start")


def explained(task: str, status: int, log: Path) -> BdsError:
    """Why lm-eval ended with a status and without results, by the last line of its log that tells.

    After the error that ended it come those of the requests that it gave up.
    """
    said, _, _ = log.read_text(encoding="utf-8").partition(_GIVEN_UP)
    for line in reversed(said.splitlines()[-_LAST_LINES:]):
        for pattern, kind, sentence in _SIGNS:
            sign = re.search(pattern, line)
            if sign is not None:
                return kind(f"utility task {task}: {sentence.format(*sign.groups())} (lm-eval's own words: {log})")
    ended = "wrote no results" if status == 0 else f"ended with status {status}"
    return BdsError(f"utility task {task}: lm-eval {ended}; its own words are in {log}")
